//! What is known of the source's tables: one entry for each, served from memory while it is renewed behind.
//!
//! Nothing is locked while something is waited for. Tables that are asked for together are described together, by few
//! requests; who waits for one table waits for no other.

mod entry;
mod lookup;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use entry::Entry;

use super::{
    Upstream, UpstreamError,
    describe::{Configured, DescribeError},
    queries::TableField,
};
use crate::domain::{Exclusions, ExtensionColumn, TableLevel, TableName, TableSpec};

/// How long a description holds at most; new columns come weekly.
const FRESH_MAX: Duration = Duration::from_secs(3_600);
/// Entries that are kept; past that, those of unknown tables are forgotten.
const ENTRIES_MAX: usize = 5_000;

/// Why a table has no description.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// The API has no such table, looked up a moment ago.
    #[error("the API knows no {level} table {table}")]
    Unknown {
        /// The table.
        table: TableName,
        /// Where it was looked for.
        level: &'static str,
    },
    /// The API has it, but it cannot be mirrored.
    #[error(transparent)]
    Refused(#[from] DescribeError),
    /// The API cannot be asked.
    #[error(transparent)]
    Upstream(Arc<UpstreamError>),
}

/// Descriptions of tables, by level and identifier.
#[derive(Debug)]
pub struct Catalogue {
    inner: Arc<Inner>,
}

/// A table's level, and its name in lower case.
type Id = (TableLevel, String);

#[derive(Debug)]
struct Inner {
    upstream: Upstream,
    keys: BTreeMap<TableName, Vec<String>>,
    extensions: BTreeMap<TableName, Vec<ExtensionColumn>>,
    exclusions: Arc<Exclusions>,
    fresh: Duration,
    /// Never held while something is waited for.
    state: Mutex<State>,
    /// Something is wanted.
    wanted: Notify,
    /// Counts the lookups that have come to their end.
    arrivals: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Id, Entry>,
    /// The tables that the API has, and when they were asked for.
    list: Option<(Arc<Vec<TableField>>, Instant)>,
    /// A new list is being loaded.
    is_listing: bool,
    /// Looks up what is wanted, and ends when nothing is.
    driver: Option<JoinHandle<()>>,
}

impl Catalogue {
    /// A catalogue that asks this API; `keys`, `extensions` and `exclusions` are those of the settings. Descriptions are renewed at
    /// least once in each interval between two walks, so that a walk knows the columns that are new.
    pub fn new(
        upstream: Upstream,
        keys: BTreeMap<TableName, Vec<String>>,
        extensions: BTreeMap<TableName, Vec<ExtensionColumn>>,
        exclusions: Arc<Exclusions>,
        walk_interval: Option<Duration>,
    ) -> Self {
        let fresh = walk_interval.map_or(FRESH_MAX, |interval| interval.min(FRESH_MAX));
        let arrivals = watch::Sender::new(0);
        let (state, wanted) = (Mutex::default(), Notify::new());
        let inner = Inner { upstream, keys, extensions, exclusions, fresh, state, wanted, arrivals };
        Self { inner: Arc::new(inner) }
    }

    /// The table's description, or why there is none, as far as it can be told at once; whatever is missing or old is
    /// looked up behind. `None`: a lookup is under way, see [`Catalogue::arrivals`].
    ///
    /// `announced` are the key columns of a notification, in its order, which tell the key where nothing better does.
    pub fn peek(
        &self,
        level: TableLevel,
        name: &TableName,
        announced: Option<&[String]>,
    ) -> Option<Result<Arc<TableSpec>, CatalogError>> {
        let now = Instant::now();
        self.inner.with_entry(level, name, |entry| {
            self.inner.prepare(entry, announced, now);
            entry.answer(now)
        })
    }

    /// The table's description, no older than it may be. Waits for this one table if need be; an old description beats
    /// a lookup that fails.
    pub async fn table(
        &self,
        level: TableLevel,
        name: &TableName,
        announced: Option<&[String]>,
    ) -> Result<Arc<TableSpec>, CatalogError> {
        let begun = Instant::now();
        let mut arrivals = self.arrivals();
        loop {
            arrivals.mark_unchanged();
            let now = Instant::now();
            let answer = self.inner.with_entry(level, name, |entry| {
                self.inner.prepare(entry, announced, now);
                let must_wait = entry.is_coming(now) && !entry.has_failed_since(begun);
                if must_wait { None } else { entry.answer(now) }
            });
            if let Some(answer) = answer {
                return answer;
            }
            // The sender lives as long as the catalogue.
            _ = arrivals.changed().await;
        }
    }

    /// Changes whenever a lookup has come to its end.
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.inner.arrivals.subscribe()
    }

    /// Describes a table anew, at most once in half a minute: a request or an answer did not fit its description.
    pub fn renew(&self, level: TableLevel, name: &TableName) {
        self.inner.with_entry(level, name, |entry| entry.renew(Instant::now()));
    }

    /// The table's description, renewed first if it lacks columns that were announced.
    pub async fn with_columns(
        &self,
        table: Arc<TableSpec>,
        announced: &[String],
    ) -> Result<Arc<TableSpec>, CatalogError> {
        if self.announce(&table, announced) { self.table(table.level, &table.name, None).await } else { Ok(table) }
    }

    /// Whether columns were announced that the description lacks and a renewal may bring: then it is renewed. A column
    /// that a renewal did not bring does not count for an hour.
    pub fn announce(&self, table: &TableSpec, announced: &[String]) -> bool {
        let now = Instant::now();
        self.inner.with_entry(table.level, &table.name, |entry| {
            let lacking = entry.lacking(table, announced, now);
            let lacks = !lacking.is_empty();
            if lacks {
                entry.want_columns(lacking, now);
            }
            lacks
        })
    }

    /// Takes over descriptions from an earlier run.
    pub fn remember(&self, specs: impl IntoIterator<Item = TableSpec>) {
        for spec in specs {
            let name = spec.name.clone();
            let configured = self.inner.configured(&name);
            self.inner.with_entry(spec.level, &name, |entry| entry.remember(spec, configured));
        }
    }

    /// Describes every table anew when it is next needed.
    pub fn forget(&self) {
        let mut state = self.inner.state.lock();
        state.list = None;
        state.entries.values_mut().for_each(|entry| entry.expire(self.inner.fresh));
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        if let Some(driver) = self.inner.state.lock().driver.take() {
            driver.abort();
        }
    }
}

impl Inner {
    fn configured(&self, name: &TableName) -> Configured<'_> {
        Configured {
            key: of_table(&self.keys, name).map(Vec::as_slice),
            extensions: of_table(&self.extensions, name).map_or(&[], Vec::as_slice),
            exclusions: Some(&self.exclusions),
        }
    }

    fn prepare(&self, entry: &mut Entry, announced: Option<&[String]>, now: Instant) {
        if let Some(announced) = announced {
            entry.learn_key(announced, self.configured(&entry.name.clone()));
        }
        // An old description is as good as none can be while the API is away.
        if !(entry.is_described() && self.upstream.is_away()) {
            entry.refresh(now, self.fresh);
        }
    }

    /// Does something with a table's entry, and sees to it that what is wanted then is looked up.
    fn with_entry<T>(self: &Arc<Self>, level: TableLevel, name: &TableName, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut state = self.state.lock();
        state.make_room();
        let id = (level, name.as_str().to_ascii_lowercase());
        let entry = state.entries.entry(id).or_insert_with(|| Entry::new(level, name.clone()));
        let result = act(entry);
        if entry.want.is_some() {
            self.wanted.notify_one();
            if state.driver.as_ref().is_none_or(JoinHandle::is_finished) {
                state.driver = Some(tokio::spawn(lookup::drive(Arc::clone(self))));
            }
        }
        result
    }
}

/// What settings have for a table, however they spell it.
fn of_table<'a, T>(settings: &'a BTreeMap<TableName, T>, name: &TableName) -> Option<&'a T> {
    let mut settings = settings.iter();
    settings.find(|(table, _)| table.as_str().eq_ignore_ascii_case(name.as_str())).map(|(_, value)| value)
}

impl State {
    fn make_room(&mut self) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.retain(|_, entry| entry.is_described() || entry.is_asked || entry.want.is_some());
        }
    }
}
