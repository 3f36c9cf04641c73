//! The sync log: what was done to each row.

use serde::Serialize;
use sqlx::PgPool;

use super::{Journal, QueueError};
use crate::domain::{DatabaseTime, SourceTime, TargetId};

/// What was done to a row, as stored in the sync log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncAction {
    /// The row is new in the mirror.
    Inserted,
    /// The row changed.
    Updated,
    /// The row was as the source has it.
    Unchanged,
    /// The row was removed.
    Deleted,
    /// The row was not there to be removed.
    AlreadyAbsent,
    /// A notification was about an earlier life of the row.
    Stale,
    /// Nothing certain yet.
    Recheck,
    /// The fetch or the write failed.
    Failed,
    /// Set aside.
    DeadLetter,
    /// Outside what is to be mirrored.
    Ignored,
}

impl SyncAction {
    /// The name in the database and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inserted => "inserted",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::AlreadyAbsent => "already_absent",
            Self::Stale => "stale",
            Self::Recheck => "recheck",
            Self::Failed => "failed",
            Self::DeadLetter => "dead_letter",
            Self::Ignored => "ignored",
        }
    }
}

/// One line of the sync log.
#[derive(Debug, Clone, Serialize)]
pub struct SyncEntry {
    /// Whose row.
    pub target_id: TargetId,
    /// The row as people read it: a JSON object.
    #[serde(rename = "key")]
    pub key_json: String,
    /// What was done.
    pub action: SyncAction,
    /// Why.
    pub reason: String,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
    /// The source's change time of the row, where known.
    pub source_changed_at: Option<SourceTime>,
    /// When the request started, where there was one.
    pub fetch_started_at: Option<DatabaseTime>,
}

/// What an operator asked for: about a target or a row of it, or about neither.
#[derive(Debug, Clone, Serialize)]
pub struct OperatorEntry {
    target_id: Option<TargetId>,
    /// The row as people read it: a JSON object.
    key: Option<String>,
    action: &'static str,
    reason: String,
}

impl OperatorEntry {
    /// What was asked for, in words.
    pub fn new(target_id: Option<TargetId>, key: Option<&str>, what: &str) -> Self {
        Self {
            target_id,
            key: key.map(str::to_owned),
            action: "operator",
            // As all that quotes what came from outside: PostgreSQL holds no such character.
            reason: what.replace('\0', "\u{fffd}"),
        }
    }
}

/// Appends what an operator asked for that is done in no transaction of its own.
pub async fn log_operator(pool: &PgPool, target_id: Option<TargetId>, what: &str) -> Result<(), QueueError> {
    let failed = || QueueError::on("write the sync log");
    let transaction = pool.begin().await.map_err(failed())?;
    let mut journal = Journal::default();
    journal.ask(OperatorEntry::new(target_id, None, what));
    journal.commit(transaction).await.map_err(failed())
}
