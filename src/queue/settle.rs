//! Settling dirty rows, inside the transaction that writes the mirror.
//!
//! Keys are joined with their target's number beside each of them. A target that is given once would invite the planner
//! to read all of its rows, of which there are few by its statistics, and among them every one that was settled while
//! somebody held an old snapshot.

use std::collections::HashMap;

use chrono::Duration;
use sqlx::PgConnection;

use super::QueueError;
use crate::domain::{DatabaseTime, TargetId, settle::Doubted};

/// What becomes of a dirty row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Settled, if its generation is still this one; otherwise due at once.
    Done {
        /// The generation that was settled.
        generation: i64,
    },
    /// Due again after a pause. An answer, even an inconclusive one, ends the failures.
    Recheck {
        /// The generation that was looked at; if another notification has come since, the row is due at once.
        generation: i64,
        /// How long.
        pause: Duration,
        /// The answer that counts among the rechecks.
        counts: Option<Doubted>,
    },
    /// Given back untried. Without a pause nothing changes.
    Release {
        /// How long until it is due.
        pause: Duration,
    },
    /// Failed, due again after a pause.
    Fail {
        /// Failures so far, this one included.
        attempts: u32,
        /// How long.
        pause: Duration,
        /// Why.
        error: String,
    },
    /// Set aside in the dead letters, if its generation is still this one; otherwise due at once.
    DeadLetter {
        /// The generation that failed.
        generation: i64,
        /// Why.
        reason: String,
        /// Whether nothing of its target can be read or written, so that it is tried again by itself when something
        /// can.
        of_target: bool,
    },
}

/// Writes the outcomes of dirty rows of one target, by canonical key. Rows that are not dirty are left alone.
///
/// Of a row that is done and was notified again meanwhile, everything received before `started_at`, the start of the
/// request, is settled: from then on it waits. One that is not done waits as long as ever.
pub async fn settle(
    connection: &mut PgConnection,
    target: TargetId,
    outcomes: &[(&str, Outcome)],
    started_at: Option<DatabaseTime>,
) -> Result<(), QueueError> {
    let touched: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_to_be_written()).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = touched.iter().map(|(key, _)| *key).collect();
    let generations = lock(connection, target, &keys).await.map_err(QueueError::on("lock dirty rows"))?;
    let mut changes = Changes::default();
    for (key, outcome) in touched {
        if let Some(now) = generations.get(*key) {
            changes.add(key, outcome, *now);
        }
    }
    changes.write(connection, target, started_at).await
}

impl Outcome {
    fn is_to_be_written(&self) -> bool {
        !matches!(self, Self::Release { pause } if *pause <= Duration::zero())
    }
}

/// Locks rows in the order of their keys, as folding does, and reads their generations.
async fn lock(
    connection: &mut PgConnection,
    target: TargetId,
    keys: &[&str],
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select dirty.row_key, dirty.generation
             from unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[])
                      as given (target_id, row_key)
             join nxt_mirror.dirty_row as dirty
                  on dirty.target_id = given.target_id and dirty.row_key = given.row_key collate "C"
            order by dirty.row_key for update of dirty"#,
        target as _,
        keys as _
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.row_key, row.generation)).collect())
}

/// Locked rows by what becomes of them.
#[derive(Default)]
struct Changes<'a> {
    settled: Vec<&'a str>,
    /// Settled, and notified again meanwhile.
    renewed: Vec<&'a str>,
    /// Not settled, and notified again meanwhile.
    overtaken: Vec<&'a str>,
    dead: Vec<(&'a str, &'a str, bool)>,
    waiting: Vec<Waiting<'a>>,
}

/// A row that stays, due after a pause. What is `None` stays as it is.
struct Waiting<'a> {
    key: &'a str,
    pause: Duration,
    counts: Option<Doubted>,
    attempts: Option<i32>,
    error: Option<&'a str>,
}

impl<'a> Changes<'a> {
    fn add(&mut self, key: &'a str, outcome: &'a Outcome, now: i64) {
        let waiting = |pause: &Duration| Waiting { key, pause: *pause, counts: None, attempts: None, error: None };
        match outcome {
            Outcome::Done { generation } if *generation != now => self.renewed.push(key),
            Outcome::Recheck { generation, .. } | Outcome::DeadLetter { generation, .. } if *generation != now => {
                self.overtaken.push(key);
            }
            Outcome::Done { .. } => self.settled.push(key),
            Outcome::DeadLetter { reason, of_target, .. } => {
                self.dead.push((key, reason, *of_target));
                self.settled.push(key);
            }
            Outcome::Recheck { pause, counts, .. } => {
                self.waiting.push(Waiting { counts: *counts, attempts: Some(0), ..waiting(pause) });
            }
            Outcome::Release { pause } => self.waiting.push(waiting(pause)),
            Outcome::Fail { attempts, pause, error } => {
                let attempts = Some(i32::try_from(*attempts).unwrap_or(i32::MAX));
                self.waiting.push(Waiting { attempts, error: Some(error), ..waiting(pause) });
            }
        }
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        target: TargetId,
        started_at: Option<DatabaseTime>,
    ) -> Result<(), QueueError> {
        if !self.dead.is_empty() {
            set_aside(connection, target, &self.dead).await.map_err(QueueError::on("write dead letters"))?;
        }
        if !self.settled.is_empty() {
            remove(connection, target, &self.settled).await.map_err(QueueError::on("clear settled rows"))?;
        }
        for (keys, settled_until) in [(&self.renewed, started_at), (&self.overtaken, None)] {
            if !keys.is_empty() {
                renew(connection, target, keys, settled_until).await.map_err(QueueError::on("renew rows"))?;
            }
        }
        if !self.waiting.is_empty() {
            postpone(connection, target, &self.waiting).await.map_err(QueueError::on("give rows back"))?;
        }
        Ok(())
    }
}

/// Copies rows to the dead letters, with their evidence, so that a retry knows as much as the first try did.
async fn set_aside(
    connection: &mut PgConnection,
    target: TargetId,
    rows: &[(&str, &str, bool)],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.dead_row as dead
             (target_id, row_key, reason, attempts, notification_id, deleted_at, delete_received_at, announced,
              changed_at, of_target)
         select dirty.target_id, dirty.row_key, given.reason, dirty.attempts + 1, dirty.notification_id,
                dirty.deleted_at, dirty.delete_received_at, dirty.announced, dirty.changed_at, given.of_target
           from unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[], $3::text[], $4::boolean[])
                    as given (target_id, row_key, reason, of_target)
           join nxt_mirror.dirty_row as dirty on dirty.target_id = given.target_id and dirty.row_key = given.row_key
          order by dirty.row_key
         on conflict on constraint dead_row_row do update set
             reason = excluded.reason, attempts = dead.attempts + excluded.attempts, last_at = excluded.last_at,
             notification_id = greatest(dead.notification_id, excluded.notification_id),
             announced = dead.announced or excluded.announced,
             deleted_at = greatest(dead.deleted_at, excluded.deleted_at),
             delete_received_at = greatest(dead.delete_received_at, excluded.delete_received_at),
             changed_at = greatest(dead.changed_at, excluded.changed_at), of_target = excluded.of_target",
        target as _,
        rows.iter().map(|(key, _, _)| *key).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, reason, _)| reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>(),
        &rows.iter().map(|(_, _, of_target)| *of_target).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn remove(connection: &mut PgConnection, target: TargetId, keys: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"delete from nxt_mirror.dirty_row as dirty
            using unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[])
                      as given (target_id, row_key)
            where dirty.target_id = given.target_id and dirty.row_key = given.row_key collate "C""#,
        target as _,
        keys as _
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Rows that were notified again are due at once, with a clean record, and wait since `settled_until` where that is later.
async fn renew(
    connection: &mut PgConnection,
    target: TargetId,
    keys: &[&str],
    settled_until: Option<DatabaseTime>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"update nxt_mirror.dirty_row as dirty
              set due_at = least(dirty.due_at, now()), attempts = 0, last_error = null,
                  waiting_since = greatest(dirty.waiting_since, $3)
             from unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[])
                      as given (target_id, row_key)
            where dirty.target_id = given.target_id and dirty.row_key = given.row_key collate "C""#,
        target as _,
        keys as _,
        settled_until as _
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn postpone(connection: &mut PgConnection, target: TargetId, rows: &[Waiting<'_>]) -> Result<(), sqlx::Error> {
    let counts = |answer| rows.iter().map(|row| i32::from(row.counts == Some(answer))).collect::<Vec<_>>();
    sqlx::query!(
        r#"update nxt_mirror.dirty_row as dirty
              set due_at = now() + make_interval(secs => given.pause),
                  found_rechecks = dirty.found_rechecks + given.found,
                  missing_rechecks = dirty.missing_rechecks + given.missing,
                  attempts = coalesce(given.attempts, dirty.attempts),
                  last_error = coalesce(given.error, dirty.last_error)
             from unnest(array_fill($1::integer, array[cardinality($2::text[])]), $2::text[], $3::float8[],
                         $4::integer[], $5::integer[], $6::integer[], $7::text[])
                      as given (target_id, row_key, pause, found, missing, attempts, error)
            where dirty.target_id = given.target_id and dirty.row_key = given.row_key collate "C""#,
        target as _,
        rows.iter().map(|row| row.key).collect::<Vec<_>>() as _,
        &rows.iter().map(|row| row.pause.as_seconds_f64()).collect::<Vec<_>>(),
        &counts(Doubted::Found),
        &counts(Doubted::Missing),
        rows.iter().map(|row| row.attempts).collect::<Vec<_>>() as _,
        rows.iter().map(|row| row.error.map(|error| error.replace('\0', "\u{fffd}"))).collect::<Vec<_>>() as _
    )
    .execute(connection)
    .await
    .map(drop)
}
