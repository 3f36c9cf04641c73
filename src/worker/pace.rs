//! How long few rows gather before they are asked for, as the budget's use allows.
//!
//! While there is plenty a change is asked for at once, and those that follow it gather for a moment; the more of the
//! budget is in use, the longer they gather, so that a steady stream settles at about two thirds of it. A claim that fills
//! a request is never held back. Now and then rows that may wait go before live ones.

use std::time::{Duration, Instant};

/// The shortest time between two requests that are not full.
const GAP_MIN: Duration = Duration::from_millis(40);
/// What the square of the used share adds.
const GAP_BY_USE: Duration = Duration::from_millis(300);
/// What each share beyond three quarters adds.
const GAP_BY_SCARCITY: Duration = Duration::from_millis(4_000);
/// Of so many claims, one is for rows that may wait before it is for live ones.
const CLAIMS_FOR_DEFERRED: u64 = 4;
/// How long rows gather while so many arrive that a request soon fills.
const GAP_OF_FLOOD: Duration = Duration::from_millis(300);
/// How many times in a row the last request of a flood is held back: rows of a small target would wait for ever beside
/// large ones.
const HELD_BACK_MAX: u8 = 3;

/// When to claim.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, usize)>,
    /// How many times in a row some of the claimed rows were held back.
    held_back: u8,
    /// How often rows were claimed.
    claims: u64,
}

impl Pace {
    /// How long to wait before claiming. `used` is the share of the budget in use, `full` the rows of a full request.
    pub(super) fn delay(&self, used: f64, full: usize, now: Instant) -> Duration {
        let Some((last, rows)) = self.last else { return Duration::ZERO };
        if rows >= full && self.held_back == 0 {
            return Duration::ZERO;
        }
        let flood = if rows * 4 >= full { GAP_OF_FLOOD } else { Duration::ZERO };
        gap(used).max(flood).saturating_sub(now.saturating_duration_since(last))
    }

    /// Whether rows may be held back once more.
    pub(super) fn may_hold_back(&self) -> bool {
        self.held_back < HELD_BACK_MAX
    }

    /// Whether rows that may wait go first this time. A target whose rows change all the time always has live ones, and
    /// others of its rows would wait for ever.
    pub(super) fn is_for_deferred(&self) -> bool {
        self.claims % CLAIMS_FOR_DEFERRED == CLAIMS_FOR_DEFERRED - 1
    }

    /// So many rows were claimed.
    pub(super) fn claimed(&mut self, rows: usize, held_back: bool, now: Instant) {
        self.last = Some((now, rows));
        self.held_back = if held_back { self.held_back + 1 } else { 0 };
        self.claims += 1;
    }
}

fn gap(used: f64) -> Duration {
    let used = used.clamp(0.0, 1.0);
    GAP_MIN + GAP_BY_USE.mul_f64(used * used) + GAP_BY_SCARCITY.mul_f64((used - 0.75).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_goes_at_once_and_a_full_claim_is_followed_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.delay(0.0, 500, now), Duration::ZERO);
        pace.claimed(1, false, now);
        assert_eq!(pace.delay(0.0, 500, now), GAP_MIN);
        assert_eq!(pace.delay(0.0, 500, now + GAP_MIN), Duration::ZERO);
        pace.claimed(500, false, now);
        assert_eq!(pace.delay(1.0, 500, now), Duration::ZERO);
    }

    #[test]
    fn rows_that_may_wait_have_their_turn() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let turns = [(); 8].map(|()| {
            let is_for_deferred = pace.is_for_deferred();
            pace.claimed(1, false, now);
            is_for_deferred
        });
        assert_eq!(turns, [false, false, false, true, false, false, false, true]);
    }

    #[test]
    fn rows_that_are_held_back_gather_as_in_a_flood_and_not_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..HELD_BACK_MAX {
            assert!(pace.may_hold_back());
            pace.claimed(700, true, now);
            assert_eq!(pace.delay(0.0, 500, now), GAP_OF_FLOOD);
        }
        assert!(!pace.may_hold_back());
        pace.claimed(700, false, now);
        assert!(pace.may_hold_back());
    }

    #[test]
    fn the_fuller_the_budget_the_longer_rows_gather() {
        let gaps: Vec<Duration> = [0.0, 0.3, 0.6, 0.8, 1.0].map(gap).into();
        assert!(gaps.is_sorted());
        assert!(gap(1.0) > Duration::from_secs(1));
    }

    #[test]
    fn a_steady_stream_settles_within_two_thirds_of_600_requests_a_minute() {
        let mut used = 0.0;
        for _ in 0..100 {
            used = f64::midpoint(used, 0.1 / gap(used).as_secs_f64());
        }
        assert!((0.55..0.667).contains(&used), "{used}");
    }

    #[test]
    fn a_flood_gathers_until_requests_are_full() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.claimed(200, false, now);
        assert_eq!(pace.delay(0.0, 500, now), GAP_OF_FLOOD);
    }
}
