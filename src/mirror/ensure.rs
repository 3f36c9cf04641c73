//! Which mirrored tables are in line with which description. Each table has an entry of its own, so that none waits for
//! another.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Mirror, SchemaError,
    align::{Alignment, align},
};
use crate::{domain::TableSpec, telemetry::chain};

/// How long a table goes on without a column that could not be added, before that is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// What is known of the tables, by SQL name.
#[derive(Debug, Default)]
pub(super) struct Tables {
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

#[derive(Debug, Default)]
struct Entry {
    aligned: Mutex<Option<Aligned>>,
    /// Held by the one who brings the table in line.
    flight: tokio::sync::Mutex<()>,
    /// Whether its rows are distributed over several nodes.
    is_distributed: AtomicBool,
}

/// A table that was brought in line.
#[derive(Debug, Clone)]
struct Aligned {
    /// With this description,
    described: Arc<TableSpec>,
    /// or with this part of it.
    effective: Arc<TableSpec>,
    /// When the rest is tried again.
    retry_at: Option<Instant>,
}

impl Mirror {
    /// Makes sure that the table exists and has every described column, and returns the description to go by: without
    /// columns that cannot be added now because somebody is at the table.
    ///
    /// A table that is known to be in line is answered from memory. Otherwise one caller looks at the database; others
    /// wait, unless they can be served with what the table was last known to have.
    pub async fn ensure(&self, spec: &Arc<TableSpec>) -> Result<Arc<TableSpec>, SchemaError> {
        let entry = self.tables.entry(&spec.sql_name);
        if let Some(effective) = entry.current(spec) {
            return Ok(effective);
        }
        let _flight = match (entry.flight.try_lock(), entry.last(spec)) {
            (Ok(flight), _) => flight,
            (Err(_), Some(effective)) => return Ok(effective),
            (Err(_), None) => entry.flight.lock().await,
        };
        if let Some(effective) = entry.current(spec) {
            return Ok(effective);
        }
        let Alignment { effective, is_complete, is_distributed } =
            align(&self.pool, spec, self.has_history(spec)).await?;
        entry.is_distributed.store(is_distributed, Ordering::Relaxed);
        self.explain_or_note(&effective).await;
        let retry_at = (!is_complete).then(|| Instant::now() + RETRY_PAUSE);
        let aligned = Aligned { described: Arc::clone(spec), effective: Arc::clone(&effective), retry_at };
        *lock(&entry.aligned) = Some(aligned);
        Ok(effective)
    }

    /// Tries again to add what could not be added to a table the last time, when its time has come: one that nothing is
    /// written to would wait for ever.
    pub(crate) async fn ensure_rest(&self) {
        for spec in self.tables.due() {
            if let Err(error) = self.ensure(&spec).await {
                tracing::debug!(row.table = %spec.name, error = %chain(&error), "table is still not in line");
            }
        }
    }

    /// Whether a table that was brought in line is distributed over several nodes.
    pub(super) fn is_distributed(&self, table: &TableSpec) -> bool {
        self.tables.entry(&table.sql_name).is_distributed.load(Ordering::Relaxed)
    }

    /// To be called when the table is not as it was thought to be: the next [`Mirror::ensure`] looks at it again.
    pub fn forget(&self, table: &TableSpec) {
        *lock(&self.tables.entry(&table.sql_name).aligned) = None;
    }
}

impl Tables {
    fn entry(&self, sql_name: &str) -> Arc<Entry> {
        let mut entries = lock(&self.entries);
        match entries.get(sql_name) {
            Some(entry) => Arc::clone(entry),
            None => Arc::clone(entries.entry(sql_name.to_owned()).or_default()),
        }
    }

    fn due(&self) -> Vec<Arc<TableSpec>> {
        lock(&self.entries).values().filter_map(|entry| entry.due()).collect()
    }
}

impl Entry {
    /// The description of which something is left that is to be tried again now.
    fn due(&self) -> Option<Arc<TableSpec>> {
        lock(&self.aligned).as_ref().filter(|aligned| aligned.is_due()).map(|aligned| Arc::clone(&aligned.described))
    }

    /// What the table has of this description, unless that is to be looked at.
    fn current(&self, spec: &Arc<TableSpec>) -> Option<Arc<TableSpec>> {
        let aligned = lock(&self.aligned);
        let found = aligned.as_ref().filter(|aligned| aligned.is_of(spec))?;
        (!found.is_due()).then(|| Arc::clone(&found.effective))
    }

    /// What the table had of this description when it was last looked at.
    fn last(&self, spec: &Arc<TableSpec>) -> Option<Arc<TableSpec>> {
        let aligned = lock(&self.aligned);
        aligned.as_ref().filter(|aligned| aligned.is_of(spec)).map(|aligned| Arc::clone(&aligned.effective))
    }
}

impl Aligned {
    fn is_of(&self, spec: &Arc<TableSpec>) -> bool {
        Arc::ptr_eq(&self.described, spec) || self.described == *spec
    }

    fn is_due(&self) -> bool {
        self.retry_at.is_some_and(|retry_at| retry_at <= Instant::now())
    }
}

/// Locks for a moment. What a panic left behind is whole: each value is replaced at once.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
