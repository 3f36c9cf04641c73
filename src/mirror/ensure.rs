//! Which mirrored tables are in line with which description. Each table has an entry of its own, so that none waits for
//! another.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    Mirror, SchemaError,
    align::{Alignment, align},
};
use crate::{
    domain::{TableSpec, backoff},
    telemetry::chain,
};

/// How long a table goes on without a column that could not be added, before that is tried again: after the first time,
/// and at most. Each try keeps readers waiting behind it for a moment.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(300);

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

/// A table that was brought in line, or is to be.
#[derive(Debug, Clone)]
struct Aligned {
    /// With this description,
    described: Arc<TableSpec>,
    /// or with this part of it; `None` as long as it is to be.
    effective: Option<Arc<TableSpec>>,
    /// When the rest is tried again.
    retry_at: Option<Instant>,
    /// Tries that left something, one after the other.
    tries: u32,
    /// Until when nobody tries who has nothing to write.
    put_off_until: Option<Instant>,
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
        entry.note(spec, &effective, is_complete, Instant::now());
        Ok(effective)
    }

    /// Has [`Mirror::ensure_rest`] bring a table in line that nothing may ever be written to.
    pub(crate) fn expect(&self, spec: &Arc<TableSpec>) {
        self.tables.entry(&spec.sql_name).expect(spec, Instant::now());
    }

    /// Brings tables in line that are expected to be, and tries again to add what could not be added to a table the last
    /// time, when its time has come: one that nothing is written to would wait for ever.
    pub(crate) async fn ensure_rest(&self) {
        for spec in self.tables.due(Instant::now()) {
            if let Err(error) = self.ensure(&spec).await {
                self.tables.entry(&spec.sql_name).put_off(Instant::now());
                tracing::warn!(row.table = %spec.name, error = %chain(&error), "table is not yet in line; it is tried again");
            }
        }
    }

    /// Whether a table that was brought in line is distributed over several nodes.
    pub(super) fn is_distributed(&self, table: &TableSpec) -> bool {
        self.tables.entry(&table.sql_name).is_distributed.load(Ordering::Relaxed)
    }

    /// To be called when the table is not as it was thought to be: the next [`Mirror::ensure`] looks at it again.
    pub fn forget(&self, table: &TableSpec) {
        *self.tables.entry(&table.sql_name).aligned.lock() = None;
    }
}

impl Tables {
    fn entry(&self, sql_name: &str) -> Arc<Entry> {
        let mut entries = self.entries.lock();
        match entries.get(sql_name) {
            Some(entry) => Arc::clone(entry),
            None => Arc::clone(entries.entry(sql_name.to_owned()).or_default()),
        }
    }

    fn due(&self, now: Instant) -> Vec<Arc<TableSpec>> {
        self.entries.lock().values().filter_map(|entry| entry.due(now)).collect()
    }
}

impl Entry {
    /// The description of which something is left that is to be tried again now.
    fn due(&self, now: Instant) -> Option<Arc<TableSpec>> {
        let aligned = self.aligned.lock();
        let is_due = |aligned: &&Aligned| {
            aligned.is_due(now) && aligned.put_off_until.is_none_or(|put_off_until| put_off_until <= now)
        };
        aligned.as_ref().filter(is_due).map(|aligned| Arc::clone(&aligned.described))
    }

    /// The table is to have all of the description, unless somebody has brought it in line already.
    fn expect(&self, described: &Arc<TableSpec>, now: Instant) {
        let (described, retry_at) = (Arc::clone(described), Some(now));
        self.aligned.lock().get_or_insert(Aligned {
            described,
            effective: None,
            retry_at,
            tries: 0,
            put_off_until: None,
        });
    }

    /// The table has this of the description now.
    fn note(&self, described: &Arc<TableSpec>, effective: &Arc<TableSpec>, is_complete: bool, now: Instant) {
        let mut aligned = self.aligned.lock();
        let before = aligned.as_ref().filter(|before| before.is_of(described)).map_or(0, |before| before.tries);
        let tries = if is_complete { 0 } else { before.saturating_add(1) };
        *aligned = Some(Aligned {
            described: Arc::clone(described),
            effective: Some(Arc::clone(effective)),
            retry_at: (!is_complete).then(|| now + backoff(tries, RETRY_PAUSE, RETRY_PAUSE_MAX)),
            tries,
            put_off_until: None,
        });
    }

    /// It could not even be looked at. Whoever has something to write still tries, and is told why not.
    fn put_off(&self, now: Instant) {
        if let Some(aligned) = self.aligned.lock().as_mut() {
            aligned.tries = aligned.tries.saturating_add(1);
            aligned.put_off_until = Some(now + backoff(aligned.tries, RETRY_PAUSE, RETRY_PAUSE_MAX));
        }
    }

    /// What the table has of this description, unless that is to be looked at.
    fn current(&self, spec: &Arc<TableSpec>) -> Option<Arc<TableSpec>> {
        let aligned = self.aligned.lock();
        let found = aligned.as_ref().filter(|aligned| aligned.is_of(spec) && !aligned.is_due(Instant::now()))?;
        found.effective.clone()
    }

    /// What the table had of this description when it was last looked at.
    fn last(&self, spec: &Arc<TableSpec>) -> Option<Arc<TableSpec>> {
        let aligned = self.aligned.lock();
        aligned.as_ref().filter(|aligned| aligned.is_of(spec))?.effective.clone()
    }
}

impl Aligned {
    fn is_of(&self, spec: &Arc<TableSpec>) -> bool {
        Arc::ptr_eq(&self.described, spec) || self.described == *spec
    }

    fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|retry_at| retry_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Arc<TableSpec> {
        Arc::new(TableSpec::plain("Order", &[]))
    }

    /// How often it is tried in an hour, looked at every two seconds as the keeper does.
    fn tries_of_an_hour(tries: impl Fn(&Entry, Instant)) -> usize {
        let (tables, spec, begin) = (Tables::default(), spec(), Instant::now());
        tables.entry(&spec.sql_name).note(&spec, &spec, false, begin);
        let moments = (0..3_600).step_by(2).map(|seconds| begin + Duration::from_secs(seconds));
        let is_tried = |now: &Instant| {
            let is_due = !tables.due(*now).is_empty();
            if is_due {
                tries(&tables.entry(&spec.sql_name), *now);
            }
            is_due
        };
        moments.filter(is_tried).count()
    }

    #[test]
    fn a_table_that_stays_incomplete_is_tried_less_and_less_often() {
        let spec = spec();
        let incomplete = tries_of_an_hour(|entry, now| entry.note(&spec, &spec, false, now));
        let failing = tries_of_an_hour(Entry::put_off);
        let complete = tries_of_an_hour(|entry, now| entry.note(&spec, &spec, true, now));
        assert!((10..=20).contains(&incomplete), "{incomplete} tries");
        assert!((10..=20).contains(&failing), "{failing} tries");
        assert_eq!(complete, 1);
    }

    #[test]
    fn what_is_expected_is_tried_until_it_is_in_line_and_writers_wait_for_it() {
        let (tables, spec, now) = (Tables::default(), spec(), Instant::now());
        let entry = tables.entry(&spec.sql_name);
        entry.expect(&spec, now);
        assert_eq!(tables.due(now).len(), 1);
        assert!(entry.current(&spec).is_none() && entry.last(&spec).is_none());
        entry.put_off(now);
        assert!(tables.due(now).is_empty() && !tables.due(now + RETRY_PAUSE).is_empty());
        entry.note(&spec, &spec, true, now);
        entry.expect(&spec, now);
        assert!(tables.due(now + RETRY_PAUSE_MAX).is_empty() && entry.current(&spec).is_some());
    }

    #[test]
    fn who_has_something_to_write_does_not_wait_for_the_background() {
        let (entry, spec, begin) = (Entry::default(), spec(), Instant::now());
        entry.note(&spec, &spec, false, begin - 2 * RETRY_PAUSE);
        entry.put_off(begin);
        assert!(entry.due(begin).is_none() && entry.current(&spec).is_none());
    }
}
