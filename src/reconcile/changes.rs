//! From settled cases to entries of the feed.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    ReconcileError,
    verdicts::{Case, Change, Seen},
};
use crate::{
    domain::{RowKey, TargetTable},
    queue::{self, ChangeAction, FeedEntry},
};

/// What became of the mirrored rows, for the feed. Where the row does not say who changed it, its notification may.
pub(super) async fn changes(
    connection: &mut PgConnection,
    target: &TargetTable,
    cases: &[Case<'_>],
) -> Result<Vec<FeedEntry>, ReconcileError> {
    let mut entries: Vec<FeedEntry> = cases.iter().flat_map(|case| of_case(target, case)).collect();
    let unnamed = entries.iter().filter(|entry| entry.changed_by.is_none());
    let ids: Vec<i64> = unnamed.filter_map(|entry| entry.notification_id).collect();
    let names: HashMap<i64, String> = queue::ledger::changed_by(connection, &ids).await?;
    for entry in entries.iter_mut().filter(|entry| entry.changed_by.is_none()) {
        entry.changed_by = entry.notification_id.and_then(|id| names.get(&id).cloned());
    }
    Ok(entries)
}

fn of_case(target: &TargetTable, case: &Case<'_>) -> impl Iterator<Item = FeedEntry> {
    // Before the row itself, because a reader may hold both spellings equal.
    let respelled = case.is_respelled.then(|| entry(target, case, case.subject.asked, ChangeAction::Delete));
    let (action, columns) = match &case.change {
        Change::None => (None, None),
        Change::Inserted => (Some(ChangeAction::Insert), None),
        Change::Updated(columns) => (Some(ChangeAction::Update), Some(columns.clone())),
        Change::Deleted => (Some(ChangeAction::Delete), None),
    };
    let own =
        action.map(|action| FeedEntry { changed_columns: columns, ..entry(target, case, case.subject.key(), action) });
    respelled.into_iter().chain(own)
}

fn entry(target: &TargetTable, case: &Case<'_>, key: &RowKey, action: ChangeAction) -> FeedEntry {
    let row = match case.subject.seen {
        Seen::Found(row, _) => Some(row),
        Seen::Nothing | Seen::Missing(_) => None,
    };
    FeedEntry {
        target_id: target.id,
        key_json: key.shown(&target.table),
        action,
        changed_by: row.and_then(|row| row.changed_by()).map(str::to_owned),
        changed_columns: None,
        source_changed_at: row.map_or(case.deleted_at, |row| row.changed_at),
        notification_id: case.subject.notification_id,
    }
}
