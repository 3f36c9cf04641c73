//! Making rows dirty on our own account.

use sqlx::PgConnection;

use super::{Priority, QueueError};
use crate::domain::{AnnouncedKey, TargetId};

/// Makes rows of a target dirty, although no notification announces anything about them.
pub async fn mark(
    connection: &mut PgConnection,
    target: TargetId,
    keys: &[AnnouncedKey],
    priority: Priority,
) -> Result<(), QueueError> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"insert into nxt_mirror.dirty_row as dirty (target_id, row_key, priority, due_at, waiting_since, announced)
           select distinct $1::integer, row_key collate "C", $3::smallint, now(), now(), false
             from unnest($2::text[]) as given (row_key)
            order by row_key collate "C"
           on conflict on constraint dirty_row_pkey do update set
               generation = excluded.generation, priority = least(dirty.priority, excluded.priority)"#,
        target as _,
        &keys.iter().map(AnnouncedKey::canonical).collect::<Vec<_>>(),
        priority.code()
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("mark rows dirty"))
}
