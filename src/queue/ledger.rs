//! Reading the ledger back: replay, and the story of one row.

use std::{collections::HashMap, fmt, time::Duration};

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use super::{QueueError, error::repeated};
use crate::domain::{AnnouncedKey, DatabaseTime, TableName};

/// Blocks replayed by one transaction, so that none holds its rows for long.
const BLOCKS_MAX: i64 = 100;

/// Which notifications are replayed.
#[derive(Debug, Clone)]
pub struct ReplayRange {
    /// Received at or after.
    pub since: DatabaseTime,
    /// Received before.
    pub until: Option<DatabaseTime>,
    /// Only of this company.
    pub company: Option<i64>,
    /// Only of this table.
    pub table: Option<TableName>,
}

/// As the sync log tells it: `since 2026-02-01T10:00:00Z of company 2000001`.
impl fmt::Display for ReplayRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "since {}", self.since)?;
        if let Some(until) = self.until {
            write!(f, " until {until}")?;
        }
        if let Some(company) = self.company {
            write!(f, " of company {company}")?;
        }
        if let Some(table) = &self.table {
            write!(f, " of table {table}")?;
        }
        Ok(())
    }
}

/// Marks the rows of stored notifications for another fetch, behind live work. Nothing is announced by it: the source
/// decides. Returns how many rows were marked; one that was notified at very different times may count twice.
pub async fn replay(pool: &PgPool, range: &ReplayRange) -> Result<u64, QueueError> {
    let (mut rows, mut after) = (0, 0);
    while let Some(through) = next_blocks(pool, range, after).await.map_err(QueueError::on("read the ledger"))? {
        let marked = repeated(|| mark(pool, range, after, through)).await;
        rows += marked.map_err(QueueError::on("replay notifications"))?;
        after = through;
    }
    Ok(rows)
}

/// As [`replay`], of one table and of the time before now that is given.
pub async fn replay_latest(pool: &PgPool, table: &TableName, age: Duration) -> Result<u64, QueueError> {
    let since = sqlx::query_scalar!(
        r#"select clock_timestamp() - make_interval(secs => $1) as "since!: _""#,
        age.as_secs_f64()
    );
    let since = since.fetch_one(pool).await.map_err(QueueError::on("read the clock"))?;
    replay(pool, &ReplayRange { since, until: None, company: None, table: Some(table.clone()) }).await
}

/// The last of the next blocks that were received in the range.
async fn next_blocks(pool: &PgPool, range: &ReplayRange, after: i64) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select max(id) as "through?"
             from (select id from nxt_mirror.ledger_block
                    where id > $1 and received_at >= $2 and ($3::timestamptz is null or received_at < $3)
                    order by id limit $4) as next"#,
        after,
        range.since as _,
        range.until as _,
        BLOCKS_MAX
    )
    .fetch_one(pool)
    .await
}

async fn mark(pool: &PgPool, range: &ReplayRange, after: i64, through: i64) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        r#"insert into nxt_mirror.dirty_row as dirty (target_id, row_key, priority, due_at, waiting_since, announced)
           select distinct target.id as target_id, entry.row_key collate "C" as row_key, 1, now(), now(), false
             from nxt_mirror.ledger_block as block
            cross join lateral unnest(block.is_company, block.tenant_no, block.table_name, block.row_key)
                               as entry (is_company, tenant_no, table_name, row_key)
             join nxt_mirror.target as target
                  on target.tenant_kind = case when entry.is_company then 'company' else 'customer' end
                 and target.tenant_no = entry.tenant_no
                 and lower(target.table_name) = lower(entry.table_name collate "C")
            where block.id > $1 and block.id <= $2
              and block.received_at >= $3 and ($4::timestamptz is null or block.received_at < $4)
              and ($5::bigint is null or (entry.is_company and entry.tenant_no = $5))
              and ($6::text is null or lower(entry.table_name collate "C") = lower($6 collate "C"))
            order by target_id, row_key
           on conflict on constraint dirty_row_pkey do update set generation = excluded.generation"#,
        after,
        through,
        range.since as _,
        range.until as _,
        range.company,
        range.table.as_ref().map(TableName::as_str)
    )
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
}

/// The row whose story is told, in the forms that its tables know it by.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Of which table.
    pub table: TableName,
    /// The key as notifications give it.
    pub key: AnnouncedKey,
    /// The key as people read it (see `RowKey::shown`).
    pub key_json: String,
    /// The key that tombstones go by (see `RowKey::folded_text`).
    pub folded_key: String,
    /// Whether the source may hold other spellings of the key equal.
    pub has_text: bool,
    /// Only of this company.
    pub company: Option<i64>,
    /// Only of this customer.
    pub customer: Option<i64>,
}

/// Something that is known of a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When, by the database's clock.
    pub at: DatabaseTime,
    /// Whose row.
    pub company_no: Option<i64>,
    /// Whose row, of a customer-level table.
    pub customer_no: Option<i64>,
    /// `notification`, `sync`, `change`, `mirrored`, `waiting`, `tombstone` or `dead letter`.
    pub source: String,
    /// What happened, in words.
    pub what: String,
    /// The notification, where one led to it.
    pub notification_id: Option<i64>,
    /// When the request started that told, where one did.
    pub fetch_started_at: Option<DatabaseTime>,
}

impl Event {
    /// Whether it tells of a write to the mirror.
    pub fn is_write(&self) -> bool {
        match self.source.as_str() {
            "change" | "mirrored" => true,
            "sync" => ["inserted:", "updated:", "deleted:"].iter().any(|action| self.what.starts_with(action)),
            _ => false,
        }
    }
}

/// Everything known of one row, in order: what notifications said, what was done about them, and what loads and sweeps
/// wrote, of which the feed alone tells. Reads the whole ledger, which has no index by row.
pub async fn explain(pool: &PgPool, subject: &Subject) -> Result<Vec<Event>, QueueError> {
    sqlx::query_as!(
        Event,
        r#"with chosen as (
            select id, tenant_kind, tenant_no from nxt_mirror.target
             where lower(table_name) = lower($1 collate "C")
               and ($5::bigint is null or (tenant_kind = 'company' and tenant_no = $5))
               and ($6::bigint is null or (tenant_kind = 'customer' and tenant_no = $6))
         ), logged as materialized (
            select log.at, log.target_id, log.action, log.reason, log.notification_id, log.fetch_started_at
              from nxt_mirror.sync_log as log join chosen on chosen.id = log.target_id
             where log.key = $3::jsonb
                or ($7 and nxt_mirror.folded_key(log.key::text) = nxt_mirror.folded_key(($3::jsonb)::text))
         ), event as (
            select block.received_at as at, chosen.id as target_id, 'notification' as source,
                   entry.event || coalesce(' of ' || coalesce(entry.changed_at, entry.deleted_at), '')
                       || coalesce(' by ' || entry.changed_by, '') as what,
                   block.id * 1024 + entry.position - 1 as notification_id, null::timestamptz as fetch_started_at
              from nxt_mirror.ledger_block as block
             cross join lateral unnest(block.is_company, block.tenant_no, block.table_name, block.row_key, block.event,
                                       block.changed_at, block.deleted_at, block.changed_by) with ordinality
                                as entry (is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at,
                                          changed_by, position)
              join chosen on (chosen.tenant_kind = 'company') = entry.is_company and chosen.tenant_no = entry.tenant_no
             where ($7 or block.row_key @> array[$2])
               and (entry.row_key = $2
                    or ($7 and nxt_mirror.folded_key(entry.row_key) = nxt_mirror.folded_key($2)))
               and lower(entry.table_name collate "C") = lower($1 collate "C")
            union all
            select at, target_id, 'sync', action || ': ' || reason, notification_id, fetch_started_at from logged
            union all
            -- Of a change that has a line in the sync log, that line tells. Both have the moment of their transaction.
            select entry.at, entry.target_id, 'change',
                   case entry.action when 'insert' then 'inserted' when 'update' then 'updated' else 'deleted' end
                       || case when entry.notification_id is null then ': by a load or a sweep' else ': as notified' end
                       || coalesce(', changed at ' || entry.source_changed_at, '')
                       || coalesce(' by ' || entry.changed_by, '')
                       || coalesce(', different in ' || array_to_string(entry.changed_columns, ', '), ''),
                   entry.notification_id, null
              from nxt_mirror.change_log as entry join chosen on chosen.id = entry.target_id
             where (entry.key = $3::jsonb
                    or ($7 and nxt_mirror.folded_key(entry.key::text) = nxt_mirror.folded_key(($3::jsonb)::text)))
               and not exists (select from logged
                                where logged.target_id = entry.target_id and logged.at = entry.at
                                  and logged.action in ('inserted', 'updated', 'deleted'))
            union all
            select dirty.waiting_since, dirty.target_id, 'waiting',
                   'waits for a fetch, due ' || dirty.due_at || coalesce(', last error: ' || dirty.last_error, ''),
                   dirty.notification_id, null
              from nxt_mirror.dirty_row as dirty join chosen on chosen.id = dirty.target_id
             where dirty.row_key = $2 or ($7 and nxt_mirror.folded_key(dirty.row_key) = nxt_mirror.folded_key($2))
            union all
            select stone.received_at, stone.target_id, 'tombstone', 'deleted at ' || stone.deleted_at, null, null
              from nxt_mirror.tombstone as stone join chosen on chosen.id = stone.target_id where stone.folded_key = $4
            union all
            select dead.last_at, dead.target_id, 'dead letter', 'set aside: ' || dead.reason, dead.notification_id, null
              from nxt_mirror.dead_row as dead join chosen on chosen.id = dead.target_id
             where dead.row_key = $2 or ($7 and nxt_mirror.folded_key(dead.row_key) = nxt_mirror.folded_key($2))
         )
         select event.at as "at!: _",
                case when chosen.tenant_kind = 'company' then chosen.tenant_no end as "company_no?",
                case when chosen.tenant_kind = 'customer' then chosen.tenant_no end as "customer_no?",
                event.source as "source!", event.what as "what!", event.notification_id as "notification_id?",
                event.fetch_started_at as "fetch_started_at?: _"
           from event join chosen on chosen.id = event.target_id
          order by event.at, event.notification_id nulls last"#,
        subject.table.as_str(),
        subject.key.canonical(),
        &subject.key_json as _,
        &subject.folded_key,
        subject.company,
        subject.customer,
        subject.has_text
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read what is known of a row"))
}

/// The keys of these notifications as people read them, whose names are as the bodies spell them. For rows of which no
/// mirrored table tells the names.
pub async fn notified_keys(pool: &PgPool, ids: &[i64]) -> Result<HashMap<i64, String>, QueueError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let keys = sqlx::query!(
        r#"select given.id as "id!", nxt_mirror.notified_key(block.row_key[position.n], block.body[position.n])::text as key
             from unnest($1::bigint[]) as given (id)
            cross join lateral (select (given.id % 1024 + 1)::integer as n) as position
             join nxt_mirror.ledger_block as block on block.id = given.id / 1024"#,
        ids
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read how notifications spell their keys"))?;
    Ok(keys.into_iter().filter_map(|named| Some((named.id, named.key?))).collect())
}

/// Who made the changes that these notifications tell of, as far as they say so and are kept.
pub async fn changed_by(connection: &mut PgConnection, ids: &[i64]) -> Result<HashMap<i64, String>, QueueError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let named = sqlx::query!(
        r#"select given.id as "id!", block.changed_by[given.id % 1024 + 1] as name
             from unnest($1::bigint[]) as given (id)
             join nxt_mirror.ledger_block as block on block.id = given.id / 1024"#,
        ids
    )
    .fetch_all(connection)
    .await
    .map_err(QueueError::on("read who made changes"))?;
    Ok(named.into_iter().filter_map(|named| Some((named.id, named.name?))).collect())
}
