//! Rows that only the mirror has: those whose keys a walk has not met.

use sqlx::PgConnection;

use super::WalkError;
use crate::{
    domain::{RowKey, TargetTable},
    mirror::WalkId,
    reconcile::Writer,
};

/// Keys that are read by one short transaction.
pub(super) const KEYS_MAX: usize = 50_000;

/// Keys that were in the mirror when the walk began, that nothing has written since, and that the walk has not met. When
/// there are [`KEYS_MAX`] of them there may be more: to be read after [`note_read`].
pub(super) async fn read(writer: &Writer, target: &TargetTable, walk: WalkId) -> Result<Vec<RowKey>, WalkError> {
    let mut transaction = writer.begin().await?;
    writer.mirror().declare_unmet(&mut transaction, target, walk).await?;
    let mut keys = vec![];
    while keys.len() < KEYS_MAX {
        let next = writer.mirror().next_unmet(&mut transaction, target).await?;
        if next.is_empty() {
            break;
        }
        keys.extend(next);
    }
    transaction.commit().await?;
    keys.truncate(KEYS_MAX);
    Ok(keys)
}

/// Counts keys as met from now on: they are not read again.
pub(super) async fn note_read(
    writer: &Writer,
    connection: &mut PgConnection,
    target: &TargetTable,
    walk: WalkId,
    keys: &[RowKey],
) -> Result<(), WalkError> {
    let keys: Vec<&RowKey> = keys.iter().collect();
    Ok(writer.mirror().note_met(connection, target, walk, &keys).await?)
}
