//! Targets: their numbers, and what is known of each as a whole.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{
    QueueError,
    claim::{TargetRow, target_of},
};
use crate::domain::{SourceTime, TableName, Target, TargetId, Tenant};

/// The target of a tenant's table, made if it was never heard of.
pub async fn ensure(pool: &PgPool, tenant: Tenant, table: &TableName) -> Result<Target, QueueError> {
    if let Some(target) = find(pool, tenant, table).await? {
        return Ok(target);
    }
    sqlx::query!(
        "insert into nxt_mirror.target (tenant_kind, tenant_no, table_name) values ($1, $2, $3)
         on conflict (tenant_kind, tenant_no, lower(table_name)) do nothing",
        tenant.kind(),
        tenant.number(),
        table.as_str()
    )
    .execute(pool)
    .await
    .map_err(QueueError::on("make a target"))?;
    let target = find(pool, tenant, table).await?;
    target.ok_or_else(|| QueueError::on("make a target")(sqlx::Error::RowNotFound))
}

/// The target of a tenant's table, by its name in any case.
pub async fn find(pool: &PgPool, tenant: Tenant, table: &TableName) -> Result<Option<Target>, QueueError> {
    let found = sqlx::query!(
        r#"select id as "id: TargetId", table_name from nxt_mirror.target
            where tenant_kind = $1 and tenant_no = $2 and lower(table_name) = lower($3 collate "C")"#,
        tenant.kind(),
        tenant.number(),
        table.as_str()
    )
    .fetch_optional(pool)
    .await
    .map_err(QueueError::on("look for a target"))?;
    let target = found.map(|found| target_of(found.id, tenant.kind(), tenant.number(), found.table_name));
    target.transpose().map_err(QueueError::on("read a target"))
}

/// All targets, by tenant and name.
pub async fn list(pool: &PgPool) -> Result<Vec<Target>, QueueError> {
    let rows = sqlx::query_as!(
        TargetRow,
        r#"select id as "id: _", tenant_kind, tenant_no, table_name from nxt_mirror.target
            order by tenant_kind, tenant_no, table_name"#
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("list targets"))?;
    rows.into_iter().map(TargetRow::read).collect::<Result<_, _>>().map_err(QueueError::on("read targets"))
}

/// Takes over the name that the API gives a table, where a notification wrote it in another case.
pub async fn rename(executor: impl PgExecutor<'_>, target: TargetId, canonical: &TableName) -> Result<(), QueueError> {
    sqlx::query!(
        r#"update nxt_mirror.target set table_name = $2
            where id = $1 and table_name <> $2 and lower(table_name) = lower($2 collate "C")"#,
        target as _,
        canonical.as_str()
    )
    .execute(executor)
    .await
    .map(drop)
    .map_err(QueueError::on("rename a target"))
}

/// Asks nothing of a target for a while. `failures` are those so far, one after the other.
pub async fn pause(
    executor: impl PgExecutor<'_>,
    target: TargetId,
    failures: u32,
    pause: Duration,
    because: &str,
) -> Result<(), QueueError> {
    sqlx::query!(
        "update nxt_mirror.target
            set failures = $2, paused_until = clock_timestamp() + make_interval(secs => $3), paused_because = $4
          where id = $1",
        target as _,
        i32::try_from(failures).unwrap_or(i32::MAX),
        pause.as_secs_f64(),
        because.replace('\0', "\u{fffd}")
    )
    .execute(executor)
    .await
    .map(drop)
    .map_err(QueueError::on("pause a target"))
}

/// Failures of a target, one after the other, as of now.
pub async fn failures(executor: impl PgExecutor<'_>, target: TargetId) -> Result<u32, QueueError> {
    sqlx::query_scalar!("select failures from nxt_mirror.target where id = $1", target as _)
        .fetch_one(executor)
        .await
        .map(|failures| u32::try_from(failures).unwrap_or_default())
        .map_err(QueueError::on("read the health of a target"))
}

/// The target answers again: its failures are over. Writes nothing when there were none; returns whether there were.
pub async fn recover(executor: impl PgExecutor<'_>, target: TargetId) -> Result<bool, QueueError> {
    sqlx::query!(
        "update nxt_mirror.target set failures = 0, paused_until = null, paused_because = null
          where id = $1 and (failures > 0 or paused_until is not null)",
        target as _
    )
    .execute(executor)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(QueueError::on("end a pause"))
}

/// Sets how many rows live, as a walk has counted them.
pub async fn set_rows(executor: impl PgExecutor<'_>, target: TargetId, rows: i64) -> Result<(), QueueError> {
    sqlx::query!("update nxt_mirror.target set rows = greatest($2::bigint, 0) where id = $1", target as _, rows)
        .execute(executor)
        .await
        .map(drop)
        .map_err(QueueError::on("note how many rows live"))
}

/// What a transaction did to the rows of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Rows that were added.
    pub inserted: i64,
    /// Rows that were removed.
    pub deleted: i64,
    /// Whether anything was changed.
    pub is_changed: bool,
    /// Whether a notification had led to it, which ends a silence.
    pub is_notified: bool,
}

/// Notes what was applied to a target: the last thing that its transaction does, since it locks the target's row. Times
/// that would move by less than a second are left as they are, so that a busy target's row is not written all the time.
pub async fn note_applied(connection: &mut PgConnection, target: TargetId, applied: Applied) -> Result<(), QueueError> {
    let Applied { inserted, deleted, is_changed, is_notified } = applied;
    sqlx::query!(
        "update nxt_mirror.target
            set rows = greatest(rows + $2::bigint, 0),
                last_change_applied = case when $3 then now() else last_change_applied end,
                last_notified_at = case when $4 then now() else last_notified_at end,
                silent_since = case when $4 then null else silent_since end
          where id = $1
            and ($2::bigint <> 0
                 or $3 and coalesce(last_change_applied < now() - interval '1 second', true)
                 or $4 and (silent_since is not null
                            or coalesce(last_notified_at < now() - interval '1 second', true)))",
        target as _,
        inserted - deleted,
        is_changed,
        is_notified
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("note what was applied"))
}

/// Raises the alarm that a target changes although no notification of it comes any more: the newest change that was
/// found is later than the last notification, and none waits. Returns whether it is new.
pub async fn note_silence(
    connection: &mut PgConnection,
    target: TargetId,
    oldest: SourceTime,
    newest: SourceTime,
) -> Result<bool, QueueError> {
    sqlx::query!(
        "update nxt_mirror.target as target
            set silent_since = greatest($2, target.last_notified_at)
          where target.id = $1 and target.silent_since is null and target.last_notified_at < $3
            and not exists (select from nxt_mirror.dirty_row as dirty
                             where dirty.target_id = $1 and dirty.notification_id is not null)",
        target as _,
        oldest as _,
        newest as _
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
    .map_err(QueueError::on("raise the alarm of silence"))
}
