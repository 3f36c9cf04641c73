//! Settling dirty rows, inside the transaction that writes the mirror.
//!
//! While somebody holds an old snapshot, whoever looks for a row by its key meets all its dead versions. So a row is
//! looked for where it was claimed, by its key only if it has moved since, and changed where it was locked.

use std::collections::HashMap;

use chrono::Duration;
use sqlx::PgConnection;

use super::{DirtyRow, Place, QueueError};
use crate::domain::{DatabaseTime, TargetId, settle::Doubted};

/// What becomes of a dirty row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Settled, if it is still as it was claimed; otherwise due at once.
    Done,
    /// Due again after a pause, or at once if another notification has come since. An answer, even an inconclusive one,
    /// ends the failures.
    Recheck {
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
    /// Set aside in the dead letters, if it is still as it was claimed; otherwise due at once.
    DeadLetter {
        /// Why.
        reason: String,
        /// Whether nothing of its target can be read or written, so that it is tried again by itself when something
        /// can.
        of_target: bool,
    },
}

/// Writes the outcomes of claimed rows of one target. Rows that are not dirty any more are left alone.
///
/// Of a row that is done and was notified again meanwhile, everything received before `started_at`, the start of the
/// request, is settled: from then on it waits. One that is not done waits as long as ever.
pub async fn settle(
    connection: &mut PgConnection,
    target: TargetId,
    outcomes: &[(&DirtyRow, Outcome)],
    started_at: Option<DatabaseTime>,
) -> Result<(), QueueError> {
    let mut touched: Vec<_> = outcomes.iter().filter(|(_, outcome)| outcome.is_to_be_written()).collect();
    if touched.is_empty() {
        return Ok(());
    }
    touched.sort_unstable_by(|(one, _), (other, _)| one.row_key.cmp(&other.row_key));
    let rows: Vec<_> = touched.iter().map(|(row, _)| *row).collect();
    let locked = lock(connection, target, &rows).await.map_err(QueueError::on("lock dirty rows"))?;
    let mut changes = Changes::default();
    for (row, outcome) in touched {
        if let Some(locked) = locked.get(&*row.row_key) {
            changes.add(locked, outcome, locked.generation == row.generation);
        }
    }
    changes.write(connection, started_at).await
}

impl Outcome {
    fn is_to_be_written(&self) -> bool {
        !matches!(self, Self::Release { pause } if *pause <= Duration::zero())
    }
}

/// A locked row stays where it is until the transaction ends.
struct Locked {
    row_key: String,
    generation: i64,
    place: Place,
}

/// Locks rows, which come in the order of their keys, as folding does. One that somebody changes at this moment may be
/// left out: it stays dirty.
async fn lock(
    connection: &mut PgConnection,
    target: TargetId,
    rows: &[&DirtyRow],
) -> Result<HashMap<String, Locked>, sqlx::Error> {
    let locked = sqlx::query_as!(
        Locked,
        r#"select dirty.row_key, dirty.generation, dirty.place as "place!: Place"
             from unnest($2::text[], $3::text[]) as given (row_key, place)
            cross join lateral (
                  select row.row_key, row.generation, row.ctid::text as place
                    from nxt_mirror.dirty_row as row
                   where row.ctid = coalesce(
                         (select there.ctid from nxt_mirror.dirty_row as there
                           where there.ctid = given.place::tid and there.target_id = $1
                             and there.row_key = given.row_key collate "C"),
                         (select moved.ctid from nxt_mirror.dirty_row as moved
                           where moved.target_id = $1 and moved.row_key = given.row_key collate "C"))
                     for update) as dirty"#,
        target as _,
        rows.iter().map(|row| &*row.row_key).collect::<Vec<_>>() as _,
        rows.iter().map(|row| &row.place).collect::<Vec<_>>() as _
    )
    .fetch_all(connection)
    .await?;
    Ok(locked.into_iter().map(|row| (row.row_key.clone(), row)).collect())
}

/// Locked rows by what becomes of them.
#[derive(Default)]
struct Changes<'a> {
    settled: Vec<&'a Place>,
    /// Settled, and notified again meanwhile.
    renewed: Vec<&'a Place>,
    /// Not settled, and notified again meanwhile.
    overtaken: Vec<&'a Place>,
    dead: Vec<(&'a Place, &'a str, bool)>,
    waiting: Vec<Waiting<'a>>,
}

/// A row that stays, due after a pause. What is `None` stays as it is.
struct Waiting<'a> {
    place: &'a Place,
    pause: Duration,
    counts: Option<Doubted>,
    attempts: Option<i32>,
    error: Option<&'a str>,
}

impl<'a> Changes<'a> {
    fn add(&mut self, row: &'a Locked, outcome: &'a Outcome, is_as_claimed: bool) {
        let place = &row.place;
        let waiting = |pause: &Duration| Waiting { place, pause: *pause, counts: None, attempts: None, error: None };
        match outcome {
            Outcome::Done if !is_as_claimed => self.renewed.push(place),
            Outcome::Recheck { .. } | Outcome::DeadLetter { .. } if !is_as_claimed => self.overtaken.push(place),
            Outcome::Done => self.settled.push(place),
            Outcome::DeadLetter { reason, of_target } => {
                self.dead.push((place, reason, *of_target));
                self.settled.push(place);
            }
            Outcome::Recheck { pause, counts } => {
                self.waiting.push(Waiting { counts: *counts, attempts: Some(0), ..waiting(pause) });
            }
            Outcome::Release { pause } => self.waiting.push(waiting(pause)),
            Outcome::Fail { attempts, pause, error } => {
                let attempts = Some(i32::try_from(*attempts).unwrap_or(i32::MAX));
                self.waiting.push(Waiting { attempts, error: Some(error), ..waiting(pause) });
            }
        }
    }

    async fn write(&self, connection: &mut PgConnection, started_at: Option<DatabaseTime>) -> Result<(), QueueError> {
        if !self.dead.is_empty() {
            set_aside(connection, &self.dead).await.map_err(QueueError::on("write dead letters"))?;
        }
        if !self.settled.is_empty() {
            remove(connection, &self.settled).await.map_err(QueueError::on("clear settled rows"))?;
        }
        for (rows, settled_until) in [(&self.renewed, started_at), (&self.overtaken, None)] {
            if !rows.is_empty() {
                renew(connection, rows, settled_until).await.map_err(QueueError::on("renew rows"))?;
            }
        }
        if !self.waiting.is_empty() {
            postpone(connection, &self.waiting).await.map_err(QueueError::on("give rows back"))?;
        }
        Ok(())
    }
}

/// Copies rows to the dead letters, with their evidence, so that a retry knows as much as the first try did.
async fn set_aside(connection: &mut PgConnection, rows: &[(&Place, &str, bool)]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.dead_row as dead
             (target_id, row_key, reason, attempts, notification_id, deleted_at, delete_received_at, announced,
              changed_at, of_target)
         select dirty.target_id, dirty.row_key, given.reason, dirty.attempts + 1, dirty.notification_id,
                dirty.deleted_at, dirty.delete_received_at, dirty.announced, dirty.changed_at, given.of_target
           from unnest($1::text[], $2::text[], $3::boolean[]) as given (place, reason, of_target)
           join nxt_mirror.dirty_row as dirty on dirty.ctid = given.place::tid
          order by dirty.row_key
         on conflict on constraint dead_row_row do update set
             reason = excluded.reason, attempts = dead.attempts + excluded.attempts, last_at = excluded.last_at,
             notification_id = greatest(dead.notification_id, excluded.notification_id),
             announced = dead.announced or excluded.announced,
             deleted_at = greatest(dead.deleted_at, excluded.deleted_at),
             delete_received_at = greatest(dead.delete_received_at, excluded.delete_received_at),
             changed_at = greatest(dead.changed_at, excluded.changed_at), of_target = excluded.of_target",
        rows.iter().map(|(place, _, _)| *place).collect::<Vec<_>>() as _,
        &rows.iter().map(|(_, reason, _)| reason.replace('\0', "\u{fffd}")).collect::<Vec<_>>(),
        &rows.iter().map(|(_, _, of_target)| *of_target).collect::<Vec<_>>()
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn remove(connection: &mut PgConnection, rows: &[&Place]) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from nxt_mirror.dirty_row where ctid = any($1::text[]::tid[])", rows as _)
        .execute(connection)
        .await
        .map(drop)
}

/// Rows that were notified again are due at once, with a clean record, and wait since `settled_until` where that is later.
async fn renew(
    connection: &mut PgConnection,
    rows: &[&Place],
    settled_until: Option<DatabaseTime>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update nxt_mirror.dirty_row
            set due_at = least(due_at, now()), attempts = 0, last_error = null,
                waiting_since = greatest(waiting_since, $2)
          where ctid = any($1::text[]::tid[])",
        rows as _,
        settled_until as _
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn postpone(connection: &mut PgConnection, rows: &[Waiting<'_>]) -> Result<(), sqlx::Error> {
    let counts = |answer| rows.iter().map(|row| i32::from(row.counts == Some(answer))).collect::<Vec<_>>();
    sqlx::query!(
        r#"update nxt_mirror.dirty_row as dirty
              set due_at = now() + make_interval(secs => given.pause),
                  found_rechecks = dirty.found_rechecks + given.found,
                  missing_rechecks = dirty.missing_rechecks + given.missing,
                  attempts = coalesce(given.attempts, dirty.attempts),
                  last_error = coalesce(given.error, dirty.last_error)
             from unnest($1::text[], $2::float8[], $3::integer[], $4::integer[], $5::integer[], $6::text[])
                      as given (place, pause, found, missing, attempts, error)
            where dirty.ctid = given.place::tid"#,
        rows.iter().map(|row| row.place).collect::<Vec<_>>() as _,
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
