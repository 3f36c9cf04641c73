//! What failed is left alone for a while, longer each time, so that what cannot be read for days costs little.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Kind;
use crate::domain::{TargetId, backoff};

/// How long a target is left alone at first, and at most.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_MAX: Duration = Duration::from_secs(960);

/// Failures one after the other, by kind and target.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<(Kind, TargetId), Failure>);

#[derive(Debug)]
struct Failure {
    count: u32,
    until: Instant,
}

impl Failures {
    pub(super) fn note(&mut self, kind: Kind, target: TargetId, now: Instant) {
        let failure = self.0.entry((kind, target)).or_insert(Failure { count: 0, until: now });
        failure.count += 1;
        failure.until = now + backoff(failure.count, PAUSE, PAUSE_MAX);
    }

    pub(super) fn clear(&mut self, kind: Kind, target: TargetId) {
        self.0.remove(&(kind, target));
    }

    pub(super) fn leave_alone(&self, kind: Kind, target: TargetId, now: Instant) -> bool {
        self.0.get(&(kind, target)).is_some_and(|failure| now < failure.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_pause_until_one_goes_well() {
        let (now, target) = (Instant::now(), TargetId(1));
        let mut failures = Failures::default();
        assert!(!failures.leave_alone(Kind::Sweep, target, now));
        for count in 0..3 {
            failures.note(Kind::Sweep, target, now);
            let pause = PAUSE * (1 << count);
            assert!(failures.leave_alone(Kind::Sweep, target, now + pause - Duration::from_millis(1)));
            assert!(!failures.leave_alone(Kind::Sweep, target, now + pause));
        }
        assert!(!failures.leave_alone(Kind::Load, target, now));
        failures.clear(Kind::Sweep, target);
        assert!(!failures.leave_alone(Kind::Sweep, target, now));
    }
}
