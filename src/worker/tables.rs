//! What the tables of targets look like: described by the API, and their mirrored tables in line with that.
//!
//! Neither is ever waited for: a table that is not ready yet is made ready behind, and its targets wait while all others
//! go on.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    domain::{TableLevel, TableName, TableSpec, Target},
    mirror::Mirror,
    queue,
    telemetry::chain,
    upstream::{CatalogError, Catalogue},
};

/// How long a table that could not be made ready is left alone.
const RETRY: Duration = Duration::from_secs(5);
/// How often a table that is ready is looked at again, for a description that was renewed or a column that waits.
const FRESH: Duration = Duration::from_secs(5);
/// How much longer than it is known rows may have been written without a column.
const MISSING_SLACK: Duration = Duration::from_secs(30);
/// Transactions that write one mirrored table at the same time. A table that a user has locked keeps no more connections
/// waiting than these.
const WRITERS_MAX: usize = 3;

/// Whether a table can be worked on.
#[derive(Debug, Clone)]
pub(super) enum Readiness {
    /// It is described, and mirrored like this.
    Ready(Arc<TableSpec>),
    /// Somebody is at it, or will be; whoever waits is woken.
    Pending,
    /// It cannot be mirrored, and why.
    Hopeless(String),
}

/// The tables that are worked on. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    catalogue: Arc<Catalogue>,
    mirror: Mirror,
    pool: PgPool,
    entries: Arc<Mutex<HashMap<Id, Entry>>>,
    gates: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    wake: Arc<Notify>,
    tasks: TaskTracker,
}

type Id = (TableLevel, String);

#[derive(Debug)]
struct Entry {
    /// One of its targets.
    target: Target,
    /// What is known, until it is replaced.
    known: Option<(Readiness, Instant)>,
    is_being_prepared: bool,
    doubt: Doubt,
    /// How many columns had been announced when it was last prepared.
    announced: i64,
    /// Columns, in lower case, that were heard of and are not mirrored, and since when.
    missing: HashMap<String, Instant>,
}

/// Whether what is known of a table may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It may.
    None,
    /// Not until the table has been looked at.
    Outdated,
    /// Not until the look that has begun since is over.
    Looking,
}

impl Entry {
    fn new(target: Target) -> Self {
        Self {
            target,
            known: None,
            is_being_prepared: false,
            doubt: Doubt::None,
            announced: 0,
            missing: HashMap::new(),
        }
    }

    /// Takes over what was found. Returns since when rows were written without columns that are there now.
    fn take(&mut self, found: Found, now: Instant) -> Option<Instant> {
        self.announced = found.announced.len() as i64;
        if self.doubt == Doubt::Looking {
            self.doubt = Doubt::None;
        }
        match (found.readiness, &mut self.known) {
            (Some(readiness), _) => {
                let missing_since = self.compare(&readiness, &found.announced, found.described.as_deref(), now);
                self.known = Some((readiness, now));
                return missing_since;
            }
            // What was good a moment ago is good enough for another one.
            (None, Some((Readiness::Ready(_), since))) => *since = now,
            (None, known) => {
                let since = now.checked_sub(FRESH.saturating_sub(RETRY)).unwrap_or(now);
                *known = Some((Readiness::Pending, since));
            }
        }
        None
    }

    /// Notes what is missing now, and tells since when the oldest one was that is so no longer.
    fn compare(
        &mut self,
        readiness: &Readiness,
        announced: &[String],
        described: Option<&TableSpec>,
        now: Instant,
    ) -> Option<Instant> {
        let Readiness::Ready(mirrored) = readiness else { return None };
        let before = match &self.known {
            Some((Readiness::Ready(before), _)) => Some(&**before),
            _ => None,
        };
        let mirrored = columns(mirrored);
        let heard_of = before.into_iter().chain(described).flat_map(columns).chain(announced.iter().map(lower));
        for column in heard_of.filter(|column| !mirrored.contains(column)) {
            self.missing.entry(column).or_insert(now);
        }
        let mut since: Option<Instant> = None;
        self.missing.retain(|column, missing_since| {
            let is_missing = !mirrored.contains(column);
            if !is_missing {
                since = Some(since.map_or(*missing_since, |since| since.min(*missing_since)));
            }
            is_missing
        });
        since
    }
}

/// What preparing a table has found.
#[derive(Debug, Default)]
struct Found {
    /// `None` after a passing error.
    readiness: Option<Readiness>,
    described: Option<Arc<TableSpec>>,
    announced: Vec<String>,
}

fn columns(table: &TableSpec) -> HashSet<String> {
    table.columns.iter().map(|column| lower(&column.name)).collect()
}

fn lower(name: impl AsRef<str>) -> String {
    name.as_ref().to_ascii_lowercase()
}

impl Tables {
    pub(super) fn new(
        catalogue: Arc<Catalogue>,
        mirror: Mirror,
        pool: PgPool,
        wake: Arc<Notify>,
        tasks: TaskTracker,
    ) -> Self {
        Self { catalogue, mirror, pool, entries: Arc::default(), gates: Arc::default(), wake, tasks }
    }

    /// Waits for the turn to write a mirrored table.
    pub(super) async fn gate(&self, sql_name: &str) -> OwnedSemaphorePermit {
        let gate = {
            let mut gates = self.gates.lock();
            Arc::clone(gates.entry(sql_name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(WRITERS_MAX))))
        };
        gate.acquire_owned().await.expect("a gate is never closed")
    }

    /// What is known of the target's table; what is old is renewed behind.
    pub(super) fn of(&self, target: &Target) -> Readiness {
        let id = id(target.tenant.level(), &target.table);
        let mut entries = self.entries.lock();
        let entry = entries.entry(id.clone()).or_insert_with(|| Entry::new(target.clone()));
        let is_fresh = entry.known.as_ref().is_some_and(|(_, since)| since.elapsed() < FRESH);
        if entry.doubt == Doubt::Outdated || !is_fresh {
            self.start_preparing(&id, entry);
        }
        match &entry.known {
            Some((known, _)) if entry.doubt == Doubt::None => known.clone(),
            _ => Readiness::Pending,
        }
    }

    /// Whether no column of the target's table was announced that was not known of when it was prepared; `counts` are
    /// those of [`queue::announced_counts`]. If one was, the table is looked at again before it is used.
    pub(super) fn knows_columns(&self, target: &Target, counts: &HashMap<String, i64>) -> bool {
        let id = id(target.tenant.level(), &target.table);
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&id) else { return false };
        if entry.announced != counts.get(&id.1).copied().unwrap_or_default() {
            entry.doubt = Doubt::Outdated;
        }
        entry.doubt == Doubt::None
    }

    /// Looks again at tables that lack a column, which may have come (back) or may be added now.
    pub(super) fn look_for_missing_columns(&self) {
        for (id, entry) in self.entries.lock().iter_mut().filter(|(_, entry)| !entry.missing.is_empty()) {
            self.start_preparing(id, entry);
        }
    }

    /// The source refused a request for this table, or gave values that do not fit its description: it is described anew.
    pub(super) fn misdescribed(&self, target: &Target) {
        self.catalogue.renew(target.tenant.level(), &target.table);
        self.outdated(target);
    }

    /// The mirror refused a statement for this table: it is looked at again before it is used.
    pub(super) fn outdated(&self, target: &Target) {
        if let Some(entry) = self.entries.lock().get_mut(&id(target.tenant.level(), &target.table)) {
            entry.doubt = Doubt::Outdated;
        }
    }

    fn start_preparing(&self, id: &Id, entry: &mut Entry) {
        if !entry.is_being_prepared {
            entry.is_being_prepared = true;
            // What comes from here on outdates what is found.
            if entry.doubt == Doubt::Outdated {
                entry.doubt = Doubt::Looking;
            }
            self.tasks.spawn(self.clone().prepare(id.clone(), entry.target.clone()));
        }
    }

    async fn prepare(self, id: Id, target: Target) {
        let found = self.find(&target).await;
        let missing_since = {
            let mut entries = self.entries.lock();
            let entry = entries.entry(id).or_insert_with(|| Entry::new(target.clone()));
            entry.is_being_prepared = false;
            entry.take(found, Instant::now())
        };
        self.wake.notify_one();
        if let Some(since) = missing_since {
            self.fetch_again(&target, since.elapsed() + MISSING_SLACK).await;
        }
    }

    /// Rows that were notified lately were written without columns that are there now.
    async fn fetch_again(&self, target: &Target, age: Duration) {
        match queue::ledger::replay_latest(&self.pool, &target.table, age).await {
            Ok(rows) => {
                tracing::info!(row.table = %target.table, rows, "rows are fetched again for columns that have come");
                self.wake.notify_one();
            }
            Err(error) => tracing::warn!(row.table = %target.table, error = %chain(&error), "rows not marked again"),
        }
    }

    /// Describes the table and brings its mirrored table in line.
    async fn find(&self, target: &Target) -> Found {
        let announced = match queue::announced_columns(&self.pool, &target.table).await {
            Ok(announced) => announced,
            Err(error) => {
                tracing::warn!(%target, error = %chain(&error), "table not looked at, it is tried again");
                return Found::default();
            }
        };
        let described = match self.describe(target, &announced).await {
            Ok(described) => described,
            Err(error @ (CatalogError::Unknown { .. } | CatalogError::Refused(_))) => {
                tracing::error!(%target, error = %chain(&error), "table cannot be mirrored");
                let readiness = Some(Readiness::Hopeless(chain(&error).to_string()));
                return Found { readiness, announced, ..Found::default() };
            }
            Err(error @ CatalogError::Upstream(_)) => {
                tracing::debug!(%target, error = %chain(&error), "table not described, it is tried again");
                return Found { announced, ..Found::default() };
            }
        };
        let readiness = match self.mirror.ensure(&described).await {
            Ok(effective) => Some(Readiness::Ready(effective)),
            Err(error) if error.is_lasting() => {
                tracing::error!(%target, error = %chain(&error), "table cannot be mirrored");
                Some(Readiness::Hopeless(error.to_string()))
            }
            Err(error) => {
                tracing::warn!(%target, error = %chain(&error), "mirrored table is not ready, it is tried again");
                None
            }
        };
        Found { readiness, described: Some(described), announced }
    }

    async fn describe(&self, target: &Target, announced: &[String]) -> Result<Arc<TableSpec>, CatalogError> {
        let level = target.tenant.level();
        let mut found = self.catalogue.table(level, &target.table, None).await;
        if let Err(CatalogError::Refused(_)) = &found
            && let Ok(Some(key)) = queue::announced_key(&self.pool, &target.table, target.tenant).await
        {
            found = self.catalogue.table(level, &target.table, Some(&key)).await;
        }
        self.catalogue.with_columns(found?, announced).await
    }
}

fn id(level: TableLevel, table: &TableName) -> Id {
    (level, table.as_str().to_ascii_lowercase())
}
