//! Where to begin to look for due rows.
//!
//! While somebody holds an old snapshot, settled rows stay in the index, and all of them lie before those that live. So
//! a process remembers for each target that it saw lately when its first living row was due, and begins there. That is
//! only a shortcut: looks from the very beginning go on, as often as they are cheap, and put every floor right. They
//! alone find targets that other replicas have folded or that were another worker's, so they are never long in coming.
//! Where they take long, they go on beside the work, which does not wait for them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Priority;
use crate::domain::{DatabaseTime, TargetId};

/// How far below the floor a look begins: what other replicas fold may have been received before what this one saw.
const MARGIN: chrono::Duration = chrono::Duration::seconds(2);
/// How long a target is remembered that has nothing due.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Targets' priorities that are remembered.
const REMEMBERED_MAX: usize = 2_000;
/// A look from the beginning that takes longer is not waited for.
const CHEAP_MAX: Duration = Duration::from_millis(100);
/// Cheap ones take at most one part in so many of the time.
const CHEAP_SHARE: u32 = 10;
/// The others too.
const SLOW_SHARE: u32 = 5;

/// The floors of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Floors(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    floors: HashMap<(TargetId, Priority), Floor>,
    next_full: Option<Instant>,
    is_slow: bool,
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    due_at: DatabaseTime,
    seen: Instant,
}

/// A target's rows from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct From {
    pub(super) target: TargetId,
    pub(super) priority: Priority,
    pub(super) due_at: DatabaseTime,
}

impl Floors {
    /// Where to begin with this target; `None` at the beginning.
    pub(super) fn of(&self, target: TargetId, priority: Priority) -> Option<DatabaseTime> {
        self.0.lock().floors.get(&(target, priority)).map(|floor| floor.due_at - MARGIN)
    }

    /// The first living row of a target was due at this time.
    pub(super) fn see(&self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        self.0.lock().see(target, priority, due_at);
    }

    /// Rows of a target became due at this time; there may be earlier ones.
    pub(super) fn add(&self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        let mut known = self.0.lock();
        match known.floors.get_mut(&(target, priority)) {
            Some(floor) => *floor = Floor { due_at: floor.due_at.min(due_at), seen: Instant::now() },
            None => known.see(target, priority, due_at),
        }
    }

    /// All that are remembered.
    pub(super) fn all(&self) -> Vec<From> {
        let mut known = self.0.lock();
        known.floors.retain(|_, floor| floor.seen.elapsed() < REMEMBERED);
        let from = |(&(target, priority), floor): (&(TargetId, Priority), &Floor)| From {
            target,
            priority,
            due_at: floor.due_at - MARGIN,
        };
        known.floors.iter().map(from).collect()
    }

    /// How long until a look from the beginning is due.
    pub(super) fn until_full(&self) -> Duration {
        self.0.lock().next_full.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Whether the last look from the beginning took so long that the next one is not to be waited for.
    pub(super) fn is_slow(&self) -> bool {
        self.0.lock().is_slow
    }

    /// A look from the beginning took the server this long, a time in which this process may have stood still. It has
    /// seen something that is due by itself in `next_in`.
    pub(super) fn note_full(&self, took: Duration, next_in: Option<Duration>) {
        let mut known = self.0.lock();
        known.next_full = Some(Instant::now() + pause_after_full(took, next_in));
        known.is_slow = took > CHEAP_MAX;
    }
}

fn pause_after_full(took: Duration, next_in: Option<Duration>) -> Duration {
    if took > CHEAP_MAX {
        return took * (SLOW_SHARE - 1);
    }
    let pause = took * (CHEAP_SHARE - 1);
    next_in.map_or(pause, |next_in| next_in.min(pause)).max(took)
}

impl Known {
    fn see(&mut self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        if self.floors.len() >= REMEMBERED_MAX {
            self.floors.clear();
        }
        self.floors.insert((target, priority), Floor { due_at, seen: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_from_the_beginning_are_never_long_in_coming() {
        let of = |took, next_in: Option<u64>| {
            pause_after_full(Duration::from_millis(took), next_in.map(Duration::from_millis)).as_millis()
        };
        assert_eq!(of(10, None), 90);
        assert_eq!(of(10, Some(50)), 50);
        assert_eq!(of(10, Some(5_000)), 90);
        assert_eq!(of(10, Some(1)), 10);
        assert_eq!(of(1_000, None), 4_000);
        assert_eq!(of(1_000, Some(1)), 4_000, "the work goes on meanwhile");
    }
}
