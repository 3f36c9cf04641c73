//! The replica: mirrored tables, and all their SQL.
//!
//! Every name in a statement comes from a [`TableSpec`](crate::domain::TableSpec), thus from the API's metadata, and
//! passes `identifier`; every value is bound or copied. Rows of live work travel as one JSON parameter that PostgreSQL
//! casts to the columns' types, pages of a walk by COPY, so that no statement depends on how many rows there are.

mod identifier;
mod rows;
mod schema;
mod stage;
mod statement;

pub use rows::{Fetched, Removal};
pub use schema::{Replica, SchemaError};
pub use stage::WalkId;

/// A name as it enters SQL.
#[cfg(any(test, fuzzing))]
pub fn quote(name: &str) -> String {
    identifier::Identifier(name).to_string()
}

/// A statement against a mirrored table failed.
#[derive(Debug, thiserror::Error)]
#[error("the mirror could not {action} of {table}")]
pub struct MirrorError {
    /// What was attempted.
    pub action: &'static str,
    /// The source table.
    pub table: String,
    /// Why it failed.
    #[source]
    pub source: sqlx::Error,
}

impl MirrorError {
    /// Whether the data is to blame, so that the same rows would fail again: PostgreSQL's classes 22 (data), 23
    /// (constraints) and 54 (limits, such as an index entry's size).
    pub fn is_about_data(&self) -> bool {
        let code = self.source.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
    }
}
