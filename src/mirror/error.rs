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
        "column {table}.{column} is {actual} in the mirror but {expected} in the source now; change its type by hand, \
         after dropping its readable view, which is made again"
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
    /// Another table of the source has the name in the mirror, so that their rows would mix.
    #[error(
        "{level} table {name} would be mirrored as {table}, where {other_level} table {other} is: it is not mirrored while \
         that one is"
    )]
    NameTaken {
        /// The mirrored table.
        table: String,
        /// The table of the source,
        name: String,
        /// and its level.
        level: &'static str,
        /// The one that was mirrored first,
        other: String,
        /// and its level.
        other_level: String,
    },
    /// More columns than a table of PostgreSQL can have.
    #[error(
        "table {table} has {columns} columns in the source, and a table of PostgreSQL can have {max} of them at most"
    )]
    TooManyColumns {
        /// The mirrored table.
        table: String,
        /// Columns of the source.
        columns: usize,
        /// Columns that there is room for.
        max: usize,
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

    /// Whether it lasts until the source or a person changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::TypeChanged { .. }
            | Self::KeyChanged { .. }
            | Self::NameTaken { .. }
            | Self::TooManyColumns { .. } => true,
            Self::Busy { .. } | Self::Sql { .. } => false,
        }
    }

    /// Whose failure it is: the database's where that is away, the target's else.
    pub fn diagnose(&self) -> Diagnosis {
        let of_target = |pause: Option<Duration>| Diagnosis { owner: Owner::Target, pause, reason: self.to_string() };
        match self {
            Self::TypeChanged { .. }
            | Self::KeyChanged { .. }
            | Self::NameTaken { .. }
            | Self::TooManyColumns { .. } => of_target(None),
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
    has_code(error, "55P03")
}

/// Whether the table has no room for more columns.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    has_code(error, "54011")
}

fn has_code(error: &sqlx::Error, wanted: &str) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == wanted)
}
