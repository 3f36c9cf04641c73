//! Mirrored tables: made when first needed, given new columns, never robbed of one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::Mutex;

use super::{identifier::SCHEMA, statement};
use crate::{
    config::Deletes,
    domain::{Column, ColumnType, TableSpec},
    failpoint::Failpoint,
};

/// How long a change of a table waits for its lock. Readers queue behind it meanwhile.
const LOCK_TIMEOUT: &str = "2s";
/// How often a change that did not get its lock is tried.
const LOCK_TRIES_MAX: u32 = 5;

/// Why a table cannot be mirrored as described. Concerns that table alone.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A column's type in the source no longer fits the column in the mirror.
    #[error(
        "column {table}.{column} is {actual} in the mirror but {expected} in the source now; change its type by hand"
    )]
    TypeChanged {
        /// The mirrored table.
        table: String,
        /// The column.
        column: String,
        /// Its type in the mirror.
        actual: String,
        /// The type it would need.
        expected: &'static str,
    },
    /// The key in the source is not the primary key of the mirror.
    #[error(
        "table {table} has primary key ({actual}) in the mirror but ({expected}) by its description; set NXT_KEYS or drop the mirrored table"
    )]
    KeyChanged {
        /// The mirrored table.
        table: String,
        /// Columns of the mirror's primary key.
        actual: String,
        /// Columns of the described key.
        expected: String,
    },
    /// A statement failed.
    #[error("table {table} cannot be brought in line with the source")]
    Sql {
        /// The mirrored table.
        table: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

/// Writes mirrored tables.
#[derive(Debug, Clone)]
pub struct Replica {
    pool: PgPool,
    deletes: Deletes,
    /// Descriptions that the tables are known to be in line with, by SQL name.
    ready: Arc<Mutex<HashMap<String, Arc<TableSpec>>>>,
}

impl Replica {
    /// A replica in this database.
    pub fn new(pool: PgPool, deletes: Deletes) -> Self {
        Self { pool, deletes, ready: Arc::default() }
    }

    pub(super) fn deletes(&self) -> Deletes {
        self.deletes
    }

    /// Makes sure that the table exists and has every described column.
    pub async fn ensure(&self, spec: &Arc<TableSpec>) -> Result<(), SchemaError> {
        let mut ready = self.ready.lock().await;
        if ready.get(&spec.sql_name).is_some_and(|known| known == spec) {
            return Ok(());
        }
        let mut tries = 1;
        loop {
            match self.bring_in_line(spec).await {
                Err(SchemaError::Sql { source, .. }) if is_lock_timeout(&source) && tries < LOCK_TRIES_MAX => {
                    tracing::warn!(row.table = %spec.name, tries, "table is busy, its change waits");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                result => {
                    result?;
                    break;
                }
            }
        }
        ready.insert(spec.sql_name.clone(), Arc::clone(spec));
        Ok(())
    }

    /// The descriptions that the tables were last brought in line with, by an earlier run or another replica. One that
    /// cannot be read is left out: the table will be described anew.
    pub async fn descriptions(&self) -> Result<Vec<TableSpec>, SchemaError> {
        let specs: Vec<serde_json::Value> = sqlx::query_scalar("select spec from nxt_mirror.mirrored_table")
            .fetch_all(&self.pool)
            .await
            .map_err(|source| SchemaError::Sql { table: "nxt_mirror.mirrored_table".into(), source })?;
        Ok(specs.into_iter().filter_map(|spec| serde_json::from_value(spec).ok()).collect())
    }

    async fn bring_in_line(&self, spec: &TableSpec) -> Result<(), SchemaError> {
        let failed = |source| SchemaError::Sql { table: spec.sql_name.clone(), source };
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let connection = &mut *transaction;
        execute(connection, format!("set local lock_timeout = '{LOCK_TIMEOUT}'")).await.map_err(failed)?;
        // Replicas that need the same table at the same moment make it one after the other.
        sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 1))")
            .bind(&spec.sql_name)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        let existing = columns(connection, spec).await.map_err(failed)?;
        if existing.is_empty() {
            execute(connection, statement::create(spec)).await.map_err(failed)?;
            if let Some(index) = statement::create_spelling_index(spec) {
                execute(connection, index).await.map_err(failed)?;
            }
            tracing::info!(row.table = %spec.name, columns = spec.columns.len(), "mirrored table made");
        } else {
            check_key(connection, spec).await?;
            for column in missing(spec, &existing)? {
                execute(connection, statement::add_column(spec, column)).await.map_err(failed)?;
                tracing::info!(row.table = %spec.name, column = column.sql_name, "column added");
            }
        }
        let gone = vanished(spec, &existing);
        if let Some(note) = &gone {
            tracing::warn!(row.table = %spec.name, columns = note, "columns are no longer shown by the API and are kept");
        }
        remember(connection, spec, gone).await.map_err(failed)?;
        Failpoint::TableMade.pass();
        transaction.commit().await.map_err(failed)?;
        Failpoint::TableReady.pass();
        Ok(())
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// Columns of the mirrored table and their types; empty when there is no such table.
async fn columns(connection: &mut PgConnection, spec: &TableSpec) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "select attname::text, format_type(atttypid, atttypmod) from pg_attribute
          where attrelid = to_regclass($1) and attnum > 0 and not attisdropped order by attnum",
    )
    .bind(statement::table(spec))
    .fetch_all(connection)
    .await
}

/// Described columns that the table lacks. Fails on one whose type in the table cannot hold its values.
fn missing<'a>(spec: &'a TableSpec, existing: &[(String, String)]) -> Result<Vec<&'a Column>, SchemaError> {
    let mut missing = Vec::new();
    for column in &spec.columns {
        match existing.iter().find(|(name, _)| *name == column.sql_name) {
            None => missing.push(column),
            Some((_, actual)) if holds(actual, column.kind) => {}
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

/// Whether a column of type `actual` holds every value of `kind` without loss.
fn holds(actual: &str, kind: ColumnType) -> bool {
    let wider: &[&str] = match kind {
        ColumnType::SmallInt => &["integer", "bigint", "numeric"],
        ColumnType::Integer => &["bigint", "numeric"],
        ColumnType::BigInt => &["numeric"],
        ColumnType::Numeric
        | ColumnType::Text
        | ColumnType::Boolean
        | ColumnType::TimestampTz
        | ColumnType::Timestamp
        | ColumnType::Date => &[],
    };
    actual == kind.sql() || wider.contains(&actual)
}

fn vanished(spec: &TableSpec, existing: &[(String, String)]) -> Option<String> {
    let gone: Vec<_> = existing
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !name.starts_with('_') && spec.columns.iter().all(|column| column.sql_name != *name))
        .collect();
    (!gone.is_empty()).then(|| gone.join(", "))
}

async fn check_key(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), SchemaError> {
    let actual: Vec<String> = sqlx::query_scalar(
        "select a.attname::text
           from pg_index i, unnest(i.indkey::int[]) with ordinality as k (attnum, position), pg_attribute a
          where i.indrelid = to_regclass($1) and i.indisprimary
            and a.attrelid = i.indrelid and a.attnum = k.attnum
          order by k.position",
    )
    .bind(statement::table(spec))
    .fetch_all(connection)
    .await
    .map_err(|source| SchemaError::Sql { table: spec.sql_name.clone(), source })?;
    let expected = statement::primary_key(spec);
    if actual == expected {
        return Ok(());
    }
    Err(SchemaError::KeyChanged {
        table: format!("{SCHEMA}.{}", spec.sql_name),
        actual: actual.join(", "),
        expected: expected.join(", "),
    })
}

async fn remember(connection: &mut PgConnection, spec: &TableSpec, gone: Option<String>) -> Result<(), sqlx::Error> {
    let note = gone.map(|columns| format!("no longer shown by the API, kept here: {columns}"));
    sqlx::query(
        "insert into nxt_mirror.mirrored_table (table_name, spec, note) values ($1, $2, $3)
         on conflict on constraint mirrored_table_pkey
         do update set spec = excluded.spec, described_at = now(), note = excluded.note",
    )
    .bind(spec.name.as_str())
    .bind(sqlx::types::Json(spec))
    .bind(note)
    .execute(connection)
    .await
    .map(drop)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
