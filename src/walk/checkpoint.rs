//! How far a walk has come, range by range.
//!
//! Several processes may walk one table, a command beside the daemon for example: they share one walk. Each step names
//! the walk it belongs to, and whoever finds it gone was overtaken.

use sqlx::{
    PgConnection, PgPool,
    types::{Json, Uuid},
};

use super::{WalkError, ranges::Range};
use crate::{
    domain::{DatabaseTime, KeyValue, RowKey, TargetId, json},
    mirror::WalkId,
};

/// A walk of a whole table that is under way.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) id: WalkId,
    /// Whether an earlier walk came to the end.
    pub(super) finished_before: bool,
    pub(super) rows_walked: u64,
    pub(super) rows_total: Option<u64>,
    pub(super) ranges: Vec<Range>,
}

/// A page that is done, of one range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) walk: WalkId,
    pub(super) range_no: i32,
    pub(super) rows: usize,
    pub(super) position: Option<&'a RowKey>,
    pub(super) is_last: bool,
}

/// Takes up the walk that is under way, or begins a new one; `anew` begins a new one in any case.
pub(super) async fn begin(pool: &PgPool, target: TargetId, anew: bool) -> Result<Walk, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let is_new = insert(&mut transaction, target, anew).await?;
    if is_new {
        write_ranges(&mut transaction, target, &[Range::whole()]).await?;
    }
    let row = sqlx::query!(
        r#"select walk_id, started_at as "started_at: DatabaseTime", last_finished_at is not null as "finished_before!",
                  rows_walked, rows_total
             from nxt_mirror.walk where target_id = $1 for update"#,
        target as _
    )
    .fetch_one(&mut *transaction)
    .await?;
    let ranges = ranges(&mut transaction, target).await?;
    transaction.commit().await?;
    Ok(Walk {
        id: WalkId { id: row.walk_id, started_at: row.started_at },
        finished_before: row.finished_before,
        rows_walked: row.rows_walked.unsigned_abs(),
        rows_total: row.rows_total.map(i64::unsigned_abs),
        ranges,
    })
}

/// Whether a walk was begun, since none was under way.
async fn insert(connection: &mut PgConnection, target: TargetId, anew: bool) -> Result<bool, sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.walk as own (target_id, walk_id, started_at)
         values ($1, $2, clock_timestamp())
         on conflict on constraint walk_pkey do update set
             walk_id = excluded.walk_id, started_at = excluded.started_at, finished_at = null, rows_walked = 0,
             rows_total = null, note = null
          where own.finished_at is not null or $3",
        target as _,
        Uuid::new_v4(),
        anew
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
}

/// The walk goes on in these ranges, in the place of the one it had; `rows_total` is what the source counted.
pub(super) async fn cut(
    connection: &mut PgConnection,
    target: TargetId,
    walk: WalkId,
    rows_total: Option<u64>,
    ranges: &[Range],
) -> Result<(), WalkError> {
    let counted = sqlx::query!(
        "update nxt_mirror.walk set rows_total = $3
          where target_id = $1 and walk_id = $2
            and (select count(*) from nxt_mirror.walk_range where target_id = $1) = 1",
        target as _,
        walk.id,
        rows_total.map(|total| i64::try_from(total).unwrap_or(i64::MAX))
    )
    .execute(&mut *connection)
    .await?;
    if counted.rows_affected() == 0 {
        return Err(WalkError::Overtaken);
    }
    Ok(write_ranges(connection, target, ranges).await?)
}

/// Records a page, in the transaction that writes it. The same page twice counts once.
pub(super) async fn advance(connection: &mut PgConnection, target: TargetId, step: Step<'_>) -> Result<(), WalkError> {
    if !is_under_way(connection, target, step.walk).await? {
        return Err(WalkError::Overtaken);
    }
    if !move_range(connection, target, step).await? {
        return Ok(());
    }
    sqlx::query!(
        "update nxt_mirror.walk set rows_walked = rows_walked + $2 where target_id = $1",
        target as _,
        i64::try_from(step.rows).unwrap_or(i64::MAX)
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn move_range(connection: &mut PgConnection, target: TargetId, step: Step<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query!(
        "update nxt_mirror.walk_range set position = coalesce($3, position), finished = $4
          where target_id = $1 and range_no = $2
            and (position is distinct from coalesce($3, position) or finished <> $4)",
        target as _,
        step.range_no,
        step.position.map(key_json) as _,
        step.is_last
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
}

/// Whether this walk has not come to its end, and stays so until the transaction ends.
pub(super) async fn is_under_way(
    connection: &mut PgConnection,
    target: TargetId,
    walk: WalkId,
) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar!(
        r#"select 1 as "one!" from nxt_mirror.walk
            where target_id = $1 and walk_id = $2 and finished_at is null
              for no key update"#,
        target as _,
        walk.id
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// Whether this very walk has come to its end.
pub(super) async fn has_finished(pool: &PgPool, target: TargetId, walk: WalkId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from nxt_mirror.walk
                           where target_id = $1 and walk_id = $2 and finished_at is not null) as "exists!""#,
        target as _,
        walk.id
    )
    .fetch_one(pool)
    .await
}

/// How many rows a walk has walked.
pub(super) async fn rows_walked(connection: &mut PgConnection, target: TargetId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!("select rows_walked from nxt_mirror.walk where target_id = $1", target as _)
        .fetch_one(connection)
        .await
}

/// The walk has come to the end of the table. `note` says what it could not read.
pub(super) async fn finish(
    connection: &mut PgConnection,
    target: TargetId,
    walk: WalkId,
    note: Option<String>,
) -> Result<(), WalkError> {
    let finished = sqlx::query!(
        "update nxt_mirror.walk set finished_at = now(), last_finished_at = now(), note = $3
          where target_id = $1 and walk_id = $2 and finished_at is null",
        target as _,
        walk.id,
        note
    )
    .execute(&mut *connection)
    .await?;
    if finished.rows_affected() == 0 {
        return Err(WalkError::Overtaken);
    }
    write_ranges(connection, target, &[]).await?;
    Ok(forget_met(connection, walk).await?)
}

/// Forgets which keys a walk has met.
pub(super) async fn forget_met(connection: &mut PgConnection, walk: WalkId) -> Result<(), sqlx::Error> {
    let forget = sqlx::query!("delete from nxt_mirror.walk_met where walk_id = $1", walk.id);
    forget.execute(connection).await.map(drop)
}

async fn ranges(connection: &mut PgConnection, target: TargetId) -> Result<Vec<Range>, sqlx::Error> {
    let rows = sqlx::query!(
        "select range_no, after_key, through_key, position, finished
           from nxt_mirror.walk_range where target_id = $1 order by range_no",
        target as _
    )
    .fetch_all(connection)
    .await?;
    let key = |key: Option<serde_json::Value>| key.map(|key| read_key(&key)).transpose();
    let ranges = rows.into_iter().map(|row| {
        Ok(Range {
            no: row.range_no,
            after: key(row.after_key)?,
            through: key(row.through_key)?,
            position: key(row.position)?,
            finished: row.finished,
        })
    });
    ranges.collect()
}

async fn write_ranges(connection: &mut PgConnection, target: TargetId, ranges: &[Range]) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from nxt_mirror.walk_range where target_id = $1", target as _)
        .execute(&mut *connection)
        .await?;
    for range in ranges {
        sqlx::query!(
            "insert into nxt_mirror.walk_range (target_id, range_no, after_key, through_key, position, finished)
             values ($1, $2, $3, $4, $5, $6)",
            target as _,
            range.no,
            range.after.as_ref().map(key_json) as _,
            range.through.as_ref().map(key_json) as _,
            range.position.as_ref().map(key_json) as _,
            range.finished
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn key_json(key: &RowKey) -> Json<Vec<KeyValue>> {
    Json(key.values().to_vec())
}

fn read_key(stored: &serde_json::Value) -> Result<RowKey, sqlx::Error> {
    let text = stored.to_string();
    let values = json::Json::parse(&text).ok().and_then(json::Json::items);
    let values = values.and_then(|values| values.into_iter().map(KeyValue::read).collect::<Option<Vec<_>>>());
    values.map(RowKey::from_values).ok_or_else(|| sqlx::Error::Decode(format!("not a key: {stored}").into()))
}
