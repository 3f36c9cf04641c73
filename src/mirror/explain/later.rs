//! Tables whose comments or view could not be brought in line when it was their turn.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    domain::{TableSpec, backoff},
    mirror::Mirror,
    telemetry::chain,
};

/// How long such a table is left alone after the first failure, and at most: a report that reads a view for hours is not
/// disturbed every few seconds.
const PAUSE: Duration = Duration::from_secs(15);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// These tables, by SQL name.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Unexplained(Mutex<HashMap<String, Failed>>);

#[derive(Debug)]
struct Failed {
    table: TableSpec,
    reason: String,
    failures: u32,
    again_at: Instant,
}

impl Mirror {
    /// As [`Mirror::explain`]. What fails is noted for [`Mirror::explain_rest`]: nothing else waits for it.
    pub(crate) async fn explain_or_note(&self, table: &TableSpec) {
        let Err(error) = self.explain(table).await else { return self.unexplained.forget(table) };
        let reason = chain(&error).to_string();
        if self.unexplained.note(table, &reason, Instant::now()) {
            tracing::warn!(row.table = %table.name, error = reason, "comments or the readable view are not up to date; they are tried again");
        } else {
            tracing::debug!(row.table = %table.name, error = reason, "comments or the readable view are still not up to date");
        }
    }

    /// Tries again what failed before.
    pub(crate) async fn explain_rest(&self) {
        for table in self.unexplained.due(Instant::now()) {
            self.explain_or_note(&table).await;
        }
    }
}

impl Unexplained {
    /// Whether it is news: the table's first failure, or another reason than the last time.
    fn note(&self, table: &TableSpec, reason: &str, now: Instant) -> bool {
        self.with(|tables| {
            let before = tables.remove(&table.sql_name);
            let failures = before.as_ref().map_or(1, |before| before.failures.saturating_add(1));
            let again_at = now + backoff(failures, PAUSE, PAUSE_MAX);
            let failed = Failed { table: table.clone(), reason: reason.to_owned(), failures, again_at };
            tables.insert(table.sql_name.clone(), failed);
            before.is_none_or(|before| before.reason != reason)
        })
    }

    fn forget(&self, table: &TableSpec) {
        self.with(|tables| tables.remove(&table.sql_name));
    }

    fn due(&self, now: Instant) -> Vec<TableSpec> {
        let is_due = |failed: &&Failed| failed.again_at <= now;
        self.with(|tables| tables.values().filter(is_due).map(|failed| failed.table.clone()).collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Failed>) -> T) -> T {
        act(&mut self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_in_use_is_told_once_and_tried_less_and_less_often() {
        let table = TableSpec::plain("Order", &[]);
        let (unexplained, begin) = (Unexplained::default(), Instant::now());
        let (mut tries, mut told) = (0, 0);
        // As the keeper looks, for two hours in which somebody reads the view.
        for seconds in (0..7_200).step_by(2) {
            let now = begin + Duration::from_secs(seconds);
            if seconds == 0 || !unexplained.due(now).is_empty() {
                tries += 1;
                told += u32::from(unexplained.note(&table, "the view is locked", now));
            }
        }
        assert_eq!(told, 1);
        assert!((15..=20).contains(&tries), "{tries} tries");
        assert!(unexplained.note(&table, "permission denied", begin), "another reason is news");
        unexplained.forget(&table);
        assert!(unexplained.note(&table, "permission denied", begin), "it had come right meanwhile");
        assert_eq!(unexplained.due(begin + PAUSE).len(), 1);
    }
}
