//! Versions of mirrored rows, in tables of their own (`NXT_HISTORY`).
//!
//! After rows were written or removed, the versions of their keys are brought in line with the mirror, in the same
//! transaction: an open version that is no longer what the mirror has is closed, and a living row without an open version
//! gets one. So it does not matter how a row came to be what it is, and a table that is mirrored already begins its history
//! by the same two statements. All of it is done under the target's lock.

mod begin;
mod statement;
mod table;

use std::collections::HashSet;

use sqlx::{Arguments, AssertSqlSafe, PgConnection};

pub(super) use statement::history as table_name;
pub(super) use table::align;

use super::{
    Carried, Mirror, MirrorError, arrays,
    error::failed,
    read::index,
    write::{JOIN_AS_BEFORE, LOOK_UP_EACH, ROWS_MAX, set_joins},
};
use crate::domain::{RowKey, SourceTime, TableSpec, TargetTable};

/// A key whose row was written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched<'a> {
    /// The key.
    pub key: &'a RowKey,
    /// Who changed the row, as far as its notification tells.
    pub changed_by: Option<&'a str>,
    /// When the source deleted the row, where it did and that is known.
    pub deleted_at: Option<SourceTime>,
}

impl Mirror {
    /// Whether the versions of a table's rows are kept.
    pub fn has_history(&self, table: &TableSpec) -> bool {
        self.history.includes(&table.name)
    }

    /// Brings the versions of these keys in line with the mirrored rows, no key twice. To be called under the target's
    /// lock.
    pub async fn keep_versions(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        touched: &[Touched<'_>],
    ) -> Result<(), MirrorError> {
        if touched.is_empty() || !self.has_history(&target.table) {
            return Ok(());
        }
        let kept = keep(connection, target, touched, self.is_distributed(&target.table)).await;
        kept.map_err(failed("keep versions", target, Carried::Rows))
    }
}

async fn keep(
    connection: &mut PgConnection,
    target: &TargetTable,
    touched: &[Touched<'_>],
    is_distributed: bool,
) -> Result<(), sqlx::Error> {
    set_joins(connection, touched.len(), LOOK_UP_EACH).await?;
    let mut seen = HashSet::with_capacity(touched.len());
    let touched: Vec<&Touched<'_>> = touched.iter().filter(|touched| seen.insert(touched.key)).collect();
    for batch in touched.chunks(ROWS_MAX) {
        let different = close(connection, target, batch, is_distributed).await?;
        open(connection, target, batch, &different, is_distributed).await?;
    }
    set_joins(connection, seen.len(), JOIN_AS_BEFORE).await
}

/// Closes open versions that are not what the mirror has. Returns for each key in which columns its row differs, where
/// it lives on.
async fn close(
    connection: &mut PgConnection,
    target: &TargetTable,
    touched: &[&Touched<'_>],
    is_distributed: bool,
) -> Result<Vec<Option<String>>, sqlx::Error> {
    let keys: Vec<&RowKey> = touched.iter().map(|touched| touched.key).collect();
    let mut arguments = arrays::of_tenant(target)?;
    let deleted_at: Vec<_> = touched.iter().map(|touched| touched.deleted_at).collect();
    arguments.add(deleted_at).map_err(sqlx::Error::Encode)?;
    arrays::add_keys(&mut arguments, &target.table, &keys)?;
    let sql = statement::close(&target.table, is_distributed);
    let closed: Vec<(i64, Option<Vec<String>>)> =
        sqlx::query_as_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await?;
    let mut different = vec![None; touched.len()];
    for (position, columns) in closed {
        if let Some(place) = index(position).and_then(|index| different.get_mut(index)) {
            *place = columns.map(|columns| columns.join(","));
        }
    }
    Ok(different)
}

/// Opens versions of living rows that have none.
async fn open(
    connection: &mut PgConnection,
    target: &TargetTable,
    touched: &[&Touched<'_>],
    different: &[Option<String>],
    is_distributed: bool,
) -> Result<(), sqlx::Error> {
    let keys: Vec<&RowKey> = touched.iter().map(|touched| touched.key).collect();
    let mut arguments = arrays::of_tenant(target)?;
    let changed_by: Vec<_> = touched.iter().map(|touched| touched.changed_by).collect();
    arguments.add(changed_by).map_err(sqlx::Error::Encode)?;
    arguments.add(different.to_vec()).map_err(sqlx::Error::Encode)?;
    arrays::add_keys(&mut arguments, &target.table, &keys)?;
    let sql = statement::open(&target.table, is_distributed);
    sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map(drop)
}
