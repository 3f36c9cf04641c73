//! How far a walk has come, for whoever watches.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How far a walk has come, and whether it moves.
#[derive(Debug, Default)]
pub struct Progress {
    walked: AtomicU64,
    total: AtomicU64,
    waits: Mutex<Waits>,
}

/// What the walk waits for: answers of the API, pages to be written.
#[derive(Debug, Default)]
struct Waits {
    count: u32,
    /// When the last one ended, or the first one began.
    since: Option<Instant>,
}

/// Something that the walk waits for, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Progress);

impl Progress {
    /// Rows walked so far.
    pub fn walked(&self) -> u64 {
        self.walked.load(Ordering::Relaxed)
    }

    /// Rows of the table as the source counted them, once known.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|total| *total > 0)
    }

    /// A walk begins, or goes on behind so many rows.
    pub(super) fn begin(&self, walked: u64, total: Option<u64>) {
        self.walked.store(walked, Ordering::Relaxed);
        self.set_total(total.unwrap_or_default());
    }

    pub(super) fn add(&self, rows: u64) {
        self.walked.fetch_add(rows, Ordering::Relaxed);
    }

    pub(super) fn set_total(&self, rows: u64) {
        self.total.store(rows, Ordering::Relaxed);
    }

    /// Something begins that the walk waits for.
    pub(super) fn wait(&self) -> Waiting<'_> {
        let mut waits = self.waits.lock();
        if waits.count == 0 {
            waits.since = Some(Instant::now());
        }
        waits.count += 1;
        Waiting(self)
    }

    /// How long the walk has waited without anything coming to its end.
    pub(super) fn stalled_for(&self) -> Duration {
        let waits = self.waits.lock();
        match (waits.count, waits.since) {
            (1.., Some(since)) => since.elapsed(),
            _ => Duration::ZERO,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.0.waits.lock();
        waits.count -= 1;
        waits.since = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_stalls_only_while_it_waits() {
        let progress = Progress::default();
        assert_eq!(progress.stalled_for(), Duration::ZERO);
        let (first, second) = (progress.wait(), progress.wait());
        std::thread::sleep(Duration::from_millis(5));
        let before = progress.stalled_for();
        assert!(before >= Duration::from_millis(5));
        drop(first);
        assert!(progress.stalled_for() < before);
        drop(second);
        assert_eq!(progress.stalled_for(), Duration::ZERO);
    }
}
