//! What was set aside, and the ways back.

use serde::Serialize;
use sqlx::{FromRow, PgConnection, PgPool};

use super::QueueError;
use crate::domain::{TableName, Tenant, Time};

/// One entry.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// `body` for one that was not understood, `row` for one that could not be mirrored.
    pub kind: String,
    /// Why it is here.
    pub reason: String,
    /// Failures before it was set aside.
    pub attempts: i32,
    /// When it was set aside first.
    pub first_at: Time,
    /// When it was set aside last.
    pub last_at: Time,
    /// Whose row, such as `company 2000001`.
    pub tenant: Option<String>,
    /// Of which table.
    pub table_name: Option<String>,
    /// Which row.
    pub row_key: Option<String>,
    /// Id of the delivery, of a body.
    pub delivery_id: Option<String>,
    /// The latest notification, of a row.
    pub notification_id: Option<i64>,
}

const COLUMNS: &str = "id, kind, reason, attempts, first_at, last_at, tenant_kind || ' ' || tenant_no as tenant, \
                       table_name, row_key, delivery_id, notification_id";

/// All entries, oldest first.
pub async fn list(pool: &PgPool) -> Result<Vec<DeadLetter>, QueueError> {
    let sql = format!("select {COLUMNS} from nxt_mirror.dead_letter order by id");
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.map_err(QueueError::on("list dead letters"))
}

/// One entry and, for a body, its bytes.
pub async fn show(pool: &PgPool, id: i64) -> Result<Option<(DeadLetter, Option<Vec<u8>>)>, QueueError> {
    let sql = format!("select {COLUMNS} from nxt_mirror.dead_letter where id = $1");
    let letter: Option<DeadLetter> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .fetch_optional(pool)
        .await
        .map_err(QueueError::on("read a dead letter"))?;
    let Some(letter) = letter else { return Ok(None) };
    let body = sqlx::query_scalar("select body from nxt_mirror.dead_letter where id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("read a dead letter"))?;
    Ok(Some((letter, body)))
}

/// Makes rows dirty again with all that was known of them. To be put behind a `letters` that says which, and removes
/// their letters.
const RETRY: &str = "
insert into nxt_mirror.dirty_row as d
    (tenant_kind, tenant_no, table_name, row_key, due_at, waiting_since, notification_id,
     deleted_at, delete_received_at, announced, changed_at)
select tenant_kind, tenant_no, table_name, row_key, now(), now(), notification_id,
       deleted_at, delete_received_at, announced, changed_at
  from letters order by tenant_kind, tenant_no, table_name, row_key
on conflict on constraint dirty_row_pkey do update set
    generation = d.generation + 1, due_at = case when d.claim_id is null then now() else d.due_at end,
    attempts = 0, lane_failures = 0, announced = d.announced or excluded.announced,
    deleted_at = greatest(d.deleted_at, excluded.deleted_at),
    delete_received_at = greatest(d.delete_received_at, excluded.delete_received_at)";
/// Letters that come back by themselves in one transaction; the rest follows with the next.
const REVIVED_MAX: i64 = 5_000;

/// Makes rows dirty again with all that was known of them, and removes their letters. Bodies are left alone. Returns
/// how many rows there were.
pub async fn retry_rows(connection: &mut PgConnection, ids: &[i64]) -> Result<u64, QueueError> {
    let sql = format!(
        "with letters as (delete from nxt_mirror.dead_letter where id = any($1) and kind = 'row' returning *) {RETRY}"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(ids)
        .execute(connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(QueueError::on("retry dead letters"))
}

/// A table of a tenant can be read: its rows that were set aside while it could not are tried again.
pub async fn revive_lane(connection: &mut PgConnection, tenant: Tenant, table: &TableName) -> Result<(), QueueError> {
    let sql = format!(
        "with letters as (
             delete from nxt_mirror.dead_letter where id = any(array(
                 select id from nxt_mirror.dead_letter
                  where kind = 'row' and of_lane and (tenant_kind, tenant_no, table_name) = ($1, $2, $3)
                  order by id limit $4 for update skip locked))
             returning *) {RETRY}"
    );
    let revived = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(tenant.kind())
        .bind(tenant.number())
        .bind(table.as_str())
        .bind(REVIVED_MAX)
        .execute(connection)
        .await
        .map_err(QueueError::on("retry dead letters"))?
        .rows_affected();
    if revived > 0 {
        tracing::info!(%tenant, row.table = %table, rows = revived, "the table can be read again, rows leave the dead letters");
    }
    Ok(())
}

/// Removes letters for good. Returns how many there were.
pub async fn remove(connection: &mut PgConnection, ids: &[i64]) -> Result<u64, QueueError> {
    sqlx::query("delete from nxt_mirror.dead_letter where id = any($1)")
        .bind(ids)
        .execute(connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(QueueError::on("remove dead letters"))
}
