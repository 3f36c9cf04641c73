//! Clocks that disagree.
//!
//! The daemon's own clock decides nothing: what is decided by a time is decided by the database's. What is left to go
//! wrong are the clock and the zone of the source, which are told by evidence, and a database whose clock was set back,
//! which leaves times behind that are too far in the future.

use std::fmt;

use chrono::Duration;
use sqlx::PgPool;

use crate::domain::DatabaseTime;

/// Notifications that are looked at.
const SAMPLE: i64 = 200;
/// Half of half an hour, the least difference between two zones: a shift beyond it is no delay.
const ZONE_SHIFT_MIN: Duration = Duration::minutes(15);
/// Notifications that come from the future by more than this tell of a clock.
const AHEAD_MIN: Duration = Duration::seconds(60);
/// Notifications that are older than this when they come are late, or dated by a clock that is.
const BEHIND_MIN: Duration = Duration::minutes(30);
/// Nothing in the daemon's state is planned further ahead than this.
const PLANNED_MAX: Duration = Duration::minutes(6);

/// What recent notifications tell of the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    /// Notifications whose announced change time can be compared with that of their row.
    pub dated_rows: i64,
    /// How much later the rows are dated than their notifications announced: the median.
    pub zone_shift: Option<Duration>,
    /// Time from a change, by the source's clock, to the receipt of its notification, by the database's: the median.
    pub delay: Option<Duration>,
}

/// A clock or a zone that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// `NXT_SOURCE_TIMEZONE` is not the zone of `changedTimestamp`.
    Zone {
        /// How much later rows are dated than they were announced.
        shift: Duration,
    },
    /// The source's clock is ahead of the database's.
    Ahead {
        /// By how much at least.
        by: Duration,
    },
    /// The source's clock is behind the database's, or its notifications come late.
    Behind {
        /// By how much.
        by: Duration,
    },
}

impl Evidence {
    /// What is wrong.
    pub fn findings(&self) -> Vec<Finding> {
        let zone = self.zone_shift.filter(|shift| shift.abs() > ZONE_SHIFT_MIN).map(|shift| Finding::Zone { shift });
        let clock = self.delay.and_then(|delay| {
            if delay < -AHEAD_MIN {
                Some(Finding::Ahead { by: -delay })
            } else {
                (delay > BEHIND_MIN).then_some(Finding::Behind { by: delay })
            }
        });
        zone.into_iter().chain(clock).collect()
    }
}

impl Finding {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Zone { .. } => {
                "set NXT_SOURCE_TIMEZONE to the zone of changedTimestamp, such as Europe/Oslo, and walk the tables again"
            }
            Self::Ahead { .. } => {
                "set the clock of the database's machine by a time service; if it is right, ask Visma"
            }
            Self::Behind { .. } => {
                "if the daemon was down for as long, this passes; otherwise set the clock of the database's machine"
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zone { shift } => {
                write!(f, "rows are dated {} from what their notifications announced", Readable(*shift))
            }
            Self::Ahead { by } => write!(f, "notifications are dated {} after they were received", Readable(*by)),
            Self::Behind { by } => write!(f, "notifications are received {} after their changes", Readable(*by)),
        }
    }
}

/// A duration in the unit that people would use.
struct Readable(Duration);

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0.as_seconds_f64() / 60.0;
        if minutes.abs() < 60.0 { write!(f, "{minutes:.1} min") } else { write!(f, "{:.1} h", minutes / 60.0) }
    }
}

/// Reads what the latest notifications tell.
pub async fn evidence(pool: &PgPool) -> Result<Evidence, sqlx::Error> {
    let told = sqlx::query!(
        r#"with logged as (
               select notification_id, source_changed_at from nxt_mirror.sync_log order by id desc limit $1::bigint * 5
           ), dated as (
               select extract(epoch from logged.source_changed_at
                                         - block.changed_at[logged.notification_id % 1024 + 1])::float8 as shift
                 from logged join nxt_mirror.ledger_block as block on block.id = logged.notification_id / 1024
                where logged.source_changed_at is not null
                  and block.changed_at[logged.notification_id % 1024 + 1] is not null limit $1
           ), block as (
               select received_at, changed_at, deleted_at from nxt_mirror.ledger_block order by id desc limit $1
           ), received as (
               select extract(epoch from received_at - coalesce(deleted_at[part], changed_at[part]))::float8 as delay
                 from block, generate_series(1, 5) as part
                where coalesce(deleted_at[part], changed_at[part]) is not null limit $1
           )
           select (select count(*) from dated) as "dated_rows!",
                  (select percentile_cont(0.5) within group (order by shift) from dated) as "zone_shift?",
                  (select percentile_cont(0.5) within group (order by delay) from received) as "delay?""#,
        SAMPLE
    )
    .fetch_one(pool)
    .await?;
    Ok(Evidence {
        dated_rows: told.dated_rows,
        zone_shift: told.zone_shift.map(seconds),
        delay: told.delay.map(seconds),
    })
}

/// Brings back into reach what a clock that was set back has left far in the future: slots of the budget, pauses, rows
/// that wait for their turn, and workers that would count as alive for as long. Returns how much there was.
pub async fn recall(pool: &PgPool) -> Result<u64, sqlx::Error> {
    // A slot is free a minute after its request, as ever: nothing is known of when that was by the new clock.
    let slots = sqlx::query!(
        "update nxt_mirror.api_slot
            set free_at = clock_timestamp() + interval '60 seconds', in_flight_until = null
          where free_at > clock_timestamp() + $1",
        PLANNED_MAX as _
    );
    let budget = sqlx::query!(
        "update nxt_mirror.api_budget
            set paused_until = least(paused_until, clock_timestamp()),
                background_wanted_until = least(background_wanted_until, clock_timestamp())
          where greatest(paused_until, background_wanted_until) > clock_timestamp() + $1",
        PLANNED_MAX as _
    );
    let rows = sqlx::query!(
        "update nxt_mirror.dirty_row
            set due_at = now(), waiting_since = least(waiting_since, now()) where due_at > now() + $1",
        PLANNED_MAX as _
    );
    let targets = sqlx::query!(
        "update nxt_mirror.target set paused_until = now() where paused_until > now() + $1",
        PLANNED_MAX as _
    );
    let workers = sqlx::query!(
        "update nxt_mirror.worker set alive_until = now() where alive_until > now() + $1",
        PLANNED_MAX as _
    );
    let mut found = 0;
    for statement in [slots, budget, rows, targets, workers] {
        found += statement.execute(pool).await?.rows_affected();
    }
    Ok(found)
}

/// The time of the machine at hand, to be compared with the database's and for nothing else.
#[expect(clippy::disallowed_methods, reason = "the one comparison")]
pub fn of_this_machine() -> DatabaseTime {
    DatabaseTime::new(chrono::Utc::now())
}

fn seconds(seconds: f64) -> Duration {
    // Wider than any clock can be wrong.
    Duration::seconds(seconds.clamp(-1e11, 1e11) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(zone_shift: i64, delay: i64) -> Vec<Finding> {
        let minutes = |minutes| Some(Duration::minutes(minutes));
        Evidence { dated_rows: 1, zone_shift: minutes(zone_shift), delay: minutes(delay) }.findings()
    }

    #[test]
    fn clocks_that_agree_are_not_spoken_of_and_the_others_are() {
        assert_eq!(Evidence::default().findings(), []);
        assert_eq!(findings(0, 0), []);
        assert_eq!(findings(14, 29), []);
        assert_eq!(findings(-60, 0), [Finding::Zone { shift: Duration::hours(-1) }]);
        assert_eq!(findings(30, 0), [Finding::Zone { shift: Duration::minutes(30) }]);
        assert_eq!(findings(0, -60), [Finding::Ahead { by: Duration::hours(1) }]);
        assert_eq!(findings(0, 60), [Finding::Behind { by: Duration::hours(1) }]);
        assert_eq!(findings(60, 60).len(), 2);
    }

    #[test]
    fn a_finding_is_said_in_words() {
        let zone = Finding::Zone { shift: Duration::hours(-2) };
        assert_eq!(zone.to_string(), "rows are dated -2.0 h from what their notifications announced");
        assert!(Finding::Ahead { by: Duration::minutes(3) }.to_string().contains("3.0 min after they were received"));
    }
}
