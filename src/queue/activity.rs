//! Reading the sync log back, for people and programs.

use serde::Serialize;
use sqlx::PgPool;

use super::QueueError;
use crate::domain::{DatabaseTime, ShownKey, naming};

/// Entries at the new end among which the latest of a filter are looked for, so that a rare one costs no look through
/// all of the log.
const LOOKED_BACK: i64 = 500_000;

/// An entry of the sync log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activity {
    /// Its number; greater ones become visible later.
    pub id: i64,
    /// When it was done.
    pub at: DatabaseTime,
    /// Whose row.
    pub company_no: Option<i64>,
    /// Whose row, of a customer-level table.
    pub customer_no: Option<i64>,
    /// Of which table; `None` where an operator asked for something that is about no single one.
    pub table_name: Option<String>,
    /// Which row.
    pub key: Option<ShownKey>,
    /// What was done.
    pub action: String,
    /// Why.
    pub reason: String,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
}

/// Which entries are wanted, of the sync log or of the feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Only of this company.
    pub company: Option<i64>,
    /// Only of this table, as [`naming::folded`] makes it.
    pub table: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only of rows that have this value in their key.
    pub key: Option<String>,
}

impl EntryFilter {
    /// Whether an entry with this company, table, action and key is wanted.
    pub fn matches(&self, company: Option<i64>, table: Option<&str>, action: &str, key: Option<&ShownKey>) -> bool {
        self.company.is_none_or(|wanted| company == Some(wanted))
            && self.table.as_ref().is_none_or(|wanted| table.is_some_and(|table| naming::folded(table) == *wanted))
            && self.action.as_ref().is_none_or(|wanted| action == wanted)
            && self.key.as_ref().is_none_or(|text| key.is_some_and(|key| key.has_value(text)))
    }
}

/// Entries with greater ids than `after`, oldest first, at most `limit`.
pub async fn after(pool: &PgPool, filter: &EntryFilter, after: i64, limit: i64) -> Result<Vec<Activity>, QueueError> {
    let records = sqlx::query!(
        r#"with chosen as materialized (
               select id from nxt_mirror.target
                where ($3::bigint is null or (tenant_kind = 'company' and tenant_no = $3))
                  and ($4::text is null or replace(lower(table_name), '_', '') = $4)
           ), entry as materialized (
               select log.id, log.at, log.target_id, log.key, log.action, log.reason, log.notification_id
                 from nxt_mirror.sync_log as log
                where log.id > $1
                  and (($3::bigint is null and $4::text is null) or log.target_id = any(array(select id from chosen)))
                  and ($5::text is null or log.action = $5)
                  and ($6::text is null
                       or exists (select from jsonb_each_text(log.key) as part where part.value = $6))
                order by log.id limit $2
           ), named as materialized (
               select table_name, nxt_mirror.key_names(spec) as names
                 from nxt_mirror.mirrored_table
                where table_name in (select target.table_name from nxt_mirror.target
                                      where id in (select target_id from entry))
           )
           select entry.id as "id!", entry.at as "at!: DatabaseTime",
                  case when target.tenant_kind = 'company' then target.tenant_no end as "company_no?",
                  case when target.tenant_kind = 'customer' then target.tenant_no end as "customer_no?",
                  target.table_name as "table_name?", entry.key::text as "key?", named.names as "key_names?",
                  entry.action as "action!", entry.reason as "reason!", entry.notification_id as "notification_id?"
             from entry
             left join nxt_mirror.target as target on target.id = entry.target_id
             left join named on named.table_name = target.table_name
            order by entry.id"#,
        after,
        limit,
        filter.company,
        filter.table,
        filter.action,
        filter.key
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read the sync log"))?;
    let activities = records.into_iter().map(|record| Activity {
        id: record.id,
        at: record.at,
        company_no: record.company_no,
        customer_no: record.customer_no,
        table_name: record.table_name,
        key: record.key.and_then(|key| ShownKey::ordered(&key, &record.key_names.unwrap_or_default())),
        action: record.action,
        reason: record.reason,
        notification_id: record.notification_id,
    });
    Ok(activities.collect())
}

/// The id behind which the latest `limit` entries stand.
pub async fn before_latest(pool: &PgPool, filter: &EntryFilter, limit: i64) -> Result<i64, QueueError> {
    sqlx::query_scalar!(
        r#"with newest as materialized (select coalesce(max(id), 0) as id from nxt_mirror.sync_log),
           chosen as materialized (
               select id from nxt_mirror.target
                where ($2::bigint is null or (tenant_kind = 'company' and tenant_no = $2))
                  and ($3::text is null or replace(lower(table_name), '_', '') = $3)
           ), latest as (
               select log.id from nxt_mirror.sync_log as log
                where log.id > (select id from newest) - $6::bigint
                  and (($2::bigint is null and $3::text is null) or log.target_id = any(array(select id from chosen)))
                  and ($4::text is null or log.action = $4)
                  and ($5::text is null
                       or exists (select from jsonb_each_text(log.key) as part where part.value = $5))
                order by log.id desc limit $1
           )
           select coalesce((select min(id) - 1 from latest), (select id from newest)) as "before!""#,
        limit,
        filter.company,
        filter.table,
        filter.action,
        filter.key,
        LOOKED_BACK
    )
    .fetch_one(pool)
    .await
    .map_err(QueueError::on("look for the end of the sync log"))
}

/// The latest entries, oldest first, at most `limit`.
pub async fn latest(pool: &PgPool, filter: &EntryFilter, limit: i64) -> Result<Vec<Activity>, QueueError> {
    after(pool, filter, before_latest(pool, filter, limit).await?, limit).await
}

/// The greatest id.
pub async fn newest(pool: &PgPool) -> Result<i64, QueueError> {
    sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "newest!" from nxt_mirror.sync_log"#)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("look for the end of the sync log"))
}
