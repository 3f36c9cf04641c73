//! Writing and removing mirrored rows, in the transaction that settles them.

use std::collections::HashSet;

use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};

use super::{
    Carried, Mirror, MirrorError, arrays, cluster,
    error::failed,
    read::{index, read_key},
    statement,
};
use crate::{
    config::Deletes,
    domain::{DatabaseTime, Row, RowKey, SourceTime, TargetTable, Value},
};

/// Rows of one statement.
pub(super) const ROWS_MAX: usize = 5_000;
/// Rows for which a small table may as well be read as a whole.
const FEW_ROWS: usize = 50;
/// A middling table would be read as a whole for many rows, which takes longer than to look up each of them.
pub(super) const LOOK_UP_EACH: &str = "set local enable_hashjoin = off; set local enable_mergejoin = off";
pub(super) const JOIN_AS_BEFORE: &str = "set local enable_hashjoin to default; set local enable_mergejoin to default";
/// Bytes of text that travel with one statement, a longer row aside.
const BYTES_MAX: usize = 16 << 20;

/// A row to write.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The row.
    pub row: &'a Row,
    /// Start of the request that brought it.
    pub started_at: DatabaseTime,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
    /// Whether its key is known to be mirrored, by [`Mirror::known`] under the same lock.
    pub is_mirrored: bool,
}

/// What became of a row that was to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It was not there, or deleted softly.
    Inserted,
    /// It was there and different in these columns, by their mirrored names.
    Updated(Vec<String>),
    /// It was there as it is, and was not touched.
    Unchanged,
}

/// A row to remove.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Its key.
    pub key: RowKey,
    /// When the source deleted it.
    pub deleted_at: SourceTime,
}

impl Mirror {
    /// Writes rows of one target, no key twice. What is already as fetched is neither written nor locked. Returns what
    /// became of each.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        rows: &[Fetched<'_>],
    ) -> Result<Vec<Written>, MirrorError> {
        let mut written = vec![Written::Unchanged; rows.len()];
        let (mirrored, new): (Vec<_>, Vec<_>) = rows.iter().enumerate().partition(|(_, fetched)| fetched.is_mirrored);
        let updated = update_all(connection, target, &mirrored, self.is_distributed(&target.table)).await;
        for (place, columns) in updated.map_err(failed("update rows", target, Carried::Rows))? {
            written[place] = Written::Updated(columns);
        }
        let inserted = insert_all(connection, target, &new, self.is_distributed(&target.table)).await;
        for place in inserted.map_err(failed("insert rows", target, Carried::Rows))? {
            written[place] = Written::Inserted;
        }
        Ok(written)
    }

    /// Removes rows of one target, or marks them deleted. Returns the keys of those that were there.
    pub async fn remove(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        removals: &[Removal],
    ) -> Result<HashSet<RowKey>, MirrorError> {
        let removed = remove_all(connection, target, removals, self.deletes, self.is_distributed(&target.table)).await;
        removed.map_err(failed("remove rows", target, Carried::Rows))
    }
}

/// Places of the rows that were different, and the columns in which they were.
async fn update_all(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[Placed<'_, '_>],
    is_distributed: bool,
) -> Result<Vec<(usize, Vec<String>)>, sqlx::Error> {
    let mut updated = vec![];
    set_joins(connection, rows.len(), LOOK_UP_EACH).await?;
    for batch in batches(rows) {
        let (places, rows): (Vec<usize>, Vec<&Fetched<'_>>) = batch.iter().copied().unzip();
        let found = update(connection, target, &rows, is_distributed).await?;
        updated.extend(found.into_iter().map(|(index, columns)| (places[index], columns)));
    }
    set_joins(connection, rows.len(), JOIN_AS_BEFORE).await?;
    Ok(updated)
}

/// Places of the rows that were not there, or deleted or different.
async fn insert_all(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[Placed<'_, '_>],
    is_distributed: bool,
) -> Result<Vec<usize>, sqlx::Error> {
    let mut inserted = vec![];
    for batch in batches(rows) {
        let (places, rows): (Vec<usize>, Vec<&Fetched<'_>>) = batch.iter().copied().unzip();
        inserted
            .extend(insert(connection, target, &rows, is_distributed).await?.into_iter().map(|index| places[index]));
    }
    Ok(inserted)
}

/// Keys of the rows that were there.
async fn remove_all(
    connection: &mut PgConnection,
    target: &TargetTable,
    removals: &[Removal],
    deletes: Deletes,
    is_distributed: bool,
) -> Result<HashSet<RowKey>, sqlx::Error> {
    let mut removed = HashSet::new();
    set_joins(connection, removals.len(), LOOK_UP_EACH).await?;
    for batch in removals.chunks(ROWS_MAX) {
        let positions = remove(connection, target, batch, deletes, is_distributed).await?;
        removed.extend(positions.into_iter().filter_map(index).map(|index| batch[index].key.clone()));
    }
    set_joins(connection, removals.len(), JOIN_AS_BEFORE).await?;
    Ok(removed)
}

/// Sets how the transaction joins, where the rows are many.
pub(super) async fn set_joins(
    connection: &mut PgConnection,
    rows: usize,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    if rows > FEW_ROWS { sqlx::raw_sql(sql).execute(connection).await.map(drop) } else { Ok(()) }
}

/// Indexes of the rows that were different, and the columns in which they were.
async fn update(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[&Fetched<'_>],
    is_distributed: bool,
) -> Result<Vec<(usize, Vec<String>)>, sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arrays::add_bookkeeping(&mut arguments, rows)?;
    arrays::add_rows(&mut arguments, &target.table, &source_rows(rows))?;
    let sql = statement::update(&target.table, is_distributed);
    let found: Vec<(i64, Vec<String>)> =
        sqlx::query_as_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await?;
    Ok(found.into_iter().filter_map(|(position, columns)| Some((index(position)?, columns))).collect())
}

/// Positions of the rows that were not there, or deleted or different.
async fn insert(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[&Fetched<'_>],
    is_distributed: bool,
) -> Result<Vec<usize>, sqlx::Error> {
    let mut keys = inserted(connection, target, rows, is_distributed).await?;
    // Nothing is inserted where the tenant has no place yet. By now another transaction may have given it one.
    if is_distributed && keys.is_empty() {
        cluster::place(connection, target.tenant.number()).await?;
        keys = inserted(connection, target, rows, is_distributed).await?;
    }
    if keys.len() == rows.len() {
        return Ok((0..rows.len()).collect());
    }
    let keys: HashSet<RowKey> = keys.iter().map(|row| read_key(row, &target.table)).collect::<Result<_, _>>()?;
    Ok((0..rows.len()).filter(|&index| keys.contains(&rows[index].row.key)).collect())
}

/// Rows that were inserted, by key.
async fn inserted(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[&Fetched<'_>],
    is_distributed: bool,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arrays::add_bookkeeping(&mut arguments, rows)?;
    arrays::add_rows(&mut arguments, &target.table, &source_rows(rows))?;
    let sql = statement::insert(&target.table, is_distributed);
    sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await
}

async fn remove(
    connection: &mut PgConnection,
    target: &TargetTable,
    removals: &[Removal],
    deletes: Deletes,
    is_distributed: bool,
) -> Result<Vec<i64>, sqlx::Error> {
    let keys: Vec<&RowKey> = removals.iter().map(|removal| &removal.key).collect();
    let mut arguments = arrays::of_tenant(target)?;
    if deletes == Deletes::Soft {
        arrays::add_times(&mut arguments, removals.iter().map(|removal| removal.deleted_at))?;
    }
    arrays::add_keys(&mut arguments, &target.table, &keys)?;
    let sql = match deletes {
        Deletes::Hard => statement::delete(&target.table, is_distributed),
        Deletes::Soft => statement::soft_delete(&target.table, is_distributed),
    };
    sqlx::query_scalar_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await
}

fn source_rows<'a>(rows: &[&Fetched<'a>]) -> Vec<&'a Row> {
    rows.iter().map(|fetched| fetched.row).collect()
}

type Placed<'a, 'b> = (usize, &'a Fetched<'b>);

/// Cuts rows into batches that a statement can carry.
fn batches<'s, 'a, 'b>(mut rows: &'s [Placed<'a, 'b>]) -> impl Iterator<Item = &'s [Placed<'a, 'b>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(index, (_, fetched)): &(usize, &Placed<'_, '_>)| {
            bytes += text_bytes(fetched.row);
            *index == 0 || (*index < ROWS_MAX && bytes <= BYTES_MAX)
        };
        let count = rows.iter().enumerate().take_while(fits).count();
        let (batch, rest) = rows.split_at(count);
        rows = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

fn text_bytes(row: &Row) -> usize {
    let bytes = |value: &Value| match value {
        Value::Text(text) | Value::Decimal(text) => text.len(),
        _ => 8,
    };
    row.values.iter().map(bytes).sum()
}
