//! Failures of statements on mirrored tables.

use std::time::Duration;

use super::diagnosis::{BUSY_PAUSE, Carried, diagnose};
use crate::domain::{Diagnosis, Owner, TargetTable};

/// A statement on mirrored rows failed, and with it its transaction.
#[derive(Debug, thiserror::Error)]
#[error("the mirror could not {action} of {table}")]
pub struct MirrorError {
    /// What was attempted.
    pub action: &'static str,
    /// The mirrored table.
    pub table: String,
    /// Whether rows or keys travelled with the statement.
    pub carried: Carried,
    /// Why it failed.
    #[source]
    pub source: sqlx::Error,
}

impl MirrorError {
    /// Whose failure it is.
    pub fn diagnose(&self) -> Diagnosis {
        diagnose(&self.source, self.carried, &self.table)
    }
}

pub(super) fn failed(
    action: &'static str,
    target: &TargetTable,
    carried: Carried,
) -> impl FnOnce(sqlx::Error) -> MirrorError {
    let table = target.table.sql_name.clone();
    move |source| MirrorError { action, table, carried, source }
}

/// Why a table cannot be mirrored as described. Concerns that table alone.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A column's type in the source no longer fits the column in the mirror.
    #[error(
        "column {table}.{column} is {actual} in the mirror but {expected} in the source now; change its type by hand"
    )]
    TypeChanged {
        /// The mirrored table.
        table: String,
        /// The column.
        column: String,
        /// Its type in the mirror.
        actual: String,
        /// The type it would need.
        expected: &'static str,
    },
    /// The key in the source is not the primary key of the mirror.
    #[error(
        "table {table} has primary key ({actual}) in the mirror but ({expected}) by its description; set NXT_KEYS or \
         drop the mirrored table"
    )]
    KeyChanged {
        /// The mirrored table.
        table: String,
        /// Columns of the mirror's primary key.
        actual: String,
        /// Columns of the described key.
        expected: String,
    },
    /// Somebody else is at the table.
    #[error("table {table} is locked by somebody else and cannot be brought in line with the source now")]
    Busy {
        /// The mirrored table.
        table: String,
    },
    /// A statement failed.
    #[error("table {table} cannot be brought in line with the source")]
    Sql {
        /// The mirrored table.
        table: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

impl SchemaError {
    pub(super) fn of(table: &str, source: sqlx::Error) -> Self {
        let table = table.to_owned();
        if is_lock_timeout(&source) { Self::Busy { table } } else { Self::Sql { table, source } }
    }

    /// Whose failure it is: the database's where that is away, the target's else.
    pub fn diagnose(&self) -> Diagnosis {
        let of_target = |pause: Option<Duration>| Diagnosis { owner: Owner::Target, pause, reason: self.to_string() };
        match self {
            Self::TypeChanged { .. } | Self::KeyChanged { .. } => of_target(None),
            Self::Busy { .. } => of_target(Some(BUSY_PAUSE)),
            Self::Sql { table, source } => {
                let found = diagnose(source, Carried::Nothing, table);
                // It was just looked at: to look again at once would not end.
                let owner = if found.owner == Owner::Schema { Owner::Target } else { found.owner };
                Diagnosis { owner, ..found }
            }
        }
    }
}

/// Whether a lock was not to be had in time.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}
