//! How many rows to ask for, and when.
//!
//! A full request is always worth sending. A request for a few rows goes out at once when the last such one is a
//! while ago, so that a lone change arrives quickly; while changes keep coming, they gather for up to [`LINGER`], so
//! that a steady stream costs one request a second instead of one a row.

use std::time::{Duration, Instant};

/// The least time between two requests that are not full.
const LINGER: Duration = Duration::from_secs(1);
/// How long the first rows after a quiet time gather.
const GATHER: Duration = Duration::from_millis(30);

/// When to claim.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last_partial: Option<Instant>,
}

impl Pace {
    /// How long to wait before claiming, given how many rows are due.
    pub(super) fn delay(&self, due: usize, full: usize, now: Instant) -> Duration {
        if due >= full {
            return Duration::ZERO;
        }
        let since = self.last_partial.map(|last| now.saturating_duration_since(last));
        since.map_or(GATHER, |since| LINGER.saturating_sub(since).max(GATHER))
    }

    /// Rows were claimed.
    pub(super) fn claimed(&mut self, rows: usize, full: usize, now: Instant) {
        if rows < full {
            self.last_partial = Some(now);
        }
    }
}

/// The adaptive number of keys in a request: halved when a request of that size failed, grown by a quarter when one
/// of that size went well.
#[derive(Debug)]
pub(super) struct Size {
    current: usize,
    max: usize,
}

impl Size {
    pub(super) fn new(max: usize) -> Self {
        Self { current: max, max }
    }

    pub(super) fn get(&self) -> usize {
        self.current
    }

    pub(super) fn failed(&mut self, rows: usize) {
        self.current = self.current.min((rows / 2).max(1));
    }

    pub(super) fn succeeded(&mut self, rows: usize) {
        if rows * 2 >= self.current {
            self.current = (self.current + self.current.div_ceil(4)).min(self.max);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_requests_never_wait_and_lone_ones_only_gather() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.delay(500, 500, now), Duration::ZERO);
        assert_eq!(pace.delay(1, 500, now), GATHER);
        pace.claimed(1, 500, now);
        assert_eq!(pace.delay(1, 500, now), LINGER);
        assert_eq!(pace.delay(500, 500, now), Duration::ZERO);
        assert_eq!(pace.delay(1, 500, now + LINGER), GATHER);
    }

    #[test]
    fn the_size_halves_on_failure_and_grows_back_to_its_bound() {
        let mut size = Size::new(500);
        size.failed(500);
        size.failed(250);
        assert_eq!(size.get(), 125);
        size.succeeded(10);
        assert_eq!(size.get(), 125);
        for _ in 0..20 {
            size.succeeded(size.get());
        }
        assert_eq!(size.get(), 500);
        for _ in 0..20 {
            size.failed(size.get());
        }
        assert_eq!(size.get(), 1);
    }
}
