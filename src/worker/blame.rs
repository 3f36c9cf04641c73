//! When there is no answer: whose fault it is, and what becomes of the rows.

use chrono::Duration;

use super::plan;
use crate::{
    queue::{Claimed, FailureOf, Outcome},
    upstream::Remedy,
};

/// Failures of a row that stands alone before it is set aside.
const ALONE_FAILURES_MAX: u32 = 4;
/// Failures of a whole table or company before its rows are set aside.
const LANE_FAILURES_MAX: u32 = 5;
/// Failures of a row that was delivered but cannot be read.
const UNREADABLE_FAILURES_MAX: u32 = 3;
/// The pause between two halvings.
const SPLIT_PAUSE_MS: i64 = 100;
/// The longest pause after failures.
const PAUSE_SECONDS_MAX: i64 = 60;
/// How long a deletion waits that needs a look while the API is away. Others wait for their turn by age.
const AWAY_PAUSE: Duration = Duration::seconds(5);

/// Who is at fault, as far as probes could tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The API asks for patience: no row is to blame.
    Impatience(std::time::Duration),
    /// The API is away for everybody: no row is to blame.
    Away,
    /// The table or the company cannot be read at all.
    Lane,
    /// The request did not fit the schema: its tables are described anew before the next one.
    Outdated,
    /// Some row of the batch.
    SomeRow,
    /// This very row: it was delivered but cannot be read or written.
    ThisRow,
}

impl Fault {
    /// What a remedy says by itself, before any probe.
    pub(super) fn of(remedy: Remedy, api_answers: bool) -> Self {
        match remedy {
            Remedy::Wait(pause) => Self::Impatience(pause),
            Remedy::Probe if !api_answers => Self::Away,
            Remedy::Redescribe => Self::Outdated,
            Remedy::Probe | Remedy::Split => Self::SomeRow,
        }
    }
}

/// A row without an answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) row: Claimed,
    pub(super) fault: Fault,
    /// How many rows failed together, this one included.
    pub(super) company: usize,
    pub(super) error: String,
}

impl Failure {
    pub(super) fn alone(row: Claimed, fault: Fault, error: String) -> Self {
        Self { row, fault, company: 1, error }
    }
}

/// What becomes of a row that failed.
pub(super) fn outcome(failure: &Failure, rows_max: usize) -> Outcome {
    let Failure { row, fault, company, error } = failure;
    let (of, limit, pause) = match fault {
        Fault::Impatience(pause) => {
            return Outcome::Release { pause: Duration::from_std(*pause).unwrap_or(AWAY_PAUSE) };
        }
        Fault::Away => {
            let pause = if row.evidence.deletion.is_some() { AWAY_PAUSE } else { Duration::zero() };
            return Outcome::Release { pause };
        }
        Fault::Lane => (FailureOf::Lane(row.lane_failures + 1), LANE_FAILURES_MAX, doubling(row.lane_failures)),
        Fault::ThisRow => (FailureOf::Row(row.attempts + 1), UNREADABLE_FAILURES_MAX, doubling(row.attempts)),
        Fault::Outdated | Fault::SomeRow => {
            let alone = plan::attempts_until_alone(rows_max);
            // Found to be the culprit within one claim, it stands alone from now on.
            let is_culprit = matches!(fault, Fault::SomeRow) && *company == 1;
            let before = if is_culprit { row.attempts.max(alone) } else { row.attempts };
            let pause = match before.checked_sub(alone) {
                None => Duration::milliseconds(SPLIT_PAUSE_MS),
                Some(failures) => doubling(failures),
            };
            (FailureOf::Row(before + 1), alone + ALONE_FAILURES_MAX, pause)
        }
    };
    let (FailureOf::Row(failures) | FailureOf::Lane(failures)) = of;
    if failures >= limit {
        let of_lane = matches!(fault, Fault::Lane);
        Outcome::Bury { generation: row.generation, reason: error.clone(), of_lane }
    } else {
        Outcome::Fail { of, pause, error: error.clone() }
    }
}

/// One second, doubling.
fn doubling(failures: u32) -> Duration {
    Duration::seconds((1_i64 << failures.min(10)).min(PAUSE_SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{HintKey, KeyValue, RowHint, TableName, Tenant, settle::Evidence};

    fn row(attempts: u32) -> Claimed {
        Claimed {
            hint: RowHint {
                tenant: Tenant::Company(1),
                table: TableName::new("T").unwrap(),
                key: HintKey::new([("a".into(), KeyValue::Int(1))]).unwrap(),
            },
            generation: 7,
            attempts,
            lane_failures: 0,
            notification_id: None,
            evidence: Evidence::default(),
        }
    }

    fn failed(fault: Fault, attempts: u32, company: usize) -> Outcome {
        outcome(&Failure { row: row(attempts), fault, company, error: "e".into() }, 500)
    }

    #[test]
    fn an_outage_blames_nobody_however_long() {
        for attempts in [0, 100] {
            let fault = Fault::of(Remedy::Probe, false);
            assert!(matches!(failed(fault, attempts, 3), Outcome::Release { .. }));
        }
    }

    #[test]
    fn a_row_is_set_aside_only_after_it_failed_alone_several_times() {
        let alone = plan::attempts_until_alone(500);
        for attempts in 0..alone {
            let expected = Outcome::Fail {
                of: FailureOf::Row(attempts + 1),
                pause: Duration::milliseconds(SPLIT_PAUSE_MS),
                error: "e".into(),
            };
            assert_eq!(failed(Fault::SomeRow, attempts, 2), expected);
        }
        let mut attempts = 0;
        for failures in 1..ALONE_FAILURES_MAX {
            let Outcome::Fail { of: FailureOf::Row(after), pause, .. } = failed(Fault::SomeRow, attempts, 1) else {
                panic!("set aside after {failures} failures alone");
            };
            assert_eq!((after, pause), (alone + failures, doubling(failures - 1)));
            attempts = after;
        }
        let buried = Outcome::Bury { generation: 7, reason: "e".into(), of_lane: false };
        assert_eq!(failed(Fault::SomeRow, attempts, 1), buried);
    }

    #[test]
    fn a_server_error_while_the_api_answers_is_some_row_s_fault() {
        assert_eq!(Fault::of(Remedy::Probe, true), Fault::SomeRow);
        assert_eq!(Fault::of(Remedy::Split, false), Fault::SomeRow);
    }
}
