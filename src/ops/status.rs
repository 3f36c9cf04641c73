//! The document of `status --json`.

use serde::Serialize;
use sqlx::PgPool;

use crate::{
    clocks,
    domain::DatabaseTime,
    queue::{
        QueueError, dead_letter,
        status::{self, Freshness},
    },
    upstream::{self, Outage, Usage},
};

/// How the mirror is, as of now.
#[derive(Debug, Serialize)]
pub struct Status {
    /// When it was read, by the database's clock.
    pub now: DatabaseTime,
    /// `current`, `catching up` or `degraded`.
    pub state: &'static str,
    /// Age of the oldest notification that is not settled.
    pub lag_seconds: i64,
    /// Rows and notifications that wait.
    pub backlog: i64,
    /// What was set aside.
    pub dead_letters: i64,
    /// Requests to the API.
    pub budget: BudgetUse,
    /// Processes that work.
    pub workers: i64,
    /// Since when the API does not answer.
    pub api_away_since: Option<DatabaseTime>,
    /// Why it does not.
    pub api_away_because: Option<String>,
    /// Clocks that do not fit, and what to do about each.
    pub clocks: Vec<String>,
    /// Each target.
    pub tables: Vec<Freshness>,
}

/// The status could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// A statement of the queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Another statement failed.
    #[error("the database could not say how the mirror is")]
    Sql(#[from] sqlx::Error),
}

/// Requests to the API, over all replicas.
#[derive(Debug, Serialize)]
pub struct BudgetUse {
    /// Requests allowed in 60 seconds.
    pub per_minute: u32,
    /// Requests of the last 60 seconds.
    pub used: u32,
    /// Those, by what they were made for.
    pub by_purpose: Usage,
}

impl Status {
    /// Reads it from the database.
    pub async fn read(pool: &PgPool, per_minute: u32) -> Result<Self, StatusError> {
        let now = status::now(pool).await?;
        let backlog = status::backlog(pool).await?;
        let letters = dead_letter::count(pool).await?;
        let outage = Outage::current(pool).await?;
        let tables = status::freshness(pool).await?;
        let by_purpose = upstream::usage(pool).await?;
        let clocks = clocks::evidence(pool).await?.findings();
        Ok(Self {
            now,
            state: state(&tables, backlog.rows, outage.is_some()),
            lag_seconds: backlog.lag_seconds,
            backlog: backlog.rows,
            dead_letters: letters.rows + letters.bodies,
            budget: BudgetUse { per_minute, used: by_purpose.total(), by_purpose },
            workers: status::workers(pool).await?,
            api_away_since: outage.as_ref().map(|outage| outage.since),
            api_away_because: outage.map(|outage| outage.reason),
            clocks: clocks.iter().map(|finding| format!("{finding}: {}", finding.advice())).collect(),
            tables,
        })
    }
}

impl Status {
    /// One word for it: as [`Status::state`], but for `stopped` while no process works.
    pub fn word(&self) -> &'static str {
        if self.workers == 0 { "stopped" } else { self.state }
    }
}

/// Degraded while something needs a person; otherwise whether anything waits.
fn state(tables: &[Freshness], waiting: i64, is_away: bool) -> &'static str {
    if is_away || tables.iter().any(|table| table.state == "degraded") {
        "degraded"
    } else if waiting > 0 {
        "catching up"
    } else {
        "current"
    }
}
