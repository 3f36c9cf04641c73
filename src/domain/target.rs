//! One tenant's table: the unit of isolation, of order and of health.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{TableName, TableSpec, Tenant};

/// The number by which the daemon's own tables refer to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct TargetId(pub i32);

/// A target by name: what notifications tell. Whether the source has such a table is another question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// Its number.
    pub id: TargetId,
    /// Whose.
    pub tenant: Tenant,
    /// Which table.
    pub table: TableName,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.table, self.tenant)
    }
}

/// A target whose table is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetTable {
    /// Its number.
    pub id: TargetId,
    /// Whose.
    pub tenant: Tenant,
    /// What its rows look like.
    pub table: Arc<TableSpec>,
}

impl fmt::Display for TargetTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.table.name, self.tenant)
    }
}
