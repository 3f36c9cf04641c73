//! Where to begin to look for due rows.
//!
//! While somebody holds an old snapshot, settled rows stay in the index, and all of them lie before those that live. So
//! a process remembers for each target that it saw lately when its first living row was due, and begins there. That is
//! only a shortcut: looks from the very beginning go on, as often as they are cheap, and put every floor right.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::Priority;
use crate::domain::{DatabaseTime, TargetId};

/// How far below the floor a look begins: transactions that started earlier may commit later.
const MARGIN: chrono::Duration = chrono::Duration::seconds(10);
/// How long a target is remembered that has nothing due.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Targets' priorities that are remembered.
const REMEMBERED_MAX: usize = 2_000;
/// Looks from the beginning take at most one part in so many of the time.
const FULL_SHARE: u32 = 10;

/// The floors of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Floors(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    floors: HashMap<(TargetId, Priority), Floor>,
    next_full: Option<Instant>,
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
        self.lock().floors.get(&(target, priority)).map(|floor| floor.due_at - MARGIN)
    }

    /// The first living row of a target was due at this time.
    pub(super) fn see(&self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        self.lock().see(target, priority, due_at);
    }

    /// Rows of a target became due at this time; there may be earlier ones.
    pub(super) fn add(&self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        let mut known = self.lock();
        match known.floors.get_mut(&(target, priority)) {
            Some(floor) => floor.seen = Instant::now(),
            None => known.see(target, priority, due_at),
        }
    }

    /// All that are remembered.
    pub(super) fn all(&self) -> Vec<From> {
        let mut known = self.lock();
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
        self.lock().next_full.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// A look from the beginning took this long.
    pub(super) fn note_full(&self, took: Duration) {
        self.lock().next_full = Some(Instant::now() + took * FULL_SHARE);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every method leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn see(&mut self, target: TargetId, priority: Priority, due_at: DatabaseTime) {
        if self.floors.len() >= REMEMBERED_MAX {
            self.floors.clear();
        }
        self.floors.insert((target, priority), Floor { due_at, seen: Instant::now() });
    }
}
