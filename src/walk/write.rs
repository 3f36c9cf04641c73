//! How loads, resyncs and sweeps write their pages: by the one writer, the checkpoint in the same transaction.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sqlx::{Postgres, Transaction};
use tokio::sync::{Mutex, Semaphore};

use super::{
    Loader, Progress, WalkError,
    checkpoint::{self, Step},
    patience::{Patience, repeated},
    ranges::{Range, Visitor},
};
use crate::{
    domain::{
        AnnouncedKey, DatabaseTime, Row, RowKey, TargetTable,
        isolate::{Limits, isolate_in_turn},
    },
    failpoint::Failpoint,
    mirror::WalkId,
    queue::{self, Journal, Priority},
    reconcile::{Page, ReconcileError, Writer},
    telemetry::{chain, spans},
    upstream::TablePage,
};

/// The search for rows that do not fit.
const SEARCH: Limits = Limits::new(16, 64);
/// So many rows, none of which fits, say that the table is to blame.
const ROWS_TELLING: usize = 8;

/// Writes the pages of one walk of a table.
#[derive(Debug)]
pub(super) struct PageWriter {
    writer: Writer,
    /// See [`Loader`](super::Loader).
    places: Arc<Semaphore>,
    target: TargetTable,
    job: Job,
    progress: Arc<Progress>,
    changed: AtomicU64,
    /// One page of the table at a time is in its transaction, so that live work never queues behind more than one.
    turn: Mutex<()>,
}

/// What the pages are of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The walk whose checkpoint moves with each page; none for a sweep.
    pub(super) walk: Option<WalkId>,
    /// Whether each change is worth a line in the sync log.
    pub(super) is_logged: bool,
    pub(super) patience: Patience,
}

/// What one transaction writes.
#[derive(Debug, Clone, Copy)]
struct Batch<'a> {
    rows: &'a [Row],
    started_at: DatabaseTime,
    /// Rows that are left to live work, which sets them aside if it must.
    left: &'a [AnnouncedKey],
    /// Rows that no work can ask for, by what they are called, and why.
    unworkable: &'a [(AnnouncedKey, String)],
    step: Option<Step<'a>>,
}

impl Visitor for PageWriter {
    async fn visit(&self, range: &Range, page: &TablePage, is_last: bool) -> Result<(), WalkError> {
        let step = self.job.walk.map(|walk| Step {
            walk,
            range_no: range.no,
            rows: page.rows.len(),
            position: page.last_key.as_ref(),
            is_last,
        });
        let (workable, unworkable): (Vec<_>, Vec<_>) =
            page.unreadable.iter().partition(|(key, _)| key.too_long(&self.target.table).is_none());
        let left = announced(&self.target, workable.into_iter().map(|(key, _)| key));
        let named =
            |(key, reason): &(RowKey, String)| Some((key.abbreviated(&self.target.table).ok()?, reason.clone()));
        let unworkable: Vec<_> = unworkable.into_iter().filter_map(named).collect();
        let _waiting = self.progress.wait();
        let batch = Batch { rows: &page.rows, started_at: page.started_at, left: &left, unworkable: &unworkable, step };
        match self.write_patiently(batch).await {
            Err(error) if error.reason_of_rows().is_some() => self.write_apart(batch, error).await,
            result => result,
        }
    }

    async fn cut(&self, total: Option<u64>, ranges: &[Range]) -> Result<(), WalkError> {
        let Some(walk) = self.job.walk else { return Ok(()) };
        let mut transaction = self.writer.begin().await?;
        checkpoint::cut(&mut transaction, self.target.id, walk, total, ranges).await?;
        transaction.commit().await?;
        Failpoint::WalkCut.pass();
        Ok(())
    }
}

impl PageWriter {
    pub(super) fn new(loader: &Loader, target: &TargetTable, job: Job, progress: &Arc<Progress>) -> Self {
        Self {
            writer: loader.writer.clone(),
            places: Arc::clone(&loader.places),
            target: target.clone(),
            job,
            progress: Arc::clone(progress),
            changed: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    /// A transaction for what belongs to the end of the walk.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, WalkError> {
        Ok(self.writer.begin().await?)
    }

    /// Rows that were new or different.
    pub(super) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    async fn write_patiently(&self, batch: Batch<'_>) -> Result<(), WalkError> {
        let write = || {
            let span = spans::settle(self.target.tenant, &self.target.table.name, batch.rows.len());
            spans::within(span, self.write(batch))
        };
        repeated(&self.target, self.job.patience, write).await
    }

    async fn write(&self, batch: Batch<'_>) -> Result<(), WalkError> {
        let _turn = self.turn.lock().await;
        let _place = self.places.acquire().await;
        self.writer.meet(&self.target, batch.rows).await;
        let mut transaction = self.writer.begin().await?;
        let (mut changed, mut journal) = (0, Journal::default());
        if !batch.rows.is_empty() {
            let page = Page {
                target: &self.target,
                rows: batch.rows,
                started_at: batch.started_at,
                walk: self.job.walk,
                is_logged: self.job.is_logged,
            };
            changed = self.writer.take_page(&mut transaction, page, &mut journal).await?;
        }
        queue::mark(&mut transaction, self.target.id, batch.left, Priority::Deferred).await?;
        queue::dead_letter::set_aside(&mut transaction, self.target.id, batch.unworkable).await?;
        if let Some(step) = batch.step {
            checkpoint::advance(&mut transaction, self.target.id, step).await?;
        }
        self.pass(Failpoint::WalkWritten);
        self.writer.commit(transaction, &self.target, journal).await?;
        self.pass(Failpoint::WalkCommitted);
        self.changed.fetch_add(changed, Ordering::Relaxed);
        Ok(())
    }

    fn pass(&self, point: Failpoint) {
        if self.job.walk.is_some() {
            point.pass();
        }
    }

    /// Some of the rows do not fit the mirror: the others are written, and these are left to live work, which sets them
    /// aside with their reason.
    async fn write_apart(&self, batch: Batch<'_>, error: WalkError) -> Result<(), WalkError> {
        tracing::warn!(target = %self.target, error = %chain(&error), "the rows of a page are written apart");
        let rows: Vec<&Row> = batch.rows.iter().collect();
        let write = |part: Vec<_>| async move {
            let rows: Vec<Row> = part.iter().map(|row: &&Row| (*row).clone()).collect();
            let apart = Batch { rows: &rows, left: &[], unworkable: &[], step: None, ..batch };
            let written = self.write_patiently(apart).await;
            (part, written)
        };
        let found = isolate_in_turn(rows, error, SEARCH, write, WalkError::reason_of_rows).await?;
        let reason = found.culprits.first().map(|(_, reason)| reason.clone()).unwrap_or_default();
        let alone = found.culprits.iter().map(|(row, _)| *row);
        let unfit: Vec<&Row> =
            alone.chain(found.unresolved.iter().flat_map(|(rows, _)| rows.iter().copied())).collect();
        if unfit.len() == batch.rows.len() && unfit.len() >= ROWS_TELLING {
            return Err(ReconcileError::NoRowFits { reason }.into());
        }
        let mut left = batch.left.to_vec();
        left.extend(announced(&self.target, unfit.iter().map(|row| &row.key)));
        self.write_patiently(Batch { rows: &[], left: &left, ..batch }).await
    }
}

/// Keys as notifications would give them; those that none could give are left out.
pub(super) fn announced<'a>(target: &TargetTable, keys: impl IntoIterator<Item = &'a RowKey>) -> Vec<AnnouncedKey> {
    keys.into_iter().filter_map(|key| key.announced(&target.table).ok()).collect()
}
