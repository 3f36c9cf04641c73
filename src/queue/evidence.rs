//! What unsettled notifications say, read inside the transaction that settles.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{QueueError, claim::EvidenceRecord};
use crate::domain::{TargetId, settle::Evidence};

/// What waits for one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// What the notifications say.
    pub evidence: Evidence,
    /// Counts the notifications.
    pub generation: i64,
    /// The latest of them.
    pub notification_id: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct PendingRecord {
    row_key: String,
    generation: i64,
    notification_id: Option<i64>,
    #[sqlx(flatten)]
    evidence: EvidenceRecord,
}

/// What waits for these rows, by canonical key; a row that is missing from the answer is not dirty. Locks nothing: what
/// comes later moves the generation, so that it is not settled by what is decided now.
pub async fn evidence(
    connection: &mut PgConnection,
    target: TargetId,
    keys: &[String],
) -> Result<HashMap<String, Pending>, QueueError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let records: Vec<PendingRecord> = sqlx::query_as(
        r#"select dirty.row_key, dirty.generation, dirty.notification_id, dirty.deleted_at, dirty.delete_received_at,
                  dirty.announced, dirty.changed_at, dirty.rechecks
             from unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[])
                      as given (target_id, row_key)
             join nxt_mirror.dirty_row as dirty
                  on dirty.target_id = given.target_id and dirty.row_key = given.row_key collate "C""#,
    )
    .bind(target)
    .bind(keys)
    .fetch_all(connection)
    .await
    .map_err(QueueError::on("read what waits"))?;
    Ok(records.into_iter().map(PendingRecord::read).collect())
}

impl PendingRecord {
    fn read(self) -> (String, Pending) {
        let pending = Pending {
            evidence: self.evidence.read(),
            generation: self.generation,
            notification_id: self.notification_id,
        };
        (self.row_key, pending)
    }
}

/// Which kinds of evidence a target has, so that what is not there need not be read row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct HasEvidence {
    /// Whether any row of it waits.
    pub of_notifications: bool,
    /// Whether any deletion of a row of it is remembered.
    pub of_deletions: bool,
}

/// Looks for evidence of a target. Holds as long as the target is locked: both are written under that lock, but for
/// notifications, which say at their next fetch what a page could not know.
pub async fn has_evidence(connection: &mut PgConnection, target: TargetId) -> Result<HasEvidence, QueueError> {
    sqlx::query_as(
        "select exists (select from nxt_mirror.dirty_row where target_id = $1) as of_notifications,
                exists (select from nxt_mirror.tombstone where target_id = $1) as of_deletions",
    )
    .bind(target)
    .fetch_one(connection)
    .await
    .map_err(QueueError::on("look for evidence"))
}
