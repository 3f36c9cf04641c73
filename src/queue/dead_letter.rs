//! What was set aside, and the ways back.

use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use super::{Asked, Journal, QueueError};
use crate::domain::{AnnouncedKey, DatabaseTime, ShownKey, TargetId};

/// One entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// `body` for one that was not understood, `row` for one that could not be mirrored.
    pub kind: String,
    /// Why it is here.
    pub reason: String,
    /// Failures before it was set aside.
    pub attempts: i32,
    /// When it was set aside first.
    pub first_at: DatabaseTime,
    /// When it was set aside last.
    pub last_at: DatabaseTime,
    /// Whose row.
    pub company_no: Option<i64>,
    /// Whose row, of a customer-level table.
    pub customer_no: Option<i64>,
    /// Of which table.
    pub table_name: Option<String>,
    /// Which row.
    pub key: Option<ShownKey>,
    /// Id of the delivery, of a body.
    pub delivery_id: Option<String>,
    /// The latest notification, of a row.
    pub notification_id: Option<i64>,
}

/// Entries with greater ids than `after`, oldest first, at most `limit`.
pub async fn list(pool: &PgPool, after: i64, limit: i64) -> Result<Vec<DeadLetter>, QueueError> {
    let records = sqlx::query!(
        r#"select id as "id!", kind as "kind!", reason as "reason!", attempts as "attempts!",
                  first_at as "first_at!: DatabaseTime", last_at as "last_at!: DatabaseTime", company_no as "company_no?",
                  customer_no as "customer_no?", table_name as "table_name?", key::text as "key?",
                  (select nxt_mirror.key_names(mirrored.spec) from nxt_mirror.mirrored_table as mirrored
                    where mirrored.table_name = letter.table_name) as "key_names?",
                  delivery_id as "delivery_id?", notification_id as "notification_id?"
             from nxt_mirror.dead_letter as letter where id > $1 order by id limit $2"#,
        after,
        limit
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("list dead letters"))?;
    let letters = records.into_iter().map(|record| DeadLetter {
        id: record.id,
        kind: record.kind,
        reason: record.reason,
        attempts: record.attempts,
        first_at: record.first_at,
        last_at: record.last_at,
        company_no: record.company_no,
        customer_no: record.customer_no,
        table_name: record.table_name,
        key: record.key.and_then(|key| ShownKey::ordered(&key, &record.key_names.unwrap_or_default())),
        delivery_id: record.delivery_id,
        notification_id: record.notification_id,
    });
    Ok(letters.collect())
}

/// How many rows and how many bodies were set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: i64,
    /// Bodies.
    pub bodies: i64,
}

/// Counts the entries.
pub async fn count(pool: &PgPool) -> Result<Counts, QueueError> {
    sqlx::query_as!(
        Counts,
        r#"select (select count(*) from nxt_mirror.dead_row) as "rows!",
                  (select count(*) from nxt_mirror.quarantine) as "bodies!""#
    )
    .fetch_one(pool)
    .await
    .map_err(QueueError::on("count dead letters"))
}

/// Forgets a body that was not understood, by what it says. Returns how often it was there.
pub async fn drop_body(pool: &PgPool, body: &[u8]) -> Result<u64, QueueError> {
    let done = sqlx::query!("delete from nxt_mirror.quarantine where body = $1", body).execute(pool).await;
    done.map(|done| done.rows_affected()).map_err(QueueError::on("drop a dead letter"))
}

/// One entry and, for a body, its bytes.
pub async fn show(pool: &PgPool, id: i64) -> Result<Option<(DeadLetter, Option<Vec<u8>>)>, QueueError> {
    let letter = list(pool, id.saturating_sub(1), 1).await?.pop().filter(|letter| letter.id == id);
    let Some(letter) = letter else { return Ok(None) };
    Ok(Some((letter, body(pool, id).await?)))
}

async fn body(pool: &PgPool, id: i64) -> Result<Option<Vec<u8>>, QueueError> {
    sqlx::query_scalar!("select body from nxt_mirror.quarantine where id = $1", id)
        .fetch_optional(pool)
        .await
        .map_err(QueueError::on("read the body of a dead letter"))
}

/// Makes rows dirty again with all that was known of them, removes their letters, and logs who asked for each in the same
/// transaction. Bodies are left alone. Returns how many rows there were.
pub async fn retry_rows(pool: &PgPool, ids: &[i64], asked: &Asked) -> Result<u64, QueueError> {
    let failed = || QueueError::on("retry dead letters");
    let mut transaction = pool.begin().await.map_err(failed())?;
    let retried = sqlx::query_scalar!(
        r#"with letter as (
             delete from nxt_mirror.dead_row where id = any($1)
             returning id, target_id, row_key, notification_id, deleted_at, delete_received_at, announced, changed_at
         ), retried as (
             insert into nxt_mirror.dirty_row as dirty
                 (target_id, row_key, due_at, waiting_since, notification_id, deleted_at, delete_received_at, announced,
                  changed_at)
             select target_id, row_key, now(), now(), notification_id, deleted_at, delete_received_at, announced,
                    changed_at
               from letter order by target_id, row_key
             on conflict on constraint dirty_row_pkey do update set
                 generation = excluded.generation, priority = 0, due_at = least(dirty.due_at, now()), attempts = 0,
                 announced = dirty.announced or excluded.announced,
                 deleted_at = greatest(dirty.deleted_at, excluded.deleted_at),
                 delete_received_at = greatest(dirty.delete_received_at, excluded.delete_received_at)
         )
         select id as "id!" from letter"#,
        ids
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed())?;
    commit(transaction, asked, &retried).await.map_err(failed())?;
    Ok(retried.len() as u64)
}

/// Commits what was done to these letters, and who asked for it.
async fn commit(transaction: Transaction<'static, Postgres>, asked: &Asked, done: &[i64]) -> Result<(), sqlx::Error> {
    let mut journal = Journal::default();
    asked.entries(done).for_each(|entry| journal.ask(entry));
    journal.commit(transaction).await
}

/// A target can be read and written: some of its rows that were set aside while it could not are tried again, behind
/// live work. A few at a time, so that one success does not free thousands; and with the failures that they had, so
/// that one that still fails is set aside for good at once. Returns how many.
pub async fn requeue_dead(connection: &mut PgConnection, target: TargetId, rows_max: i64) -> Result<u64, QueueError> {
    sqlx::query!(
        "with chosen as materialized (
             select id from nxt_mirror.dead_row where target_id = $1 and of_target
              order by row_key limit $2 for update skip locked
         ), letter as (
             delete from nxt_mirror.dead_row as dead using chosen where dead.id = chosen.id
             returning dead.target_id, dead.row_key, dead.attempts, dead.notification_id, dead.deleted_at,
                       dead.delete_received_at, dead.announced, dead.changed_at
         )
         insert into nxt_mirror.dirty_row as dirty
             (target_id, row_key, priority, due_at, attempts, waiting_since, notification_id, deleted_at,
              delete_received_at, announced, changed_at)
         select target_id, row_key, 1, now(), attempts, now(), notification_id, deleted_at, delete_received_at,
                announced, changed_at
           from letter order by target_id, row_key
         on conflict on constraint dirty_row_pkey do update set
             generation = excluded.generation, announced = dirty.announced or excluded.announced,
             deleted_at = greatest(dirty.deleted_at, excluded.deleted_at),
             delete_received_at = greatest(dirty.delete_received_at, excluded.delete_received_at)",
        target as _,
        rows_max
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected())
    .map_err(QueueError::on("retry dead letters of a target"))
}

/// Sets rows of a target aside that were never waited for: those that no work can ask for, by what they are called.
pub async fn set_aside(
    connection: &mut PgConnection,
    target: TargetId,
    rows: &[(AnnouncedKey, String)],
) -> Result<(), QueueError> {
    if rows.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = rows.iter().map(|(key, _)| key.canonical()).collect();
    let reasons: Vec<String> = rows.iter().map(|(_, reason)| reason.replace('\0', "\u{fffd}")).collect();
    sqlx::query!(
        "insert into nxt_mirror.dead_row as dead (target_id, row_key, reason, attempts, announced, of_target)
         select distinct on (row_key) $1::integer, row_key, reason, 1, false, false
           from unnest($2::text[], $3::text[]) as given (row_key, reason)
          order by row_key
         on conflict on constraint dead_row_row do update set
             reason = excluded.reason, attempts = dead.attempts + 1, last_at = excluded.last_at",
        target as _,
        &keys,
        &reasons
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("set rows aside"))
}

/// One row of each target that could not be read or written is tried again, unless the target is paused or has others
/// that wait, so that one that can be is noticed. Returns how many.
pub async fn probe_targets(connection: &mut PgConnection) -> Result<u64, QueueError> {
    let failed = || QueueError::on("probe targets that could not be read");
    let targets: Vec<TargetId> = sqlx::query_scalar!(
        r#"select target.id as "id: _" from nxt_mirror.target as target
            where (target.paused_until is null or target.paused_until <= now())
              and exists (select from nxt_mirror.dead_row as dead where dead.target_id = target.id and dead.of_target)
              and not exists (select from nxt_mirror.dirty_row as dirty where dirty.target_id = target.id)
            order by target.id limit 100"#
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed())?;
    let mut requeued = 0;
    for target in targets {
        requeued += requeue_dead(connection, target, 1).await?;
    }
    Ok(requeued)
}

/// Whether any row of a target is set aside.
pub async fn has_any(connection: &mut PgConnection, target: TargetId) -> Result<bool, QueueError> {
    sqlx::query_scalar!(
        r#"select exists (select from nxt_mirror.dead_row where target_id = $1) as "exists!""#,
        target as _
    )
    .fetch_one(connection)
    .await
    .map_err(QueueError::on("look for dead letters"))
}

/// Removes the letters of rows that have come right, by canonical key: what was set aside is no longer so.
pub async fn clear_dead(connection: &mut PgConnection, target: TargetId, keys: &[String]) -> Result<(), QueueError> {
    if keys.is_empty() {
        return Ok(());
    }
    // Each key is looked up by itself, as tombstones are: nearly always there is nothing to remove.
    sqlx::query!(
        r#"delete from nxt_mirror.dead_row
            where id = any(array(
                  select letter.id
                    from unnest($2::text[]) as given (row_key)
                   cross join lateral (
                         select dead.id from nxt_mirror.dead_row as dead
                          where dead.target_id = $1 and dead.row_key = given.row_key collate "C"
                          limit 1) as letter))"#,
        target as _,
        keys
    )
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("remove letters of rows that came right"))
}

/// Removes letters for good, and logs who asked for each in the same transaction. Returns how many there were.
pub async fn remove(pool: &PgPool, ids: &[i64], asked: &Asked) -> Result<u64, QueueError> {
    let failed = || QueueError::on("remove dead letters");
    let mut transaction = pool.begin().await.map_err(failed())?;
    let removed = sqlx::query_scalar!(
        r#"with row as (delete from nxt_mirror.dead_row where id = any($1) returning id),
                body as (delete from nxt_mirror.quarantine where id = any($1) returning id)
           select id as "id!" from row union all select id from body"#,
        ids
    )
    .fetch_all(&mut *transaction)
    .await
    .map_err(failed())?;
    commit(transaction, asked, &removed).await.map_err(failed())?;
    Ok(removed.len() as u64)
}
