//! Reading the feed, for programs that follow it.

use serde::Serialize;
use sqlx::PgPool;

use super::{QueueError, activity::EntryFilter};
use crate::domain::{DatabaseTime, ShownKey, SourceTime};

/// An entry of `nxt_mirror.change`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its place; greater ones become visible later.
    pub position: i64,
    /// When it was applied.
    pub at: DatabaseTime,
    /// Whose row.
    pub company_no: Option<i64>,
    /// Whose row, of a customer-level table.
    pub customer_no: Option<i64>,
    /// Of which table.
    pub table_name: String,
    /// Which row.
    pub key: Option<ShownKey>,
    /// `insert`, `update` or `delete`.
    pub action: String,
    /// Who changed it in the source.
    pub changed_by: Option<String>,
    /// For an update, the mirrored columns that differ.
    pub changed_columns: Option<Vec<String>>,
    /// When it was changed in the source.
    pub source_changed_at: Option<SourceTime>,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
}

/// Entries at greater positions than `after`, in order, at most `limit`.
pub async fn after(pool: &PgPool, filter: &EntryFilter, after: i64, limit: i64) -> Result<Vec<Change>, QueueError> {
    let records = sqlx::query!(
        r#"with entry as materialized (
               select position, at, company_no, customer_no, table_name, key, action, changed_by, changed_columns,
                      source_changed_at, notification_id
                 from nxt_mirror.change
                where position > $1
                  and ($3::bigint is null or company_no = $3)
                  and ($4::text is null or replace(lower(table_name), '_', '') = $4)
                  and ($5::text is null or action = $5)
                  and ($6::text is null or exists (select from jsonb_each_text(key) as part where part.value = $6))
                order by position limit $2
           ), named as materialized (
               select table_name, nxt_mirror.key_names(spec) as names
                 from nxt_mirror.mirrored_table where table_name in (select entry.table_name from entry)
           )
           select entry.position as "position!", entry.at as "at!: DatabaseTime", entry.company_no as "company_no?",
                  entry.customer_no as "customer_no?", entry.table_name as "table_name!", entry.key::text as "key!",
                  named.names as "key_names?", entry.action as "action!", entry.changed_by as "changed_by?",
                  entry.changed_columns as "changed_columns?", entry.source_changed_at as "source_changed_at?: SourceTime",
                  entry.notification_id as "notification_id?"
             from entry left join named on named.table_name = entry.table_name
            order by entry.position"#,
        after,
        limit,
        filter.company,
        filter.table,
        filter.action,
        filter.key
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read the feed"))?;
    let changes = records.into_iter().map(|record| Change {
        position: record.position,
        at: record.at,
        company_no: record.company_no,
        customer_no: record.customer_no,
        table_name: record.table_name,
        key: ShownKey::ordered(&record.key, &record.key_names.unwrap_or_default()),
        action: record.action,
        changed_by: record.changed_by,
        changed_columns: record.changed_columns,
        source_changed_at: record.source_changed_at,
        notification_id: record.notification_id,
    });
    Ok(changes.collect())
}

/// The greatest position.
pub async fn newest(pool: &PgPool) -> Result<i64, QueueError> {
    sqlx::query_scalar!(r#"select coalesce(max(position), 0) as "newest!" from nxt_mirror.change_log"#)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("look for the end of the feed"))
}
