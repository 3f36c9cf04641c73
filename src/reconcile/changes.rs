//! From settled cases to the changes of mirrored rows: for their versions, and for the feed.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    ReconcileError,
    verdicts::{Case, Change, Seen},
};
use crate::{
    domain::{RowKey, SourceTime, TargetTable},
    mirror::Touched,
    queue::{self, ChangeAction, FeedEntry},
};

/// A mirrored row that changed.
#[derive(Debug)]
pub(super) struct RowChange<'a> {
    key: &'a RowKey,
    action: ChangeAction,
    changed_by: Option<String>,
    changed_columns: Option<Vec<String>>,
    source_changed_at: Option<SourceTime>,
    notification_id: Option<i64>,
}

/// What became of the mirrored rows. Where the row does not say who changed it, its notification may.
pub(super) async fn changes<'a>(
    connection: &mut PgConnection,
    cases: &'a [Case<'_>],
) -> Result<Vec<RowChange<'a>>, ReconcileError> {
    let mut changes: Vec<RowChange<'_>> = cases.iter().flat_map(of_case).collect();
    let unnamed = changes.iter().filter(|change| change.changed_by.is_none());
    let ids: Vec<i64> = unnamed.filter_map(|change| change.notification_id).collect();
    let names: HashMap<i64, String> = queue::ledger::changed_by(connection, &ids).await?;
    for change in changes.iter_mut().filter(|change| change.changed_by.is_none()) {
        change.changed_by = change.notification_id.and_then(|id| names.get(&id).cloned());
    }
    Ok(changes)
}

fn of_case<'a>(case: &'a Case<'_>) -> impl Iterator<Item = RowChange<'a>> {
    // Before the row itself, because a reader may hold the spellings equal.
    let respelled = case.respelled.iter().map(|key| change(case, key, ChangeAction::Delete));
    let (action, changed_columns) = match &case.change {
        Change::None => (None, None),
        Change::Inserted => (Some(ChangeAction::Insert), None),
        Change::Updated(columns) => (Some(ChangeAction::Update), Some(columns.clone())),
        Change::Deleted => (Some(ChangeAction::Delete), None),
    };
    let own = action.map(|action| RowChange { changed_columns, ..change(case, case.subject.key(), action) });
    respelled.chain(own)
}

fn change<'a>(case: &Case<'_>, key: &'a RowKey, action: ChangeAction) -> RowChange<'a> {
    let row = match case.subject.seen {
        Seen::Found(row, _) => Some(row),
        Seen::Nothing | Seen::Missing(_) => None,
    };
    RowChange {
        key,
        action,
        changed_by: row.and_then(|row| row.changed_by()).map(str::to_owned),
        changed_columns: None,
        source_changed_at: row.map_or(case.deleted_at, |row| row.changed_at),
        notification_id: case.subject.notification_id(),
    }
}

impl RowChange<'_> {
    /// As the history is to know it.
    pub(super) fn touched(&self) -> Touched<'_> {
        let is_deleted = self.action == ChangeAction::Delete;
        Touched {
            key: self.key,
            changed_by: self.changed_by.as_deref(),
            deleted_at: self.source_changed_at.filter(|_| is_deleted),
        }
    }

    /// As the feed tells it.
    pub(super) fn entry(self, target: &TargetTable) -> FeedEntry {
        FeedEntry {
            target_id: target.id,
            key_json: self.key.shown(&target.table),
            action: self.action,
            changed_by: self.changed_by,
            changed_columns: self.changed_columns,
            source_changed_at: self.source_changed_at,
            notification_id: self.notification_id,
        }
    }
}
