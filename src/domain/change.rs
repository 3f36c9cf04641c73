//! What a notification says.

use super::{key::AnnouncedKey, table::TableName, tenant::Tenant, time::SourceTime};

/// The row a notification is about, as the notification names it. Nothing in it is trusted to exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnnouncedRow {
    /// Whose row.
    pub tenant: Tenant,
    /// Which table.
    pub table: TableName,
    /// Which row.
    pub key: AnnouncedKey,
}

/// What happened to the row, with the one time that can be trusted for it.
///
/// INSERT and UPDATE are ordered by the row's own `changedTimestamp`; DELETE has only the body's `timestamp`
/// (webhook documentation, 2025-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A row was made.
    Insert {
        /// `ChangedTimestamp` among the changed columns, absent in older payloads.
        changed_at: Option<SourceTime>,
    },
    /// A row was changed.
    Update {
        /// `ChangedTimestamp` among the changed columns, absent in older payloads.
        changed_at: Option<SourceTime>,
    },
    /// A row was removed.
    Delete {
        /// The body's `timestamp`, stamped a little after the deletion.
        deleted_at: SourceTime,
    },
}

impl ChangeKind {
    /// The event's name in a webhook body.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert { .. } => "INSERT",
            Self::Update { .. } => "UPDATE",
            Self::Delete { .. } => "DELETE",
        }
    }

    /// When the row changed, for INSERT and UPDATE that say so.
    pub fn changed_at(self) -> Option<SourceTime> {
        match self {
            Self::Insert { changed_at } | Self::Update { changed_at } => changed_at,
            Self::Delete { .. } => None,
        }
    }

    /// When the row was deleted, for DELETE.
    pub fn deleted_at(self) -> Option<SourceTime> {
        match self {
            Self::Delete { deleted_at } => Some(deleted_at),
            Self::Insert { .. } | Self::Update { .. } => None,
        }
    }
}

/// One change of one row: a hint to fetch it, never something to write from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeEvent {
    /// The row.
    pub row: AnnouncedRow,
    /// What happened.
    pub kind: ChangeKind,
}
