//! Tables as people name them.

use sqlx::PgPool;

use super::story::{StoryError, described};
use crate::{
    domain::{TableName, naming, table::BadTableName},
    mirror::SchemaError,
    queue::{self, QueueError},
};

/// A table was not understood.
#[derive(Debug, thiserror::Error)]
pub enum NamedTableError {
    /// No table can be called so.
    #[error("table: {0}")]
    Name(#[from] BadTableName),
    /// The mirrored tables could not be read.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A statement failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// The API's identifier of a table that is named in either form. One that is not mirrored yet has to be named by it.
pub async fn named_table(pool: &PgPool, text: &str) -> Result<TableName, NamedTableError> {
    match described(pool, text).await {
        Ok(spec) => return Ok(spec.name),
        Err(StoryError::Schema(error)) => return Err(error.into()),
        Err(_) => {}
    }
    let known = queue::target::list(pool).await?.into_iter().map(|target| target.table);
    let wanted = naming::folded(text);
    match known.into_iter().find(|table| naming::folded(table.as_str()) == wanted) {
        Some(table) => Ok(table),
        None => Ok(TableName::new(text)?),
    }
}
