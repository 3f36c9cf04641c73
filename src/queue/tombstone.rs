//! Deletions that are remembered until their row comes back.
//!
//! Each key is looked up by itself, which the limit sees to. A plain condition or join is planned once, while the table is
//! small, and kept: it then reads all tombstones of the target, or all there are, for each batch of keys.

use sqlx::PgConnection;

use super::QueueError;
use crate::domain::{DatabaseTime, RowKey, SourceTime, TargetId, settle::Deletion};

/// A deletion to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The key as the mirror or the notification spells it.
    pub key: RowKey,
    /// The deletion.
    pub deletion: Deletion,
}

/// The deletions remembered for these keys of a target, by folded key.
pub async fn of_keys(
    connection: &mut PgConnection,
    target: TargetId,
    folded_keys: &[String],
) -> Result<Vec<(String, Deletion)>, QueueError> {
    let rows = sqlx::query!(
        r#"select given.folded_key as "folded_key!", known.deleted_at as "at: SourceTime",
                  known.received_at as "received_at: DatabaseTime"
             from unnest($2::text[]) as given (folded_key)
            cross join lateral (
                  select tombstone.deleted_at, tombstone.received_at from nxt_mirror.tombstone as tombstone
                   where tombstone.target_id = $1 and tombstone.folded_key = given.folded_key collate "C"
                   limit 1) as known"#,
        target as _,
        folded_keys
    )
    .fetch_all(connection)
    .await
    .map_err(QueueError::on("read tombstones"))?;
    Ok(rows.into_iter().map(|row| (row.folded_key, Deletion { at: row.at, received_at: row.received_at })).collect())
}

/// Remembers deletions; of two for one key, the later counts.
pub async fn remember(
    connection: &mut PgConnection,
    target: TargetId,
    tombstones: &[Tombstone],
) -> Result<(), QueueError> {
    if tombstones.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"insert into nxt_mirror.tombstone as known (target_id, folded_key, deleted_at, received_at)
           select $1, folded_key collate "C", max(deleted_at), max(received_at)
             from unnest($2::text[], $3::timestamptz[], $4::timestamptz[])
                  as given (folded_key, deleted_at, received_at)
            group by folded_key collate "C" order by folded_key collate "C"
           on conflict on constraint tombstone_pkey do update set
               deleted_at = greatest(known.deleted_at, excluded.deleted_at),
               received_at = greatest(known.received_at, excluded.received_at)"#,
        target as _,
        &tombstones.iter().map(|tombstone| tombstone.key.folded_text()).collect::<Vec<_>>(),
        tombstones.iter().map(|tombstone| tombstone.deletion.at).collect::<Vec<_>>() as _,
        tombstones.iter().map(|tombstone| tombstone.deletion.received_at).collect::<Vec<_>>() as _
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("write tombstones"))
}

/// Forgets the deletions of rows that live again.
pub async fn forget(connection: &mut PgConnection, target: TargetId, folded_keys: &[String]) -> Result<(), QueueError> {
    if folded_keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"delete from nxt_mirror.tombstone as known
            using unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[])
                      as given (target_id, folded_key)
            where known.target_id = given.target_id and known.folded_key = given.folded_key collate "C""#,
        target as _,
        folded_keys
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("remove tombstones"))
}
