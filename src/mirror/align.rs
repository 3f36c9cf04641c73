//! Bringing one table in line with its description: made when it is missing, given new columns, never robbed of one.

use std::sync::Arc;

use sqlx::{Acquire, AssertSqlSafe, PgConnection, PgPool, types::Json};

use super::{
    Mirror, SchemaError, clause, cluster,
    error::{is_full, is_lock_timeout},
    history,
    identifier::Identifier,
    schema, widen,
};
use crate::{
    domain::{Column, TableSpec},
    failpoint::Failpoint,
};

/// A replica that makes the same table is waited for; what it waits for itself is shorter.
const BEGIN: &str = "begin; set local lock_timeout = '3s'";
/// How long a change of a table waits for its lock. Readers queue behind it meanwhile.
pub(super) const LOCK_TIMEOUT: &str = "set local lock_timeout = '500ms'";

impl Mirror {
    /// The descriptions that the tables were last brought in line with, by an earlier run or another replica. One that
    /// cannot be read is left out: the table will be described anew.
    pub async fn descriptions(&self) -> Result<Vec<TableSpec>, SchemaError> {
        let specs: Vec<Json<serde_json::Value>> =
            sqlx::query_scalar!(r#"select spec as "spec: _" from nxt_mirror.mirrored_table"#)
                .fetch_all(&self.pool)
                .await
                .map_err(|source| SchemaError::of("nxt_mirror.mirrored_table", source))?;
        Ok(specs.into_iter().filter_map(|Json(spec)| serde_json::from_value(spec).ok()).collect())
    }
}

/// What a table was found or made to be.
pub(super) struct Alignment {
    /// The description that it is in line with.
    pub(super) effective: Arc<TableSpec>,
    /// Whether that has every column, in its full width.
    pub(super) is_complete: bool,
    /// Whether its rows are distributed over several nodes.
    pub(super) is_distributed: bool,
}

/// Brings a table in line. The description that it is in line with is the same one, but for columns that are mirrored
/// under another name already, and without those that could not be added because somebody is at the table or it is
/// full.
pub(super) async fn align(pool: &PgPool, spec: &Arc<TableSpec>, has_history: bool) -> Result<Alignment, SchemaError> {
    let failed = |source| SchemaError::of(&spec.sql_name, source);
    check_width(spec)?;
    let mut transaction = pool.begin_with(BEGIN).await.map_err(failed)?;
    lock(&mut transaction, spec).await.map_err(failed)?;
    check_name(&mut transaction, spec).await?;
    let has_nodes = cluster::has_nodes(&mut transaction).await.map_err(failed)?;
    let existing = columns(&mut transaction, &clause::table(spec)).await.map_err(failed)?;
    let previous = remembered(&mut transaction, spec).await.map_err(failed)?;
    let spec = &schema::with_known_names(spec, previous.as_ref());
    let mut left_out = if existing.is_empty() {
        forget_rows(&mut transaction, spec).await.map_err(failed)?;
        create(&mut transaction, spec, has_nodes).await.map_err(failed)?;
        vec![]
    } else {
        extend(&mut transaction, spec, &existing).await?
    };
    let narrow = widen::widen(&mut transaction, spec, has_history).await.map_err(failed)?;
    let is_distributed =
        has_nodes && cluster::is_distributed(&mut transaction, &clause::table(spec)).await.map_err(failed)?;
    if has_history {
        left_out.extend(history::align(&mut transaction, spec, is_distributed).await?);
    }
    let (_, is_same) = recognize(&mut transaction, spec).await.map_err(failed)?;
    let is_incomplete =
        |previous: &TableSpec| has_lost(previous, spec, &existing, &left_out) || has_new_extensions(previous, spec);
    if !is_same || previous.as_ref().is_some_and(is_incomplete) {
        have_loaded_anew(&mut transaction, spec).await.map_err(failed)?;
    }
    announce(&mut transaction, spec, previous.as_ref()).await.map_err(failed)?;
    let note = note(spec, &existing, previous.as_ref(), &left_out, &narrow);
    remember(&mut transaction, spec, note).await.map_err(failed)?;
    widen::remember(&mut transaction, spec, &narrow).await.map_err(failed)?;
    Failpoint::TableMade.pass();
    transaction.commit().await.map_err(failed)?;
    Failpoint::TableReady.pass();
    let is_complete = left_out.is_empty() && narrow.is_empty();
    let effective = match left_out.as_slice() {
        [] => Arc::clone(spec),
        left_out => Arc::new(spec.without(|column| left_out.contains(&column))),
    };
    Ok(Alignment { effective, is_complete, is_distributed })
}

fn check_width(spec: &TableSpec) -> Result<(), SchemaError> {
    match spec.columns.len() {
        columns if columns > schema::COLUMNS_MAX => {
            Err(SchemaError::TooManyColumns { table: spec.sql_name.clone(), columns, max: schema::COLUMNS_MAX })
        }
        _ => Ok(()),
    }
}

/// The table that was mirrored first under a name keeps it, also while it is gone.
async fn check_name(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), SchemaError> {
    let level = spec.level.name();
    let other = sqlx::query!(
        "select table_name, spec ->> 'level' as level from nxt_mirror.mirrored_table
          where spec ->> 'sql_name' = $1 and (table_name <> $2 or spec ->> 'level' <> $3)
          order by table_name limit 1",
        &spec.sql_name,
        spec.name.as_str(),
        level
    )
    .fetch_optional(connection)
    .await
    .map_err(|source| SchemaError::of(&spec.sql_name, source))?;
    let Some(other) = other else { return Ok(()) };
    let (table, name) = (clause::table(spec), spec.name.to_string());
    let (other, other_level) = (other.table_name, other.level.unwrap_or_default());
    Err(SchemaError::NameTaken { table, name, level, other, other_level })
}

/// Replicas that need the same table at the same moment make it one after the other.
pub(super) async fn lock(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 1))", &spec.sql_name)
        .execute(connection)
        .await
        .map(drop)
}

/// Columns of a table or view and their types; empty when there is none.
pub(super) async fn columns(
    connection: &mut PgConnection,
    relation: &str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let columns = sqlx::query!(
        r#"select attname::text as "name!", format_type(atttypid, atttypmod) as "type_name!" from pg_attribute
            where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum"#,
        relation
    )
    .fetch_all(connection)
    .await?;
    Ok(columns.into_iter().map(|column| (column.name, column.type_name)).collect())
}

async fn create(connection: &mut PgConnection, spec: &TableSpec, has_nodes: bool) -> Result<(), sqlx::Error> {
    create_schema(connection, "business_nxt").await?;
    execute(connection, schema::create(spec)).await?;
    if let Some(index) = schema::create_spelling_index(spec) {
        execute(connection, index).await?;
    }
    if has_nodes {
        cluster::distribute(connection, &clause::table(spec), spec.level.tenant_column()).await?;
    }
    tracing::info!(row.table = %spec.name, columns = spec.columns.len(), "mirrored table made");
    Ok(())
}

/// Only where it was dropped: `if not exists` would need rights that it does not need otherwise. Who was let in is let in
/// there, too.
pub(super) async fn create_schema(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    let exists: bool = sqlx::query_scalar!(r#"select to_regnamespace($1) is not null as "exists!""#, schema)
        .fetch_one(&mut *connection)
        .await?;
    if exists {
        return Ok(());
    }
    execute(&mut *connection, format!("create schema {}", Identifier(schema))).await?;
    sqlx::query!("call nxt_mirror.give_common_rights()").execute(connection).await.map(drop)
}

/// Adds the columns that the table lacks. Returns those that could not be added now.
async fn extend<'a>(
    connection: &mut PgConnection,
    spec: &'a TableSpec,
    existing: &[(String, String)],
) -> Result<Vec<&'a Column>, SchemaError> {
    check_key(connection, spec).await?;
    let missing = missing(spec, existing)?;
    if missing.is_empty() {
        return Ok(missing);
    }
    match add(connection, schema::add_columns(spec, &missing)).await {
        Ok(()) => {
            tracing::info!(row.table = %spec.name, columns = names(&missing), "columns added");
            Ok(vec![])
        }
        Err(error) if is_lock_timeout(&error) => {
            tracing::warn!(row.table = %spec.name, columns = names(&missing), "table is in use, columns are added later");
            Ok(missing)
        }
        Err(error) if is_full(&error) => {
            tracing::warn!(row.table = %spec.name, columns = names(&missing), "table is full, columns are left out");
            Ok(missing)
        }
        Err(error) => Err(SchemaError::of(&spec.sql_name, error)),
    }
}

/// In a savepoint, so that the transaction can go on without.
pub(super) async fn add(connection: &mut PgConnection, add_columns: String) -> Result<(), sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *savepoint).await?;
    match execute(&mut savepoint, add_columns).await {
        Ok(()) => savepoint.commit().await,
        Err(error) => {
            savepoint.rollback().await?;
            Err(error)
        }
    }
}

/// Whether the table or a column of it was gone that is there again now, empty.
fn has_lost(previous: &TableSpec, spec: &TableSpec, existing: &[(String, String)], left_out: &[&Column]) -> bool {
    let was_there = |column: &Column| previous.columns.iter().any(|known| known.sql_name == column.sql_name);
    let is_gone = |column: &Column| existing.iter().all(|(name, _)| *name != column.sql_name);
    let is_back = |column: &Column| left_out.iter().all(|left_out| left_out.sql_name != column.sql_name);
    spec.columns.iter().any(|column| was_there(column) && is_gone(column) && is_back(column))
}

/// Whether the settings name columns of the customer's own that they did not name before. The source has long had values
/// in them.
fn has_new_extensions(previous: &TableSpec, spec: &TableSpec) -> bool {
    let mut extensions = spec.columns.iter().filter(|column| column.extension.is_some());
    let has = |column: &Column| {
        previous.columns.iter().any(|known| known.name == column.name && known.extension == column.extension)
    };
    extensions.any(|column| !has(column))
}

/// Whether there is such a table, and whether it is the one that was last brought in line. From here on it is.
pub(super) async fn recognize(connection: &mut PgConnection, spec: &TableSpec) -> Result<(bool, bool), sqlx::Error> {
    let found = sqlx::query!(
        r#"with known as (select table_name, relation from nxt_mirror.mirrored_table where table_name = $1),
              found as (select to_regclass($2)::oid as relation),
              noted as (update nxt_mirror.mirrored_table as mirrored set relation = found.relation
                          from known, found
                         where mirrored.table_name = known.table_name
                           and known.relation is distinct from found.relation)
         select found.relation is not null as "is_there!",
                known.relation is not distinct from found.relation as "is_same!"
           from known, found"#,
        spec.name.as_str(),
        clause::table(spec)
    )
    .fetch_optional(connection)
    .await?;
    // One that was never made has lost nothing.
    Ok(found.map_or((false, true), |found| (found.is_there, found.is_same)))
}

/// Columns that are new to the table are announced as a notification would: a worker whose description lacks them
/// renews it before it writes another row. Otherwise a row that it brings after a walk would stay without until the next.
async fn announce(
    connection: &mut PgConnection,
    spec: &TableSpec,
    previous: Option<&TableSpec>,
) -> Result<(), sqlx::Error> {
    let Some(previous) = previous else { return Ok(()) };
    let is_new = |column: &&Column| previous.columns.iter().all(|known| known.name != column.name);
    let new: Vec<&str> = spec.columns.iter().filter(is_new).map(|column| column.name.as_str()).collect();
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into nxt_mirror.announced_column (table_name, column_name)
         select $1, column_name from unnest($2::text[]) as new (column_name)
         on conflict on constraint announced_column_pkey do nothing",
        spec.name.as_str(),
        &new as _
    )
    .execute(connection)
    .await
    .map(drop)
}

/// There is no such table, so that no target has rows.
pub(super) async fn forget_rows(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"update nxt_mirror.target set rows = 0
            where tenant_kind = $1 and lower(table_name) = lower($2 collate "C") and rows <> 0"#,
        spec.level.name(),
        spec.name.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Walks are begun anew, and until they have come to their end nobody is told that the table is whole.
pub(super) async fn have_loaded_anew(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    tracing::warn!(row.table = %spec.name, "what is missing of the mirrored table is loaded anew");
    sqlx::query!(
        r#"delete from nxt_mirror.walk using nxt_mirror.target
            where target.id = walk.target_id and target.tenant_kind = $1
              and lower(target.table_name) = lower($2 collate "C")"#,
        spec.level.name(),
        spec.name.as_str()
    )
    .execute(connection)
    .await
    .map(drop)
}

pub(super) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await.map(drop)
}

async fn check_key(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), SchemaError> {
    let actual: Vec<String> = sqlx::query_scalar!(
        r#"select a.attname::text as "name!"
             from pg_index i, unnest(i.indkey::int[]) with ordinality as k (attnum, position), pg_attribute a
            where i.indrelid = to_regclass($1) and i.indisprimary
              and a.attrelid = i.indrelid and a.attnum = k.attnum
            order by k.position"#,
        clause::table(spec)
    )
    .fetch_all(connection)
    .await
    .map_err(|source| SchemaError::of(&spec.sql_name, source))?;
    let expected = clause::primary_key(spec);
    if actual == expected {
        return Ok(());
    }
    let table = clause::table(spec);
    Err(SchemaError::KeyChanged { table, actual: actual.join(", "), expected: expected.join(", ") })
}

/// Described columns that the table lacks. Fails on one whose type in the table cannot hold its values.
pub(super) fn missing<'a>(spec: &'a TableSpec, existing: &[(String, String)]) -> Result<Vec<&'a Column>, SchemaError> {
    let mut missing = Vec::new();
    for column in &spec.columns {
        match existing.iter().find(|(name, _)| *name == column.sql_name) {
            None => missing.push(column),
            // A narrower one holds most values.
            Some((_, actual)) if schema::holds(actual, column.kind) || schema::widens(actual, column.kind) => {}
            Some((_, actual)) => {
                return Err(SchemaError::TypeChanged {
                    table: spec.sql_name.clone(),
                    column: column.sql_name.clone(),
                    actual: actual.clone(),
                    expected: column.kind.sql(),
                });
            }
        }
    }
    Ok(missing)
}

/// What people should know of a table: columns that it has and the source does not, and the other way round.
fn note(
    spec: &TableSpec,
    existing: &[(String, String)],
    previous: Option<&TableSpec>,
    left_out: &[&Column],
    narrow: &[&Column],
) -> Option<String> {
    let is_described = |spec: &TableSpec, name: &str| spec.columns.iter().any(|column| column.sql_name == name);
    let kept: Vec<&str> = existing
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !name.starts_with('_') && !is_described(spec, name))
        .collect();
    let vanished: Vec<&str> =
        kept.iter().copied().filter(|name| previous.is_some_and(|previous| is_described(previous, name))).collect();
    if !vanished.is_empty() {
        let columns = vanished.join(", ");
        tracing::warn!(row.table = %spec.name, columns, "columns are no longer shown by the API and are kept");
    }
    let kept = (!kept.is_empty()).then(|| format!("not shown by the API, kept here: {}", kept.join(", ")));
    let later = (!left_out.is_empty())
        .then(|| format!("to be added when nobody holds a lock on the table and it has room: {}", names(left_out)));
    let narrow =
        (!narrow.is_empty()).then(|| format!("narrower than in the source (see nxt-mirror doctor): {}", names(narrow)));
    let notes: Vec<String> = kept.into_iter().chain(later).chain(narrow).collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

pub(super) fn names(columns: &[&Column]) -> String {
    columns.iter().map(|column| column.sql_name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The description that the table was last brought in line with; `None` when there was none, or one that cannot be read.
pub(super) async fn remembered(
    connection: &mut PgConnection,
    spec: &TableSpec,
) -> Result<Option<TableSpec>, sqlx::Error> {
    let found: Option<Json<serde_json::Value>> = sqlx::query_scalar!(
        r#"select spec as "spec: _" from nxt_mirror.mirrored_table where table_name = $1"#,
        spec.name.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.and_then(|Json(spec)| serde_json::from_value(spec).ok()))
}

async fn remember(connection: &mut PgConnection, spec: &TableSpec, note: Option<String>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.mirrored_table as known (table_name, spec, note, relation)
         values ($1, $2, $3, to_regclass($4)::oid)
         on conflict on constraint mirrored_table_pkey
         do update set spec = excluded.spec, described_at = now(), note = excluded.note
          where row(known.spec, known.note) is distinct from row(excluded.spec, excluded.note)",
        spec.name.as_str(),
        Json(spec) as _,
        note,
        clause::table(spec)
    )
    .execute(connection)
    .await
    .map(drop)
}
