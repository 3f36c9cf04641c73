//! Sweeps: what changed since the last one, less an overlap. They find INSERTs and UPDATEs whose notifications were lost.
//!
//! Mostly little has changed, so that many tables of a tenant are asked about in one request, and what it brings is
//! applied at once. A table of which more has changed than fits, or that fails beside others, is asked about after that,
//! by itself and page by page.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::{FutureExt, StreamExt, stream};

use super::{
    Loaded, Loader, Progress, WalkError,
    page::{self, Pages, Skipped},
    patience::Patience,
    ranges::{Range, Visitor},
    silence::Listener,
    watermark,
    write::{Job, PageWriter},
};
use crate::{
    domain::{SourceTime, TargetTable},
    failpoint::Failpoint,
    queue,
    telemetry::chain,
    upstream::{ChangesAsk, TablePage},
};

/// How far a sweep reaches back behind its watermark: changes may become visible late.
const OVERLAP: chrono::Duration = chrono::Duration::minutes(10);
/// Tables in one request at most.
pub(super) const TABLES_MAX: usize = 25;
/// Tables that are written at the same time.
const WRITTEN_AT_ONCE: usize = 4;
/// Tables that are asked about by themselves at the same time.
const ALONE_AT_ONCE: usize = 2;
/// Tables that fail by themselves, after which the tenant's others are not asked about when none went well.
const FAILURES_TELLING: u32 = 2;
/// Tries of a page while somebody holds the mirrored table.
const TRIES: u32 = 3;
/// Rows of the dead letters that are tried again when their table can be read, at a time.
const REQUEUED_MAX: i64 = 500;

/// What each swept table came to, by its place.
type Results = Vec<(usize, Result<Loaded, WalkError>)>;

impl Loader {
    /// Sweeps tables of one tenant, at most [`TABLES_MAX`], and says what each came to, in their order.
    pub(super) async fn sweep(
        &self,
        targets: &[TargetTable],
        progress: &Arc<Progress>,
    ) -> Vec<Result<Loaded, WalkError>> {
        // Boxed here and below, for the compiler cannot see that borrowing futures of a stream may change threads.
        let begun: Vec<_> = targets.iter().map(|target| Sweep::begin(self, target, progress).boxed()).collect();
        let begun: Vec<_> = stream::iter(begun).buffered(WRITTEN_AT_ONCE).collect().await;
        let (mut results, mut sweeps): (Results, Vec<(usize, Sweep)>) = (vec![], vec![]);
        for (place, begun) in begun.into_iter().enumerate() {
            match begun {
                Ok(Some(sweep)) => sweeps.push((place, sweep)),
                Ok(None) => results.push((place, Ok(Loaded::default()))),
                Err(error) => results.push((place, Err(error))),
            }
        }
        let (good, alone) = self.sweep_together(sweeps, progress).await;
        let is_answered = !good.is_empty();
        results.extend(good);
        results.extend(self.sweep_alone(alone, is_answered, progress).await);
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Applies what one request tells of all of them; returns those it does not tell enough of.
    async fn sweep_together(&self, sweeps: Vec<(usize, Sweep)>, progress: &Progress) -> (Results, Vec<(usize, Sweep)>) {
        let pages = self.ask_together(&sweeps, progress).await;
        let (mut told, mut alone) = (vec![], vec![]);
        for ((place, sweep), page) in sweeps.into_iter().zip(pages) {
            match page {
                Some(page) => told.push(async move { (place, sweep.end_with(&page).await) }.boxed()),
                None => alone.push((place, sweep)),
            }
        }
        (stream::iter(told).buffer_unordered(WRITTEN_AT_ONCE).collect().await, alone)
    }

    /// What changed in each table, where one page has all of it.
    async fn ask_together(&self, sweeps: &[(usize, Sweep)], progress: &Progress) -> Vec<Option<TablePage>> {
        let nothing = || sweeps.iter().map(|_| None).collect();
        // Alone it may as well get whole pages.
        if sweeps.len() < 2 {
            return nothing();
        }
        let asks: Vec<ChangesAsk<'_>> = sweeps.iter().map(|(_, sweep)| sweep.ask()).collect();
        let rows_max = |ask: &ChangesAsk<'_>| {
            self.source.upstream.rows_max(ask.table, page::rows_max(ask.table, self.source.keys_max))
        };
        let fitting = asks.iter().map(rows_max).min().unwrap_or(1);
        let _waiting = progress.wait();
        match self.source.upstream.changes(&asks, (fitting / asks.len()).max(1)).await {
            Ok(pages) => pages.into_iter().map(|page| page.ok().filter(is_all)).collect(),
            Err(error) => {
                tracing::debug!(tables = asks.len(), error = %chain(&error), "not swept together");
                nothing()
            }
        }
    }

    /// Asks about each by itself. When the first ones fail and none of the tenant's tables goes well, the others are left
    /// for another time.
    async fn sweep_alone(&self, sweeps: Vec<(usize, Sweep)>, is_answered: bool, progress: &Progress) -> Results {
        let failures = AtomicU32::new(0);
        let has_failed = || !is_answered && failures.load(Ordering::Relaxed) >= FAILURES_TELLING;
        let mut tries = vec![];
        for (place, sweep) in sweeps {
            let (failures, has_failed) = (&failures, &has_failed);
            let sweeping = async move {
                if has_failed() {
                    return (place, Err(WalkError::NotAsked));
                }
                let result = sweep.page_by_page(self, progress).await;
                match &result {
                    Ok(_) => failures.store(0, Ordering::Relaxed),
                    Err(_) => _ = failures.fetch_add(1, Ordering::Relaxed),
                }
                (place, result)
            };
            tries.push(sweeping.boxed());
        }
        stream::iter(tries).buffer_unordered(ALONE_AT_ONCE).collect().await
    }
}

/// Whether a page has all that changed, each row once, as one statement can write it. Rows that nobody can name are
/// left to those who count them.
fn is_all(page: &TablePage) -> bool {
    let keys: HashSet<_> = page.rows.iter().map(|row| &row.key).collect();
    !page.has_next && page.unnamed.is_empty() && keys.len() == page.rows.len()
}

/// A sweep of one table under way.
struct Sweep {
    target: TargetTable,
    writer: PageWriter,
    /// Where the last sweep ended.
    watermark: SourceTime,
    /// The newest change met.
    newest: SourceTime,
    listener: Listener,
}

impl Sweep {
    /// `None` for a table that does not tell when its rows changed: there is nothing to ask for.
    async fn begin(loader: &Loader, target: &TargetTable, progress: &Arc<Progress>) -> Result<Option<Self>, WalkError> {
        let target = loader.ensure(target).await?;
        let watermark = watermark::read(&loader.pool, target.id).await?;
        if target.table.changed_column().is_none() {
            watermark::advance(&mut *loader.pool.acquire().await?, target.id, watermark).await?;
            return Ok(None);
        }
        let job = Job { walk: None, is_logged: true, patience: Patience::Tries(TRIES) };
        let writer = PageWriter::new(loader, &target, job, progress);
        Ok(Some(Self { target, writer, watermark, newest: watermark, listener: Listener::default() }))
    }

    fn ask(&self) -> ChangesAsk<'_> {
        ChangesAsk { tenant: self.target.tenant, table: &self.target.table, since: self.watermark - OVERLAP }
    }

    async fn end_with(mut self, page: &TablePage) -> Result<Loaded, WalkError> {
        self.take(page).await?;
        self.finish(Skipped::default()).await
    }

    async fn page_by_page(mut self, loader: &Loader, progress: &Progress) -> Result<Loaded, WalkError> {
        let (whole, target) = (Range::whole(), self.target.clone());
        let mut pages = Pages::new(&loader.source, &target, &whole, progress).changed_since(self.ask().since);
        loop {
            let page = pages.next().await?;
            self.take(&page).await?;
            if !page.has_next {
                break;
            }
        }
        self.finish(pages.skipped).await
    }

    async fn take(&mut self, page: &TablePage) -> Result<(), WalkError> {
        let changes = || page.rows.iter().filter_map(|row| row.changed_at);
        self.newest = changes().fold(self.newest, SourceTime::max);
        self.listener.hear(page.started_at, changes());
        self.writer.visit(&Range::whole(), page, !page.has_next).await
    }

    /// The watermark moves only when everything was applied, or is remembered by itself: a row that could not be read
    /// waits for live work. One without a key is asked for again until it can be read.
    async fn finish(self, skipped: Skipped) -> Result<Loaded, WalkError> {
        Failpoint::SweepWritten.pass();
        let Self { target, writer, watermark, newest, listener } = self;
        let mut transaction = writer.begin().await?;
        let reached = if skipped.unknown == 0 { newest } else { watermark };
        watermark::advance(&mut transaction, target.id, reached).await?;
        listener.report(&mut transaction, &target).await?;
        let requeued = queue::dead_letter::requeue_dead(&mut transaction, target.id, REQUEUED_MAX).await?;
        transaction.commit().await?;
        if requeued > 0 {
            tracing::info!(%target, rows = requeued, "the table can be read again, rows leave the dead letters");
        }
        Ok(Loaded { changed: writer.changed(), skipped: skipped.rows })
    }
}
