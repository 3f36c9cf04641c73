//! Spreading pages over time, so that walks of tables that are known to be right disturb nobody.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lets one page through in each gap, over all tables that share it.
#[derive(Debug)]
pub(super) struct Pacer(Mutex<Turns>);

#[derive(Debug, Clone, Copy)]
struct Turns {
    gap: Duration,
    next: Instant,
}

impl Pacer {
    pub(super) fn new(gap: Duration) -> Self {
        Self(Mutex::new(Turns { gap, next: Instant::now() }))
    }

    /// Pages are this far apart from now on.
    pub(super) fn set_gap(&self, gap: Duration) {
        self.0.lock().gap = gap;
    }

    /// Waits for the next turn.
    pub(super) async fn wait(&self) {
        let turn = self.0.lock().take(Instant::now());
        tokio::time::sleep_until(turn).await;
    }
}

impl Turns {
    fn take(&mut self, now: Instant) -> Instant {
        let turn = self.next.max(now);
        self.next = turn + self.gap;
        turn
    }
}

/// The gap at which so many pages fill half of the interval, so that a walk is over before the next is due; but never
/// more than a quarter of the request budget.
pub(super) fn gap(interval: Duration, pages: u64, requests_per_minute: u32) -> Duration {
    let even = interval.div_f64(2.0).div_f64(pages.max(1) as f64);
    let least = Duration::from_secs(60 * 4) / requests_per_minute.max(1);
    even.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fill_half_the_interval_within_a_quarter_of_the_budget() {
        let day = Duration::from_secs(86_400);
        assert_eq!(gap(day, 432, 600), Duration::from_secs(100));
        assert_eq!(gap(day, 10_000_000, 600), Duration::from_millis(400));
    }

    #[test]
    fn turns_are_a_gap_apart_and_are_not_saved_up() {
        let (now, gap) = (Instant::now(), Duration::from_secs(5));
        let mut turns = Turns { gap, next: now };
        assert_eq!(turns.take(now), now);
        assert_eq!(turns.take(now), now + gap);
        let later = now + gap * 10;
        assert_eq!(turns.take(later), later);
        assert_eq!(turns.take(later), later + gap);
    }
}
