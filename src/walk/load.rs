//! Full scans: the load of a table, and its later resyncs.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::{
    Progress, Source, WalkError,
    checkpoint::{self, Walk},
    error::Recovery,
    extras,
    pacer::Pacer,
    patience::{Patience, repeated},
    ranges,
    write::{Job, PageWriter, announced},
};
use crate::{
    domain::{RowKey, TableSpec, TargetTable},
    failpoint::Failpoint,
    mirror::WalkId,
    queue::{self, Priority},
    reconcile::Writer,
    telemetry::chain,
};

/// Pages that are written at the same time, over all walks of a process, so that connections are left for live work.
const PAGES_AT_ONCE: usize = 6;
/// Rows that only the mirror has, marked in one transaction.
const MARKED_AT_ONCE: usize = 5_000;
/// Times that a walk is taken up after it could do something about its end.
const RECOVERIES_MAX: u32 = 3;

/// Walks tables into the mirror. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Loader {
    pub(super) pool: PgPool,
    pub(super) writer: Writer,
    pub(super) source: Source,
    pub(super) places: Arc<Semaphore>,
}

/// What a walk came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Rows that were new or different, or that only the mirror had.
    pub changed: u64,
    /// Rows that the API could not read, and that were passed over.
    pub skipped: u64,
}

impl Loader {
    /// A loader.
    pub fn new(pool: PgPool, writer: Writer, source: Source) -> Self {
        Self { pool, writer, source, places: Arc::new(Semaphore::new(PAGES_AT_ONCE)) }
    }

    /// The same, with pages spread over time.
    pub(super) fn paced(&self, pacer: Option<Arc<Pacer>>) -> Self {
        Self { source: self.source.clone().paced(pacer), ..self.clone() }
    }

    /// Walks a whole table, from where an interrupted walk stopped if there is one, and marks the rows that only the
    /// mirror has for a fetch by key.
    pub async fn load(&self, target: &TargetTable, progress: &Arc<Progress>) -> Result<Loaded, WalkError> {
        let mut target = target.clone();
        let mut anew = false;
        for _ in 0..RECOVERIES_MAX {
            let error = match self.scan(&target, anew, progress).await {
                Ok(loaded) => return Ok(loaded),
                Err(error) => error,
            };
            let recovery = error.recovery();
            match recovery {
                Recovery::None => return Err(error),
                Recovery::TakeUp => {}
                Recovery::Remake => self.writer.mirror().forget(&target.table),
                Recovery::Redescribe => target.table = self.describe_anew(&target).await?,
            }
            anew = recovery == Recovery::Remake;
            tracing::warn!(%target, ?recovery, error = %chain(&error), "the walk goes on after a change");
        }
        self.scan(&target, anew, progress).await
    }

    /// One try of a walk.
    async fn scan(&self, target: &TargetTable, anew: bool, progress: &Arc<Progress>) -> Result<Loaded, WalkError> {
        let target = repeated(target, Patience::Endless, || self.ensure(target)).await?;
        let walk = checkpoint::begin(&self.pool, target.id, anew).await?;
        let id = walk.id;
        match self.go_on(&target, walk, progress).await {
            // Another process has walked it to its end, which is as good.
            Err(WalkError::Overtaken) if checkpoint::has_finished(&self.pool, target.id, id).await? => {
                Ok(Loaded::default())
            }
            result => result,
        }
    }

    async fn go_on(&self, target: &TargetTable, walk: Walk, progress: &Arc<Progress>) -> Result<Loaded, WalkError> {
        progress.begin(walk.rows_walked, walk.rows_total);
        let Walk { id, finished_before, ranges, .. } = walk;
        // A load is one event; what a resync changes is drift, and each row of it is worth a line.
        let job = Job { walk: Some(id), is_logged: finished_before, patience: Patience::Endless };
        let writer = Arc::new(PageWriter::new(self, target, job, progress));
        let skipped = ranges::walk(&self.source, target, ranges, &writer, progress).await?.rows;
        let extra = self.mark_extras(target, id).await?;
        Failpoint::WalkMarked.pass();
        self.finish(target, id, skipped).await?;
        Failpoint::WalkFinished.pass();
        Ok(Loaded { changed: writer.changed() + extra, skipped })
    }

    /// The end of a walk: its rows are those of the target.
    async fn finish(&self, target: &TargetTable, walk: WalkId, skipped: u64) -> Result<(), WalkError> {
        let note = (skipped > 0).then(|| format!("{skipped} rows could not be read and were passed over"));
        let mut transaction = self.writer.begin().await?;
        // Locked in the order in which pages do it: first the target, then the walk.
        let rows = checkpoint::rows_walked(&mut transaction, target.id).await?;
        queue::target::set_rows(&mut *transaction, target.id, rows).await?;
        checkpoint::finish(&mut transaction, target.id, walk, note).await?;
        Ok(transaction.commit().await?)
    }

    /// The target by a description that is fetched now: the API no longer fits the one at hand.
    async fn describe_anew(&self, target: &TargetTable) -> Result<Arc<TableSpec>, WalkError> {
        let TargetTable { tenant, table, .. } = target;
        self.source.catalogue.renew(tenant.level(), &table.name);
        Ok(self.source.catalogue.table(tenant.level(), &table.name, None).await?)
    }

    /// The target as its mirrored table is: columns that cannot be added yet are left out.
    pub(super) async fn ensure(&self, target: &TargetTable) -> Result<TargetTable, WalkError> {
        let table = self.writer.mirror().ensure(&target.table).await?;
        Ok(TargetTable { table, ..target.clone() })
    }

    /// Rows of the mirror that the walk has not met: the source is asked about each by its key, and that decides.
    async fn mark_extras(&self, target: &TargetTable, walk: WalkId) -> Result<u64, WalkError> {
        let mut marked = 0;
        loop {
            let keys = extras::read(&self.writer, target, walk).await?;
            for keys in keys.chunks(MARKED_AT_ONCE) {
                marked += self.mark(target, walk, keys).await?;
            }
            if keys.len() < extras::KEYS_MAX {
                return Ok(marked);
            }
        }
    }

    async fn mark(&self, target: &TargetTable, walk: WalkId, keys: &[RowKey]) -> Result<u64, WalkError> {
        let extra = announced(target, keys);
        let mut transaction = self.writer.begin().await?;
        // Whoever brings a walk to its end forgets which keys it has met: then these are not extra at all.
        if !checkpoint::is_under_way(&mut transaction, target.id, walk).await? {
            return Err(WalkError::Overtaken);
        }
        queue::mark(&mut transaction, target.id, &extra, Priority::Deferred).await?;
        extras::note_read(&self.writer, &mut transaction, target, walk, keys).await?;
        transaction.commit().await?;
        Ok(extra.len() as u64)
    }
}
