//! Reading the ledger back: replay, and the story of one row.

use serde::Serialize;
use sqlx::{FromRow, PgPool};

use super::QueueError;
use crate::domain::{HintKey, TableName, Time};

/// Which notifications are replayed.
#[derive(Debug, Clone)]
pub struct ReplayRange {
    /// Received at or after.
    pub since: Time,
    /// Received before.
    pub until: Option<Time>,
    /// Only of this company.
    pub company: Option<i64>,
    /// Only of this table.
    pub table: Option<TableName>,
}

/// Marks the rows of stored notifications for another look. Nothing is announced by it: the source decides. Returns how
/// many rows were marked.
pub async fn replay(pool: &PgPool, range: &ReplayRange) -> Result<u64, QueueError> {
    sqlx::query(
        "insert into nxt_mirror.dirty_row as d
             (tenant_kind, tenant_no, table_name, row_key, priority, due_at, waiting_since, announced)
         select distinct tenant_kind, tenant_no, table_name, row_key, 1, now(), now(), false
           from nxt_mirror.notification
          where received_at >= $1 and ($2::timestamptz is null or received_at < $2)
            and ($3::bigint is null or (tenant_kind = 'company' and tenant_no = $3))
            and ($4::text is null or lower(table_name) = lower($4))
          order by tenant_kind, tenant_no, table_name, row_key
         on conflict on constraint dirty_row_pkey do update set generation = d.generation + 1",
    )
    .bind(range.since)
    .bind(range.until)
    .bind(range.company)
    .bind(range.table.as_ref().map(TableName::as_str))
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
    .map_err(QueueError::on("replay notifications"))
}

/// Something that is known of a row.
#[derive(Debug, Clone, Serialize, FromRow)]
pub struct Event {
    /// When, by the database's clock.
    pub at: Time,
    /// Whose row, such as `company 2000001`.
    pub tenant: String,
    /// `notification`, `sync`, `waiting`, `tombstone` or `dead letter`.
    pub source: String,
    /// What happened, in words.
    pub what: String,
    /// The notification, where one led to it.
    pub notification_id: Option<i64>,
    /// When the request started that told, where one did.
    pub fetch_started_at: Option<Time>,
}

/// Everything known of one row, in order. Reads the whole ledger, which has no index by row.
pub async fn explain(
    pool: &PgPool,
    table: &TableName,
    key: &HintKey,
    folded_key: Option<&str>,
    company: Option<i64>,
) -> Result<Vec<Event>, QueueError> {
    sqlx::query_as(
        "with events as (
            select received_at as at, tenant_kind, tenant_no, 'notification' as source,
                   event || coalesce(' of ' || coalesce(changed_at, deleted_at), '') || coalesce(' by ' || changed_by, '') as what,
                   id as notification_id, null::timestamptz as fetch_started_at
              from nxt_mirror.notification where lower(table_name) = lower($1) and row_key = $2
            union all
            select at, tenant_kind, tenant_no, 'sync', action || ': ' || reason, notification_id, fetch_started_at
              from nxt_mirror.sync_log where lower(table_name) = lower($1) and row_key = $2
            union all
            select waiting_since, tenant_kind, tenant_no, 'waiting',
                   'waits for a look, due ' || due_at || coalesce(', last error: ' || last_error, ''), notification_id, null
              from nxt_mirror.dirty_row where lower(table_name) = lower($1) and row_key = $2
            union all
            select received_at, tenant_kind, tenant_no, 'tombstone', 'deleted at ' || deleted_at, null, null
              from nxt_mirror.tombstone where lower(table_name) = lower($1) and folded_key = $4
            union all
            select last_at, tenant_kind, tenant_no, 'dead letter', 'set aside: ' || reason, notification_id, null
              from nxt_mirror.dead_letter where lower(table_name) = lower($1) and row_key = $2
         )
         select at, tenant_kind || ' ' || tenant_no as tenant, source, what, notification_id, fetch_started_at
           from events where $3::bigint is null or (tenant_kind = 'company' and tenant_no = $3)
          order by at, notification_id nulls last",
    )
    .bind(table.as_str())
    .bind(key.canonical())
    .bind(company)
    .bind(folded_key)
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read what is known of a row"))
}
