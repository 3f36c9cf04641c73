//! Setting aside what is due of a target of which nothing can be read or written.

use sqlx::{PgConnection, PgPool};

use super::{Journal, QueueError, SyncAction, SyncEntry};
use crate::domain::TargetId;

/// Nothing of a target can be read or written: rows of it that are due are set aside, at most so many. Returns how many.
pub async fn set_target_aside(
    pool: &PgPool,
    target: TargetId,
    reason: &str,
    rows_max: i64,
) -> Result<usize, QueueError> {
    let set_aside = async {
        let mut transaction = pool.begin().await?;
        let rows = move_aside(&mut transaction, target, reason, rows_max).await?;
        let (count, mut journal) = (rows.len(), Journal::default());
        rows.into_iter().for_each(|row| journal.log(row.entry(target, reason)));
        journal.commit(transaction).await?;
        Ok(count)
    };
    set_aside.await.map_err(QueueError::on("set the rows of a target aside"))
}

/// A row that was set aside with its target.
struct MovedAside {
    key_json: String,
    notification_id: Option<i64>,
}

impl MovedAside {
    fn entry(self, target_id: TargetId, reason: &str) -> SyncEntry {
        let (source_changed_at, fetch_started_at) = (None, None);
        SyncEntry {
            target_id,
            key_json: self.key_json,
            action: SyncAction::DeadLetter,
            reason: reason.to_owned(),
            notification_id: self.notification_id,
            source_changed_at,
            fetch_started_at,
        }
    }
}

async fn move_aside(
    connection: &mut PgConnection,
    target: TargetId,
    reason: &str,
    rows_max: i64,
) -> Result<Vec<MovedAside>, sqlx::Error> {
    sqlx::query_as!(
        MovedAside,
        r#"with chosen as materialized (
             select row_key from nxt_mirror.dirty_row where target_id = $1 and due_at <= now()
              order by row_key limit $3 for update skip locked
         ), gone as (
             delete from nxt_mirror.dirty_row as dirty using chosen
              where dirty.target_id = $1 and dirty.row_key = chosen.row_key
             returning dirty.row_key, dirty.attempts, dirty.notification_id, dirty.deleted_at, dirty.delete_received_at,
                       dirty.announced, dirty.changed_at
         ), dead as (
             insert into nxt_mirror.dead_row as dead
                 (target_id, row_key, reason, attempts, notification_id, deleted_at, delete_received_at, announced,
                  changed_at, of_target)
             select $1, row_key, $2, attempts + 1, notification_id, deleted_at, delete_received_at, announced,
                    changed_at, true
               from gone order by row_key
             on conflict on constraint dead_row_row do update set
                 reason = excluded.reason, attempts = dead.attempts + excluded.attempts, last_at = excluded.last_at,
                 notification_id = greatest(dead.notification_id, excluded.notification_id),
                 announced = dead.announced or excluded.announced,
                 deleted_at = greatest(dead.deleted_at, excluded.deleted_at),
                 delete_received_at = greatest(dead.delete_received_at, excluded.delete_received_at),
                 changed_at = greatest(dead.changed_at, excluded.changed_at), of_target = true
         )
         select nxt_mirror.shown_key(gone.row_key, mirrored.spec, gone.notification_id)::text as "key_json!", gone.notification_id
           from gone
           join nxt_mirror.target as target on target.id = $1
           left join nxt_mirror.mirrored_table as mirrored on mirrored.table_name = target.table_name"#,
        target as _,
        reason.replace('\0', "\u{fffd}"),
        rows_max
    )
    .fetch_all(connection)
    .await
}
