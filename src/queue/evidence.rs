//! What unsettled notifications say, read inside the transaction that settles.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{Place, QueueError, claim::evidence_of};
use crate::domain::{DatabaseTime, SourceTime, TargetId, settle::Evidence};

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

/// What waits for these rows, by canonical key; a row that is missing from the answer is not dirty. One that was claimed
/// is looked for at its place first. Locks nothing: what comes later moves the generation, so that it is not settled by
/// what is decided now.
pub async fn evidence(
    connection: &mut PgConnection,
    target: TargetId,
    rows: &[(String, Option<&Place>)],
) -> Result<HashMap<String, Pending>, QueueError> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let records = sqlx::query!(
        r#"select given.row_key as "row_key!", dirty.generation as "generation!",
                  dirty.notification_id as "notification_id?", dirty.deleted_at as "deleted_at?: SourceTime",
                  dirty.delete_received_at as "delete_received_at?: DatabaseTime", dirty.announced as "announced!",
                  dirty.changed_at as "changed_at?: SourceTime", dirty.found_rechecks as "found_rechecks!",
                  dirty.missing_rechecks as "missing_rechecks!"
             from unnest($2::text[], $3::text[]) as given (row_key, place)
            cross join lateral (
                  select there.generation, there.notification_id, there.deleted_at, there.delete_received_at,
                         there.announced, there.changed_at, there.found_rechecks, there.missing_rechecks
                    from nxt_mirror.dirty_row as there
                   where there.ctid = given.place::tid and there.target_id = $1
                     and there.row_key = given.row_key collate "C"
                   union all
                  select moved.generation, moved.notification_id, moved.deleted_at, moved.delete_received_at,
                         moved.announced, moved.changed_at, moved.found_rechecks, moved.missing_rechecks
                    from nxt_mirror.dirty_row as moved
                   where moved.target_id = $1 and moved.row_key = given.row_key collate "C"
                   limit 1) as dirty"#,
        target as _,
        rows.iter().map(|(row_key, _)| row_key.as_str()).collect::<Vec<_>>() as _,
        rows.iter().map(|(_, place)| *place).collect::<Vec<_>>() as _
    )
    .fetch_all(connection)
    .await
    .map_err(QueueError::on("read what waits"))?;
    let pending = records.into_iter().map(|record| {
        let deletion = record.deleted_at.zip(record.delete_received_at);
        let rechecks = (record.found_rechecks, record.missing_rechecks);
        let pending = Pending {
            evidence: evidence_of(deletion, record.announced, record.changed_at, rechecks),
            generation: record.generation,
            notification_id: record.notification_id,
        };
        (record.row_key, pending)
    });
    Ok(pending.collect())
}

/// Which kinds of evidence a target has, so that what is not there need not be read row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HasEvidence {
    /// Whether any row of it waits.
    pub of_notifications: bool,
    /// Whether any deletion of a row of it is remembered.
    pub of_deletions: bool,
}

impl HasEvidence {
    /// All kinds, where to find out costs more than it saves.
    pub const ALL: Self = Self { of_notifications: true, of_deletions: true };
}

/// Looks for evidence of a target: meant for pages of walks, since it meets every row of it that was settled while somebody
/// held an old snapshot. Holds as long as the target is locked: both are written under that lock, but for
/// notifications, which say at their next fetch what a page could not know.
pub async fn has_evidence(connection: &mut PgConnection, target: TargetId) -> Result<HasEvidence, QueueError> {
    sqlx::query_as!(
        HasEvidence,
        r#"select exists (select from nxt_mirror.dirty_row where target_id = $1) as "of_notifications!",
                  exists (select from nxt_mirror.tombstone where target_id = $1) as "of_deletions!""#,
        target as _
    )
    .fetch_one(connection)
    .await
    .map_err(QueueError::on("look for evidence"))
}
