//! Tables whose comments or view could not be brought in line when it was their turn.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{domain::TableSpec, mirror::Mirror, telemetry::chain};

/// How long such a table is left alone.
const PAUSE: Duration = Duration::from_secs(15);

/// These tables, by SQL name, and when each was tried last.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Unexplained(Mutex<HashMap<String, (TableSpec, Instant)>>);

impl Mirror {
    /// As [`Mirror::explain`]. What fails is noted for [`Mirror::explain_rest`]: nothing else waits for it.
    pub(crate) async fn explain_or_note(&self, table: &TableSpec) {
        match self.explain(table).await {
            Ok(()) => self.unexplained.forget(table),
            Err(error) => {
                tracing::warn!(row.table = %table.name, error = %chain(&error), "comments or the readable view are not up to date; they are tried again");
                self.unexplained.note(table);
            }
        }
    }

    /// Tries again what failed before.
    pub(crate) async fn explain_rest(&self) {
        for table in self.unexplained.due() {
            self.explain_or_note(&table).await;
        }
    }
}

impl Unexplained {
    fn note(&self, table: &TableSpec) {
        self.with(|tables| tables.insert(table.sql_name.clone(), (table.clone(), Instant::now())));
    }

    fn forget(&self, table: &TableSpec) {
        self.with(|tables| tables.remove(&table.sql_name));
    }

    fn due(&self) -> Vec<TableSpec> {
        let is_due = |tried_at: &Instant| tried_at.elapsed() >= PAUSE;
        self.with(|tables| tables.values().filter(|(_, at)| is_due(at)).map(|(table, _)| table.clone()).collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, (TableSpec, Instant)>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
