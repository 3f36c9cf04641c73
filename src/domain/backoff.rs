//! The one back-off.

use std::time::Duration;

/// How long to wait after so many failures one after the other: `base` after the first, twice as long after each
/// further one, at most `max`.
pub fn backoff(failures: u32, base: Duration, max: Duration) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    base.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_up_to_its_bound() {
        let pause = |failures| backoff(failures, Duration::from_millis(500), Duration::from_secs(60)).as_millis();
        assert_eq!([0, 1, 2, 3, 7, 8, 40, u32::MAX].map(pause), [0, 500, 1_000, 2_000, 32_000, 60_000, 60_000, 60_000]);
    }
}
