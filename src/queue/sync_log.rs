//! The sync log: what was done to each row.

use sqlx::PgConnection;

use super::QueueError;
use crate::domain::{DatabaseTime, SourceTime, TargetId};

/// What was done to a row, as stored in the sync log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone)]
pub struct SyncEntry {
    /// The row as people read it: a JSON object.
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

/// Appends what was done to rows of a target.
pub async fn log(connection: &mut PgConnection, target: TargetId, entries: &[SyncEntry]) -> Result<(), QueueError> {
    if entries.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into nxt_mirror.sync_log
             (target_id, key, action, reason, notification_id, source_changed_at, fetch_started_at)
         select $1, key::jsonb, action, reason, notification_id, source_changed_at, fetch_started_at
           from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::timestamptz[])
                as entry (key, action, reason, notification_id, source_changed_at, fetch_started_at)",
        target as _,
        entries.iter().map(|entry| entry.key_json.as_str()).collect::<Vec<_>>() as _,
        entries.iter().map(|entry| entry.action.name()).collect::<Vec<_>>() as _,
        &entries.iter().map(|entry| entry.reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>(),
        entries.iter().map(|entry| entry.notification_id).collect::<Vec<_>>() as _,
        entries.iter().map(|entry| entry.source_changed_at).collect::<Vec<_>>() as _,
        entries.iter().map(|entry| entry.fetch_started_at).collect::<Vec<_>>() as _
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("write the sync log"))
}
