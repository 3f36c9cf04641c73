//! Looking tables up: few requests for many tables, and none that keeps the others waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::{
    Id, Inner,
    entry::{Lookup, Shape},
};
use crate::{
    domain::{Owner, TableName, naming},
    telemetry::chain,
    upstream::{Share, UpstreamError, queries::TableField},
};

/// How long the names gather that are wanted at about the same time: those of a burst come within a moment, and each
/// request that describes one of them alone is one less for rows.
const GATHER: Duration = Duration::from_millis(50);
/// How long names gather while a lookup is under way.
const GATHER_BEHIND: Duration = Duration::from_secs(1);
/// Lookups that are under way at the same time.
const LOOKUPS_MAX: usize = 4;
/// Tables that one request describes.
const TYPES_MAX: usize = 20;
/// Tables of one lookup.
const TABLES_MAX: usize = 4 * TYPES_MAX;
/// When a request for several tables takes so long, each is asked for by itself, too.
const SLOW: Duration = Duration::from_secs(5);

/// Tables that are looked up together.
#[derive(Default)]
struct Batch {
    tables: Vec<Wanted>,
    is_urgent: bool,
    /// Some are not in the list of tables, which must be loaded.
    needs_list: bool,
}

struct Wanted {
    id: Id,
    name: TableName,
    is_urgent: bool,
    /// Its field; `None` while the list does not have it.
    field: Option<TableField>,
}

/// Looks up what is wanted until nothing is.
pub(super) async fn drive(inner: Arc<Inner>) {
    let mut lookups = JoinSet::new();
    tokio::time::sleep(GATHER).await;
    loop {
        while lookups.len() < LOOKUPS_MAX
            && let Some(batch) = inner.next_batch()
        {
            lookups.spawn(look_up(Arc::clone(&inner), batch));
        }
        if lookups.is_empty() && inner.end_if_idle() {
            return;
        }
        let is_idle = lookups.is_empty();
        tokio::select! {
            Some(_) = lookups.join_next() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(GATHER_BEHIND) => {}
            () = inner.wanted.notified(), if is_idle => tokio::time::sleep(GATHER).await,
        }
    }
}

async fn look_up(inner: Arc<Inner>, mut batch: Batch) {
    let _under_way = UnderWay::new(&inner, &batch);
    let share = if batch.is_urgent { Share::Live } else { Share::Background };
    if inner.upstream.is_away() {
        return inner.fail(&batch.tables, UpstreamError::Away);
    }
    if batch.needs_list {
        match inner.load_list(share).await {
            Ok(list) => batch.tables.iter_mut().for_each(|wanted| wanted.field = find(&list, &wanted.id)),
            Err(error) => {
                // Notes an outage, if it is one.
                inner.upstream.examine(&error).await;
                return inner.fail(&batch.tables, error);
            }
        }
    }
    let (known, unknown): (Vec<_>, Vec<_>) = batch.tables.into_iter().partition(|wanted| wanted.field.is_some());
    unknown.iter().for_each(|wanted| inner.finish(wanted, Ok(None)));
    join_all(known.chunks(TYPES_MAX).map(|tables| inner.describe(tables, share))).await;
}

/// Frees the tables of a lookup, however that ends.
struct UnderWay {
    inner: Arc<Inner>,
    ids: Vec<Id>,
    needs_list: bool,
}

impl UnderWay {
    fn new(inner: &Arc<Inner>, batch: &Batch) -> Self {
        let ids = batch.tables.iter().map(|wanted| wanted.id.clone()).collect();
        Self { inner: Arc::clone(inner), ids, needs_list: batch.needs_list }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        // Set again by another lookup, it is only freed too early, which costs a request at worst.
        state.is_listing &= !self.needs_list;
        for id in &self.ids {
            if let Some(entry) = state.entries.get_mut(id) {
                entry.is_asked = false;
            }
        }
        drop(state);
        self.inner.has_arrived();
    }
}

impl Inner {
    /// What may be looked up now: tables whose list is known, else those for which it must be loaded.
    fn next_batch(&self) -> Option<Batch> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let list = state.list.clone();
        let (mut told, mut untold) = (Batch::default(), Batch { needs_list: true, ..Batch::default() });
        for (id, entry) in &state.entries {
            let Some(want) = entry.want.filter(|want| want.not_before <= now && !entry.is_asked) else { continue };
            let field = list.as_ref().and_then(|(list, _)| find(list, id));
            // A list that was asked for before says nothing of tables that it lacks.
            let is_told = field.is_some() || list.as_ref().is_some_and(|(_, asked_at)| *asked_at >= want.since);
            let batch = if is_told { &mut told } else { &mut untold };
            batch.is_urgent |= want.is_urgent;
            batch.tables.push(Wanted { id: id.clone(), name: entry.name.clone(), is_urgent: want.is_urgent, field });
        }
        let mut batch = [told, untold].into_iter().find(|batch| batch.may_begin(state.is_listing))?;
        batch.tables.sort_by_key(|wanted| !wanted.is_urgent);
        batch.tables.truncate(TABLES_MAX);
        state.is_listing |= batch.needs_list;
        for wanted in &batch.tables {
            if let Some(entry) = state.entries.get_mut(&wanted.id) {
                entry.begin(now);
            }
        }
        Some(batch)
    }

    /// Ends the driver when nothing is wanted, not even later.
    fn end_if_idle(&self) -> bool {
        let mut state = self.state.lock();
        let is_idle = state.entries.values().all(|entry| entry.want.is_none());
        if is_idle {
            state.driver = None;
        }
        is_idle
    }

    /// Loads the list of tables.
    async fn load_list(&self, share: Share) -> Result<Arc<Vec<TableField>>, UpstreamError> {
        let asked_at = Instant::now();
        let result = self.upstream.tables(share).await.map(Arc::new);
        let mut state = self.state.lock();
        state.is_listing = false;
        if let Ok(list) = &result {
            state.list = Some((Arc::clone(list), asked_at));
        }
        result
    }

    /// Describes tables by one request. If that fails, or takes too long, each is asked for by itself.
    async fn describe(&self, tables: &[Wanted], share: Share) {
        let together = self.describe_together(tables, share);
        tokio::pin!(together);
        if tables.len() == 1 {
            _ = together.await;
            return;
        }
        match tokio::time::timeout(SLOW, &mut together).await {
            Ok(true) => {}
            Ok(false) => self.describe_apart(tables, share).await,
            // A request that was begun is waited for: one that its client abandons keeps its place at the API.
            Err(_) => drop(tokio::join!(together, self.describe_apart(tables, share))),
        }
    }

    async fn describe_apart(&self, tables: &[Wanted], share: Share) {
        join_all(tables.chunks(1).map(|one| self.describe_together(one, share))).await;
    }

    /// Whether each table has come to its end; what is not the tables' own ends for all of them.
    async fn describe_together(&self, tables: &[Wanted], share: Share) -> bool {
        let types: Vec<String> =
            tables.iter().flat_map(|wanted| &wanted.field).map(|field| naming::pascal_case(&field.field)).collect();
        let names: Vec<&str> = types.iter().map(String::as_str).collect();
        match self.upstream.row_types(&names, share).await {
            Ok(found) => {
                for (wanted, found) in tables.iter().zip(found) {
                    let shape = |row_type| Some(Shape { table: wanted.field.clone()?, row_type });
                    self.finish(wanted, found.map(|row_type| row_type.and_then(shape)).map_err(Arc::new));
                }
                true
            }
            Err(error) => {
                let is_of_table = self.upstream.examine(&error).await.owner == Owner::Target;
                if is_of_table && tables.len() > 1 {
                    return false;
                }
                self.fail(tables, error);
                true
            }
        }
    }

    fn fail(&self, tables: &[Wanted], error: UpstreamError) {
        let error = Arc::new(error);
        tables.iter().for_each(|wanted| self.finish(wanted, Err(Arc::clone(&error))));
    }

    fn finish(&self, wanted: &Wanted, lookup: Lookup) {
        if let Err(error) = &lookup
            && !matches!(**error, UpstreamError::Away)
        {
            tracing::warn!(row.table = %wanted.name, error = %chain(error), "a table is not described");
        }
        if let Some(entry) = self.state.lock().entries.get_mut(&wanted.id) {
            entry.finish(lookup, self.configured(&wanted.name), Instant::now());
        }
        self.has_arrived();
    }

    fn has_arrived(&self) {
        self.arrivals.send_modify(|count| *count += 1);
    }
}

impl Batch {
    fn may_begin(&self, is_listing: bool) -> bool {
        !self.tables.is_empty() && (!self.needs_list || !is_listing)
    }
}

fn find(list: &[TableField], (level, name): &Id) -> Option<TableField> {
    list.iter().find(|field| field.level == *level && field.field.eq_ignore_ascii_case(name)).cloned()
}
