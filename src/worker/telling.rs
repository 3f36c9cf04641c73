//! What the log tells of batches: one line each, and no more than one a second for a target. What comes meanwhile is
//! added up and told together.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    domain::{TargetId, TargetTable},
    queue::SyncAction,
    reconcile::Tally,
    telemetry::STORY,
};

/// The least time between two lines of a target.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// Targets that are remembered; past it those of which nothing is to be told are forgotten.
const TARGETS_MAX: usize = 10_000;

/// What is yet to be told.
#[derive(Debug, Default)]
pub(super) struct Telling(Mutex<HashMap<TargetId, Told>>);

#[derive(Debug)]
struct Told {
    target: TargetTable,
    last_at: Option<Instant>,
    batch: Batch,
}

/// What batches of a target came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Batch {
    added: u64,
    changed: u64,
    removed: u64,
    failed: u64,
    behind: Option<Duration>,
}

impl Telling {
    /// Tells of a batch that was settled, now or within a second. `behind` is the time from the receipt of its oldest
    /// notification.
    pub(super) fn batch(&self, target: &TargetTable, tally: &Tally, behind: Option<Duration>, now: Instant) {
        let batch = Batch::of(tally, behind);
        if batch.is_quiet() {
            return;
        }
        let mut told = self.0.lock();
        if told.len() >= TARGETS_MAX {
            told.retain(|_, told| !told.batch.is_quiet());
        }
        let entry = told.entry(target.id).or_insert_with(|| Told {
            target: target.clone(),
            last_at: None,
            batch: Batch::default(),
        });
        entry.batch.add(batch);
        entry.tell(now);
    }

    /// Tells what is left of a second ago.
    pub(super) fn rest(&self, now: Instant) {
        for told in self.0.lock().values_mut() {
            told.tell(now);
        }
    }
}

impl Told {
    fn tell(&mut self, now: Instant) {
        if self.batch.is_quiet() || self.last_at.is_some_and(|last_at| now - last_at < PAUSE) {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        self.last_at = Some(now);
        let Batch { added, changed, removed, failed, behind } = batch;
        let behind_seconds = behind.map(|behind| behind.as_secs_f64());
        let (tenant, table) = (self.target.tenant, &self.target.table.name);
        tracing::info!(
            target: STORY, %tenant, %table, added, changed, removed, failed, behind_seconds,
            "{tenant}  {table}  {}", batch.words()
        );
    }
}

impl Batch {
    fn of(tally: &Tally, behind: Option<Duration>) -> Self {
        let count = |action: SyncAction| tally.get(&action).copied().unwrap_or_default();
        Self {
            added: count(SyncAction::Inserted),
            changed: count(SyncAction::Updated),
            removed: count(SyncAction::Deleted),
            failed: count(SyncAction::Failed) + count(SyncAction::DeadLetter),
            behind,
        }
    }

    /// Nothing was changed by it.
    fn is_quiet(&self) -> bool {
        self.added + self.changed + self.removed + self.failed == 0
    }

    fn add(&mut self, other: Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.removed += other.removed;
        self.failed += other.failed;
        self.behind = self.behind.max(other.behind);
    }

    /// `12 changed, 1 removed  0.4 s behind`
    fn words(&self) -> String {
        let parts =
            [(self.added, "added"), (self.changed, "changed"), (self.removed, "removed"), (self.failed, "failed")];
        let parts = parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
        let parts = parts.collect::<Vec<_>>().join(", ");
        match self.behind {
            Some(behind) => format!("{parts}  {:.1} s behind", behind.as_secs_f64()),
            None => parts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_come_close_together_are_told_as_one() {
        let mut batch = Batch::default();
        assert!(batch.is_quiet());
        batch.add(Batch::of(
            &Tally::from([(SyncAction::Updated, 5), (SyncAction::Unchanged, 9)]),
            Some(Duration::from_millis(400)),
        ));
        batch.add(Batch::of(&Tally::from([(SyncAction::Updated, 7), (SyncAction::Deleted, 1)]), None));
        assert_eq!(batch.words(), "12 changed, 1 removed  0.4 s behind");
    }
}
