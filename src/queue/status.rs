//! What operators ask of the queue as a whole.

use serde::Serialize;
use sqlx::PgPool;

use super::QueueError;
use crate::domain::DatabaseTime;

/// All that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Backlog {
    /// How many rows, and notifications that are not folded yet.
    pub rows: i64,
    /// Since when the oldest of them waits.
    pub since: Option<DatabaseTime>,
    /// Seconds since then, by the database's clock; 0 when nothing waits.
    pub lag_seconds: i64,
}

/// Counts what waits.
pub async fn backlog(pool: &PgPool) -> Result<Backlog, QueueError> {
    sqlx::query_as!(
        Backlog,
        r#"select rows as "rows!", since as "since?: _",
                  coalesce(greatest(extract(epoch from clock_timestamp() - since), 0), 0)::bigint as "lag_seconds!"
             from nxt_mirror.waiting"#
    )
    .fetch_one(pool)
    .await
    .map_err(QueueError::on("count what waits"))
}

/// One target, as `nxt_mirror.freshness` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// Whose.
    pub company_no: Option<i64>,
    /// Whose, of a customer-level table.
    pub customer_no: Option<i64>,
    /// Which table, as the API names it.
    pub table: String,
    /// Rows that live, an estimate that is brought forward from the last walk.
    pub rows: i64,
    /// `current`, `catching up` or `degraded`.
    pub state: String,
    /// Whether only what notifications brought is there.
    pub partial: bool,
    /// Rows and notifications that wait.
    pub backlog: i64,
    /// Since when the oldest of them waits.
    pub oldest_waiting_since: Option<DatabaseTime>,
    /// Rows that were set aside.
    pub dead_letters: i64,
    /// When a row was last changed in the mirror.
    pub last_change_applied: Option<DatabaseTime>,
    /// When a row was last settled that a notification had announced.
    pub last_notified_at: Option<DatabaseTime>,
    /// When the table was last walked to its end.
    pub last_walked: Option<DatabaseTime>,
    /// As of when it was last compared.
    pub last_verified: Option<DatabaseTime>,
    /// Differences that the comparison left.
    pub differences: Option<i64>,
    /// Since when it changes although no notification comes any more.
    pub silent_since: Option<DatabaseTime>,
    /// Until when nothing is asked of it.
    pub paused_until: Option<DatabaseTime>,
    /// Why not; while the API is away, that it is.
    pub paused_because: Option<String>,
}

impl Freshness {
    /// Whose it is, in words: of the two numbers the one that is not null.
    pub fn tenant_name(&self) -> String {
        tenant_name(self.company_no, self.customer_no)
    }
}

/// Whose something is, in words: of the two numbers the one that is not null.
pub fn tenant_name(company_no: Option<i64>, customer_no: Option<i64>) -> String {
    match (company_no, customer_no) {
        (Some(company), _) => format!("company {company}"),
        (None, customer) => format!("customer {}", customer.unwrap_or_default()),
    }
}

/// Every target, by tenant and table.
pub async fn freshness(pool: &PgPool) -> Result<Vec<Freshness>, QueueError> {
    sqlx::query_as!(
        Freshness,
        r#"select fresh.company_no as "company_no?", fresh.customer_no as "customer_no?", fresh.table_name as "table!",
                  fresh.rows as "rows!", fresh.state as "state!", fresh.partial as "partial!",
                  fresh.backlog as "backlog!", fresh.oldest_waiting_since as "oldest_waiting_since?: _",
                  fresh.last_change_applied as "last_change_applied?: _", fresh.last_walked as "last_walked?: _",
                  fresh.last_verified as "last_verified?: _", fresh.differences as "differences?",
                  fresh.silent_since as "silent_since?: _", fresh.paused_until as "paused_until?: _",
                  fresh.paused_because as "paused_because?", target.last_notified_at as "last_notified_at?: _",
                  (select count(*) from nxt_mirror.dead_row as dead where dead.target_id = target.id)
                      as "dead_letters!"
             from nxt_mirror.freshness as fresh
             join nxt_mirror.target as target
               on target.tenant_kind = case when fresh.company_no is null then 'customer' else 'company' end
              and target.tenant_no = coalesce(fresh.company_no, fresh.customer_no)
              and target.table_name = fresh.table_name
            order by fresh.company_no, fresh.customer_no, fresh.table_name"#
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read how fresh each target is"))
}

/// Counts targets that change although no notification of them comes any more.
pub async fn silent_targets(pool: &PgPool) -> Result<i64, QueueError> {
    sqlx::query_scalar!(r#"select count(*) as "targets!" from nxt_mirror.target where silent_since is not null"#)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("count silent targets"))
}

/// Targets in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// `current`, `catching up` or `degraded`.
    pub state: String,
    /// How many.
    pub targets: i64,
    /// Differences that their last comparisons left.
    pub differences: i64,
}

/// Counts targets by state.
pub async fn targets_by_state(pool: &PgPool) -> Result<Vec<Counted>, QueueError> {
    sqlx::query_as!(
        Counted,
        r#"select state as "state!", count(*) as "targets!", coalesce(sum(differences), 0)::bigint as "differences!"
             from nxt_mirror.freshness group by state"#
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("count targets by state"))
}

/// Counts processes that work.
pub async fn workers(pool: &PgPool) -> Result<i64, QueueError> {
    sqlx::query_scalar!(r#"select count(*) as "workers!" from nxt_mirror.worker where alive_until > clock_timestamp()"#)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("count workers"))
}

/// What the database's clock says.
pub async fn now(pool: &PgPool) -> Result<DatabaseTime, QueueError> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!: _""#)
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("read the clock"))
}
