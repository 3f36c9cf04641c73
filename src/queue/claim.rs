//! Handing out dirty rows under a lease.

use std::time::Duration;

use sqlx::{PgPool, Row, postgres::PgRow, types::Uuid};

use super::QueueError;
use crate::domain::{
    HintKey, RowHint, TableName, Tenant,
    settle::{Announcement, Deletion, Evidence},
};

/// How long a claim holds unless it is renewed. Work that takes longer renews it, so a lease that runs out means a
/// worker that is gone, and this is how long its rows wait for another one.
const LEASE: Duration = Duration::from_secs(30);
/// How often claims under way are renewed; several tries fit into a lease.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(8);

/// Marks a batch as claimed by moving its due time behind the lease. One short statement; no transaction stays open
/// while the source is asked.
const CLAIM: &str = "
with due as (
    select tenant_kind, tenant_no, table_name, row_key
      from nxt_mirror.dirty_row
     where due_at <= now()
       and (tenant_kind, tenant_no) not in (select * from unnest($4::text[], $5::bigint[]))
       and ($6 or deleted_at is not null)
     order by priority, due_at
     limit $1
       for update skip locked
)
update nxt_mirror.dirty_row d
   set claim_id = $2, due_at = now() + make_interval(secs => $3)
  from due
 where (d.tenant_kind, d.tenant_no, d.table_name, d.row_key)
     = (due.tenant_kind, due.tenant_no, due.table_name, due.row_key)
returning d.tenant_kind, d.tenant_no, d.table_name, d.row_key, d.generation, d.attempts, d.lane_failures, d.looks, d.notification_id,
          d.deleted_at, d.delete_received_at, d.announced, d.changed_at
";

/// Whether work is live or may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A notification.
    Live,
    /// A replay or a walk asked for it.
    Deferred,
}

impl Priority {
    pub(super) fn code(self) -> i16 {
        match self {
            Self::Live => 0,
            Self::Deferred => 1,
        }
    }
}

/// Which of the rows that are due may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable {
    /// All of them.
    All,
    /// Those that were deleted, for which the source may not be needed.
    Deleted,
}

/// A dirty row as its columns say.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The row.
    pub hint: RowHint,
    /// Counts the notifications; a verdict settles the row only if it is still the same.
    pub generation: i64,
    /// Failures so far that may be its own.
    pub attempts: u32,
    /// Failures so far of its whole table or tenant.
    pub lane_failures: u32,
    /// The latest notification.
    pub notification_id: Option<i64>,
    /// What the notifications say.
    pub evidence: Evidence,
}

/// The rows that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Backlog {
    /// How many.
    pub rows: i64,
    /// Seconds that the oldest of them has waited, by the database's clock; 0 when none waits.
    pub lag_seconds: i64,
}

/// The queue of dirty rows.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: PgPool,
}

impl Queue {
    /// A queue in this database.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Claims up to `rows_max` rows that are due, oldest first, live ones before all others, none of `except`.
    ///
    /// A row is leased to `claim_id` for `LEASE`; when that has passed unsettled, it is due again.
    pub async fn claim(
        &self,
        claim_id: Uuid,
        claimable: Claimable,
        rows_max: usize,
        except: &[Tenant],
    ) -> Result<Vec<Claimed>, QueueError> {
        let rows = sqlx::query(CLAIM)
            .bind(i64::try_from(rows_max).unwrap_or(i64::MAX))
            .bind(claim_id)
            .bind(LEASE.as_secs_f64())
            .bind(except.iter().map(|tenant| tenant.kind()).collect::<Vec<_>>())
            .bind(except.iter().map(|tenant| tenant.number()).collect::<Vec<_>>())
            .bind(claimable == Claimable::All)
            .fetch_all(&self.pool)
            .await
            .map_err(QueueError::on("claim rows"))?;
        rows.iter().map(read).collect::<Result<_, _>>().map_err(QueueError::on("read claimed rows"))
    }

    /// Extends the leases of claims whose work goes on.
    pub async fn renew(&self, claim_ids: &[Uuid]) -> Result<(), QueueError> {
        sqlx::query(
            "update nxt_mirror.dirty_row set due_at = now() + make_interval(secs => $2)
              where claim_id = any($1) and due_at > now()",
        )
        .bind(claim_ids)
        .bind(LEASE.as_secs_f64())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(QueueError::on("renew claims"))
    }

    /// Gives back, due at once, whatever these claims still hold.
    pub async fn release(&self, claim_ids: &[Uuid]) -> Result<u64, QueueError> {
        sqlx::query("update nxt_mirror.dirty_row set claim_id = null, due_at = now() where claim_id = any($1)")
            .bind(claim_ids)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(QueueError::on("give claims back"))
    }

    /// Key columns of a table in the order of its latest notification, to tell a key that nothing else tells.
    pub async fn announced_key(&self, table: &TableName, tenant: Tenant) -> Result<Option<Vec<String>>, QueueError> {
        let body: Option<String> = sqlx::query_scalar(
            "select body from nxt_mirror.notification
              where table_name = $1 and tenant_kind = $2 order by id desc limit 1",
        )
        .bind(table.as_str())
        .bind(tenant.kind())
        .fetch_optional(&self.pool)
        .await
        .map_err(QueueError::on("read the latest notification"))?;
        Ok(body.as_deref().and_then(key_order))
    }

    /// How many rows are due now, counting no further than `rows_max`.
    pub async fn due(&self, claimable: Claimable, rows_max: usize) -> Result<usize, QueueError> {
        let due: i64 = sqlx::query_scalar(
            "select count(*)
               from (select from nxt_mirror.dirty_row
                      where due_at <= now() and ($2 or deleted_at is not null) limit $1) as due",
        )
        .bind(i64::try_from(rows_max).unwrap_or(i64::MAX))
        .bind(claimable == Claimable::All)
        .fetch_one(&self.pool)
        .await
        .map_err(QueueError::on("count due rows"))?;
        Ok(usize::try_from(due).unwrap_or_default())
    }

    /// What waits.
    pub async fn backlog(&self) -> Result<Backlog, QueueError> {
        sqlx::query_as(
            "select count(*) as rows,
                    coalesce(greatest(extract(epoch from clock_timestamp() - min(waiting_since)), 0), 0)::bigint
                        as lag_seconds
               from nxt_mirror.dirty_row",
        )
        .fetch_one(&self.pool)
        .await
        .map_err(QueueError::on("count waiting rows"))
    }
}

/// The column names of a stored body's `primaryKeys`.
fn key_order(body: &str) -> Option<Vec<String>> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    let entries = body.get("primaryKeys")?.as_array()?.iter().filter_map(serde_json::Value::as_object);
    Some(entries.flat_map(|entry| entry.keys().cloned()).collect())
}

pub(super) fn read(row: &PgRow) -> Result<Claimed, sqlx::Error> {
    let corrupt = |what: &str| sqlx::Error::Decode(format!("dirty_row: {what}").into());
    let kind: String = row.try_get("tenant_kind")?;
    let key: String = row.try_get("row_key")?;
    let deletion = match (row.try_get("deleted_at")?, row.try_get("delete_received_at")?) {
        (Some(at), Some(received_at)) => Some(Deletion { at, received_at }),
        (None, None) => None,
        _ => return Err(corrupt("half a deletion")),
    };
    let announcement = match row.try_get("announced")? {
        true => Some(Announcement { changed_at: row.try_get("changed_at")? }),
        false => None,
    };
    let unsigned = |column| row.try_get::<i32, _>(column).map(|number| u32::try_from(number).unwrap_or_default());
    Ok(Claimed {
        hint: RowHint {
            tenant: Tenant::from_parts(&kind, row.try_get("tenant_no")?).ok_or_else(|| corrupt("tenant_kind"))?,
            table: TableName::new(row.try_get::<String, _>("table_name")?).map_err(|_| corrupt("table_name"))?,
            key: HintKey::from_canonical(&key).ok_or_else(|| corrupt("row_key"))?,
        },
        generation: row.try_get("generation")?,
        attempts: unsigned("attempts")?,
        lane_failures: unsigned("lane_failures")?,
        notification_id: row.try_get("notification_id")?,
        evidence: Evidence { deletion, announcement, looks: unsigned("looks")? },
    })
}
