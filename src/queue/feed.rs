//! The feed: which mirrored rows changed, in the order in which that became visible.

use serde::Serialize;

use crate::domain::{SourceTime, TargetId};

/// What happened to a mirrored row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// It is there now.
    Insert,
    /// It is otherwise now.
    Update,
    /// It is gone, or deleted softly.
    Delete,
}

/// One entry of the feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeedEntry {
    /// Whose row.
    pub target_id: TargetId,
    /// The row as people read it: a JSON object.
    #[serde(rename = "key")]
    pub key_json: String,
    /// What happened.
    pub action: ChangeAction,
    /// Who changed it in the source, where known.
    pub changed_by: Option<String>,
    /// For an update, the mirrored names of the columns that differ.
    pub changed_columns: Option<Vec<String>>,
    /// When it was changed in the source, where known.
    pub source_changed_at: Option<SourceTime>,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
}
