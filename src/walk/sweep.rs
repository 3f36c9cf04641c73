//! Sweeps: what changed since the last one, less an overlap. They find INSERTs and UPDATEs whose notifications were lost.
//!
//! Mostly little has changed, so that many tables are asked about in one request; a table of which more has changed than
//! fits, or that fails beside others, is asked about by itself, page by page.

use std::collections::HashSet;

use super::{
    Loaded, Loader, Target, WalkError, checkpoint,
    load::Writer,
    page::{self, Pages},
    ranges::{Range, Visitor},
    silence,
};
use crate::{
    domain::Time,
    failpoint::Failpoint,
    queue,
    upstream::{ChangesAsk, TablePage},
};

/// How far a sweep reaches back behind its watermark: changes may become visible late.
const OVERLAP: chrono::Duration = chrono::Duration::minutes(10);
/// Tables in one request at most.
pub(super) const TABLES_MAX: usize = 25;

impl Loader {
    /// Sweeps several tables, at most [`TABLES_MAX`], and says what each came to, in their order.
    pub(super) async fn sweep_together(&self, targets: &[&Target]) -> Vec<Result<Loaded, WalkError>> {
        let mut begun = Vec::with_capacity(targets.len());
        for target in targets {
            begun.push(Sweep::begin(self, target).await);
        }
        let asks: Vec<_> = begun.iter().filter_map(|sweep| sweep.as_ref().ok()?.as_ref()).map(Sweep::ask).collect();
        let mut pages = self.glances(&asks).await.into_iter();
        let mut results = Vec::with_capacity(targets.len());
        for sweep in begun {
            results.push(match sweep {
                Err(error) => Err(error),
                Ok(None) => Ok(Loaded::default()),
                Ok(Some(sweep)) => match pages.next().flatten() {
                    Some(page) => sweep.end_with(&page).await,
                    None => sweep.page_by_page(self).await,
                },
            });
        }
        results
    }

    /// What changed in each table, where one page has all of it. Tables of one tenant stand together, so that one that is
    /// down can be left out.
    async fn glances(&self, asks: &[ChangesAsk<'_>]) -> Vec<Option<TablePage>> {
        if let Some(pages) = self.glance(asks).await {
            return pages;
        }
        let mut pages = Vec::with_capacity(asks.len());
        for of_tenant in asks.chunk_by(|one, other| one.tenant == other.tenant) {
            let has_failed = of_tenant.len() == asks.len();
            let glance = if has_failed { None } else { self.glance(of_tenant).await };
            pages.extend(glance.unwrap_or_else(|| of_tenant.iter().map(|_| None).collect()));
        }
        pages
    }

    /// One request for all of it; `None` when it fails as a whole.
    async fn glance(&self, asks: &[ChangesAsk<'_>]) -> Option<Vec<Option<TablePage>>> {
        // Alone it may as well get whole pages.
        if asks.len() < 2 {
            return Some(asks.iter().map(|_| None).collect());
        }
        let fitting = asks.iter().map(|ask| page::rows_max(ask.table, self.source.keys_max)).min().unwrap_or(1);
        let rows_max = (fitting / asks.len()).max(1);
        match self.source.upstream.changes(asks, rows_max).await {
            Ok(pages) => Some(pages.into_iter().map(|page| page.ok().filter(is_all)).collect()),
            Err(error) => {
                tracing::debug!(tables = asks.len(), error = %crate::telemetry::chain(&error), "not swept together");
                None
            }
        }
    }
}

/// Whether a page has all that changed, each row once, as one statement can write it.
fn is_all(page: &TablePage) -> bool {
    let keys: HashSet<_> = page.rows.iter().map(|row| &row.key).collect();
    !page.has_next && keys.len() == page.rows.len()
}

/// A sweep of one table under way.
struct Sweep<'a> {
    target: &'a Target,
    writer: Writer,
    /// Where the last sweep ended.
    watermark: Time,
    /// The newest change met.
    newest: Time,
    listener: silence::Listener,
}

impl<'a> Sweep<'a> {
    /// `None` for a table that does not tell when its rows changed.
    async fn begin(loader: &Loader, target: &'a Target) -> Result<Option<Self>, WalkError> {
        loader.replica.ensure(&target.table).await?;
        if target.table.changed_column().is_none() {
            return Ok(None);
        }
        let watermark = checkpoint::watermark(&loader.pool, target).await?;
        let writer = loader.writer(target, None, true);
        Ok(Some(Self { target, writer, watermark, newest: watermark, listener: silence::Listener::default() }))
    }

    fn ask(&self) -> ChangesAsk<'a> {
        ChangesAsk { tenant: self.target.tenant, table: &self.target.table, since: self.watermark - OVERLAP }
    }

    async fn end_with(mut self, page: &TablePage) -> Result<Loaded, WalkError> {
        self.take(page).await?;
        self.finish(0).await
    }

    async fn page_by_page(mut self, loader: &Loader) -> Result<Loaded, WalkError> {
        let whole = Range::whole();
        let mut pages = Pages::new(&loader.source, self.target, &whole).changed_since(self.ask().since);
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
        self.newest = changes().fold(self.newest, Time::max);
        self.listener.hear(page.started_at, changes());
        self.writer.visit(&Range::whole(), page, !page.has_next).await
    }

    /// The watermark moves only when everything was applied; a row that could not be read is asked for again until it
    /// can.
    async fn finish(self, skipped: u64) -> Result<Loaded, WalkError> {
        Failpoint::SweepWritten.pass();
        let mut transaction = self.writer.begin().await?;
        let reached = if skipped == 0 { self.newest } else { self.watermark };
        checkpoint::set_watermark(&mut transaction, self.target, reached).await?;
        self.listener.report(&mut transaction, self.target).await?;
        let Target { tenant, table } = self.target;
        queue::dead_letter::revive_lane(&mut transaction, *tenant, &table.name).await?;
        transaction.commit().await?;
        Ok(Loaded { changed: self.writer.changed(), skipped })
    }
}
