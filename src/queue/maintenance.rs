//! Retention: what is old is removed, in small batches from the old end. No DDL, and nothing that holds a lock for
//! long.

use std::time::Duration;

use sqlx::PgPool;

use super::QueueError;
use crate::domain::DatabaseTime;

/// Rows removed by one statement.
const ROWS_MAX: i64 = 5_000;
/// Blocks removed by one statement; each has up to a thousand notifications beside it.
const BLOCKS_MAX: i64 = 200;
/// Positions that a stream keeps.
const POSITIONS_KEPT: i64 = 3;

/// A batch from the old end of a table: the last id that was looked at, `None` at the end of the table, and whether all
/// of it was old, so that there may be more.
#[derive(Debug, Clone, Copy)]
struct Batch {
    through: Option<i64>,
    is_all_old: Option<bool>,
}

/// Removes what is older than `retention`. Cheap where there is nothing to remove, so it may run every minute; of
/// several replicas, one is enough.
pub async fn run(pool: &PgPool, retention: Duration) -> Result<(), QueueError> {
    let error = QueueError::on("remove what is past its retention");
    remove_old(pool, retention).await.map_err(error)
}

async fn remove_old(pool: &PgPool, retention: Duration) -> Result<(), sqlx::Error> {
    let before = cutoff(pool, retention).await?;
    from_old_end(|after| remove_blocks(pool, before, after)).await?;
    from_old_end(|after| remove_log(pool, before, after)).await?;
    from_old_end(|after| remove_changes(pool, before, after)).await?;
    from_old_end(|after| remove_bodies(pool, before, after)).await?;
    until_few(|| remove_dead_rows(pool, before)).await?;
    until_few(|| remove_tombstones(pool, before)).await?;
    remove_streams(pool).await?;
    until_few(|| remove_positions(pool)).await?;
    remove_workers(pool).await
}

async fn cutoff(pool: &PgPool, retention: Duration) -> Result<DatabaseTime, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select clock_timestamp() - make_interval(secs => $1) as "before!: _""#,
        retention.as_secs_f64()
    )
    .fetch_one(pool)
    .await
}

/// Removes batch after batch, each behind the one before, so that none looks at what was just removed.
async fn from_old_end<F>(remove: impl Fn(i64) -> F) -> Result<(), sqlx::Error>
where
    F: Future<Output = Result<Batch, sqlx::Error>>,
{
    let mut after = 0;
    while let Batch { through: Some(through), is_all_old: Some(true) } = remove(after).await? {
        after = through;
    }
    Ok(())
}

/// Repeats a statement that removes at most [`ROWS_MAX`] rows for as long as there are so many.
async fn until_few<F>(remove: impl Fn() -> F) -> Result<(), sqlx::Error>
where
    F: Future<Output = Result<u64, sqlx::Error>>,
{
    while i64::try_from(remove().await?).unwrap_or(i64::MAX) >= ROWS_MAX {}
    Ok(())
}

/// What is not folded yet stays, however old.
async fn remove_blocks(pool: &PgPool, before: DatabaseTime, after: i64) -> Result<Batch, sqlx::Error> {
    sqlx::query_as!(
        Batch,
        r#"with oldest as materialized (
               select id, stream_id, received_at < $2 as is_old from nxt_mirror.ledger_block
                where id > $1 order by id limit $3
           ), gone as (
               delete from nxt_mirror.ledger_block as block using oldest
                where block.id = oldest.id and oldest.is_old
                  and (not exists (select from nxt_mirror.stream as stream where stream.id = oldest.stream_id)
                       or oldest.id <= (select max(through_id) from nxt_mirror.fold as fold
                                         where fold.stream_id = oldest.stream_id))
           )
           select max(id) as "through?", bool_and(is_old) as "is_all_old?" from oldest"#,
        after,
        before as _,
        BLOCKS_MAX
    )
    .fetch_one(pool)
    .await
}

async fn remove_log(pool: &PgPool, before: DatabaseTime, after: i64) -> Result<Batch, sqlx::Error> {
    sqlx::query_as!(
        Batch,
        r#"with oldest as materialized (
               select id, at < $2 as is_old from nxt_mirror.sync_log where id > $1 order by id limit $3
           ), gone as (
               delete from nxt_mirror.sync_log as log using oldest where log.id = oldest.id and oldest.is_old
           )
           select max(id) as "through?", bool_and(is_old) as "is_all_old?" from oldest"#,
        after,
        before as _,
        ROWS_MAX
    )
    .fetch_one(pool)
    .await
}

async fn remove_changes(pool: &PgPool, before: DatabaseTime, after: i64) -> Result<Batch, sqlx::Error> {
    sqlx::query_as!(
        Batch,
        r#"with oldest as materialized (
               select position, at < $2 as is_old from nxt_mirror.change_log where position > $1
                order by position limit $3
           ), gone as (
               delete from nxt_mirror.change_log as entry using oldest
                where entry.position = oldest.position and oldest.is_old
           )
           select max(position) as "through?", bool_and(is_old) as "is_all_old?" from oldest"#,
        after,
        before as _,
        ROWS_MAX
    )
    .fetch_one(pool)
    .await
}

async fn remove_bodies(pool: &PgPool, before: DatabaseTime, after: i64) -> Result<Batch, sqlx::Error> {
    sqlx::query_as!(
        Batch,
        r#"with oldest as materialized (
               select id, received_at < $2 as is_old from nxt_mirror.quarantine where id > $1 order by id limit $3
           ), gone as (
               delete from nxt_mirror.quarantine as letter using oldest where letter.id = oldest.id and oldest.is_old
           )
           select max(id) as "through?", bool_and(is_old) as "is_all_old?" from oldest"#,
        after,
        before as _,
        BLOCKS_MAX
    )
    .fetch_one(pool)
    .await
}

async fn remove_dead_rows(pool: &PgPool, before: DatabaseTime) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "delete from nxt_mirror.dead_row
          where id = any(array(select id from nxt_mirror.dead_row where last_at < $1 order by id limit $2
                                  for update skip locked))",
        before as _,
        ROWS_MAX
    )
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
}

async fn remove_tombstones(pool: &PgPool, before: DatabaseTime) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "with oldest as materialized (
             select target_id, folded_key from nxt_mirror.tombstone where received_at < $1
              order by received_at limit $2 for update skip locked
         )
         delete from nxt_mirror.tombstone as stone using oldest
          where stone.target_id = oldest.target_id and stone.folded_key = oldest.folded_key",
        before as _,
        ROWS_MAX
    )
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
}

/// A stream takes blocks for a day. Two days old and folded to its end, it is over.
async fn remove_streams(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with finished as materialized (
             select stream.id
               from nxt_mirror.stream as stream
              cross join lateral (select coalesce(max(fold.through_id), 0) as through_id
                                    from nxt_mirror.fold as fold where fold.stream_id = stream.id) as position
               left join lateral (select block.stream_id from nxt_mirror.ledger_block as block
                                   where (block.stream_id, block.id) > (stream.id, position.through_id)
                                   order by block.stream_id, block.id limit 1) as next on true
              where stream.opened_at < now() - interval '2 days' and next.stream_id is distinct from stream.id
         ), gone as (
             delete from nxt_mirror.stream as stream using finished where stream.id = finished.id
         )
         delete from nxt_mirror.fold as fold using finished where fold.stream_id = finished.id"
    )
    .execute(pool)
    .await
    .map(drop)
}

/// Of each stream's positions only the newest count.
async fn remove_positions(pool: &PgPool) -> Result<u64, sqlx::Error> {
    sqlx::query!(
        "with old as materialized (
             select fold.stream_id, fold.through_id
               from nxt_mirror.stream as stream
              cross join lateral (select through_id from nxt_mirror.fold as newest
                                   where newest.stream_id = stream.id
                                   order by through_id desc offset $1 limit 1) as edge
               join nxt_mirror.fold as fold
                    on fold.stream_id = stream.id and fold.through_id <= edge.through_id
              limit $2
         )
         delete from nxt_mirror.fold as fold using old
          where fold.stream_id = old.stream_id and fold.through_id = old.through_id",
        POSITIONS_KEPT,
        ROWS_MAX
    )
    .execute(pool)
    .await
    .map(|done| done.rows_affected())
}

/// Workers that were killed.
async fn remove_workers(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from nxt_mirror.worker where alive_until < clock_timestamp() - interval '1 hour'")
        .execute(pool)
        .await
        .map(drop)
}
