//! How far a walk has come, and which keys it has met.

use sqlx::{PgConnection, PgPool};

use super::Target;
use crate::domain::{KeyValue, RowKey, Time};

/// What a walk is for; each has its own checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Load,
    Sweep,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Sweep => "sweep",
        }
    }
}

/// A walk under way.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    pub(super) started_at: Time,
    pub(super) position: Option<RowKey>,
    pub(super) rows_walked: i64,
    /// Whether a walk of this purpose ever came to the end.
    pub(super) finished_before: bool,
}

type Columns = (Time, Option<serde_json::Value>, Option<Time>, i64, Option<Time>);

/// Takes up a walk that was interrupted, or begins a new one.
pub(super) async fn begin(pool: &PgPool, target: &Target, purpose: Purpose) -> Result<Checkpoint, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let (kind, number, table) = parts(target);
    let existing: Option<Columns> = sqlx::query_as(
        "select started_at, position, finished_at, rows_walked, last_finished_at from nxt_mirror.checkpoint
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4) for update",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some((started_at, position, None, rows_walked, last_finished_at)) = &existing {
        let position = position.as_ref().and_then(read_key);
        let finished_before = last_finished_at.is_some();
        return Ok(Checkpoint { started_at: *started_at, position, rows_walked: *rows_walked, finished_before });
    }
    forget_seen(&mut transaction, target, purpose).await?;
    let started_at: Time = sqlx::query_scalar(
        "insert into nxt_mirror.checkpoint (tenant_kind, tenant_no, table_name, purpose, started_at)
         values ($1, $2, $3, $4, clock_timestamp())
         on conflict on constraint checkpoint_pkey
         do update set started_at = excluded.started_at, position = null, finished_at = null, rows_walked = 0
         returning started_at",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .fetch_one(&mut *transaction)
    .await?;
    sqlx::query(
        "insert into nxt_mirror.mirrored_tenant (tenant_kind, tenant_no, table_name) values ($1, $2, $3)
         on conflict do nothing",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let finished_before = existing.is_some_and(|(.., last_finished_at)| last_finished_at.is_some());
    Ok(Checkpoint { started_at, position: None, rows_walked: 0, finished_before })
}

/// Records a page, in the transaction that applies it.
pub(super) async fn advance(
    connection: &mut PgConnection,
    target: &Target,
    purpose: Purpose,
    keys: &[RowKey],
    position: Option<&RowKey>,
) -> Result<(), sqlx::Error> {
    let (kind, number, table) = parts(target);
    let texts: Vec<String> = keys.iter().map(key_text).collect();
    sqlx::query(
        "insert into nxt_mirror.walk_seen (tenant_kind, tenant_no, table_name, purpose, row_key)
         select $1, $2, $3, $4, unnest($5::text[]) on conflict do nothing",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .bind(&texts)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update nxt_mirror.checkpoint set position = $5, rows_walked = rows_walked + $6
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .bind(position.map(|key| sqlx::types::Json(key.values().to_vec())))
    .bind(i64::try_from(keys.len()).unwrap_or(i64::MAX))
    .execute(connection)
    .await
    .map(drop)
}

/// The walk has come to the end of the table.
pub(super) async fn finish(
    connection: &mut PgConnection,
    target: &Target,
    purpose: Purpose,
) -> Result<(), sqlx::Error> {
    let (kind, number, table) = parts(target);
    forget_seen(connection, target, purpose).await?;
    sqlx::query(
        "update nxt_mirror.checkpoint set finished_at = now(), last_finished_at = now(), note = null
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .execute(connection)
    .await
    .map(drop)
}

/// Keys met so far, as JSON lists.
pub(super) async fn seen(
    connection: &mut PgConnection,
    target: &Target,
    purpose: Purpose,
    among: &[RowKey],
) -> Result<Vec<RowKey>, sqlx::Error> {
    let (kind, number, table) = parts(target);
    let texts: Vec<String> = among.iter().map(key_text).collect();
    let met: Vec<String> = sqlx::query_scalar(
        "select row_key from nxt_mirror.walk_seen
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4) and row_key = any($5)",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .bind(&texts)
    .fetch_all(connection)
    .await?;
    Ok(met.iter().filter_map(|text| read_key(&serde_json::from_str(text).ok()?)).collect())
}

async fn forget_seen(connection: &mut PgConnection, target: &Target, purpose: Purpose) -> Result<(), sqlx::Error> {
    let (kind, number, table) = parts(target);
    sqlx::query(
        "delete from nxt_mirror.walk_seen where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)",
    )
    .bind(kind)
    .bind(number)
    .bind(table)
    .bind(purpose.name())
    .execute(connection)
    .await
    .map(drop)
}

fn parts(target: &Target) -> (&'static str, i64, &str) {
    (target.tenant.kind(), target.tenant.number(), target.table.name.as_str())
}

fn key_text(key: &RowKey) -> String {
    serde_json::to_string(key).expect("strings and integers always serialise")
}

fn read_key(json: &serde_json::Value) -> Option<RowKey> {
    let values = json.as_array()?.iter().map(KeyValue::from_json).collect::<Option<Vec<_>>>()?;
    Some(RowKey::from_values(values))
}
