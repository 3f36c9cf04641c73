//! First load and healing walks, and how both and sweeps write: what a page brings by the rules that live work follows.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    Progress, Source, Target, WalkError,
    checkpoint::{self, Walk},
    ranges::{self, Range, Visitor},
};
use crate::{
    domain::{
        Row, RowHint, RowKey, Time,
        settle::{self, Action, Known, Look, Next, Sight},
    },
    failpoint::Failpoint,
    mirror::{MirrorError, Replica, WalkId},
    queue::{self, Priority, SyncAction, SyncEntry},
    upstream::TablePage,
};

/// Walks tables into the mirror.
#[derive(Debug, Clone)]
pub struct Loader {
    pub(super) pool: PgPool,
    pub(super) replica: Replica,
    pub(super) source: Source,
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
    pub fn new(pool: PgPool, replica: Replica, source: Source) -> Self {
        Self { pool, replica, source }
    }

    /// The same, but in no hurry.
    pub(super) fn paced(&self, pacer: Arc<super::pacer::Pacer>) -> Self {
        Self { source: Source { pacer: Some(pacer), ..self.source.clone() }, ..self.clone() }
    }

    /// Walks a whole table, from where an interrupted walk stopped if there is one, and marks the rows that only the
    /// mirror has for a look by key.
    pub async fn load(&self, target: &Target, progress: &Arc<Progress>) -> Result<Loaded, WalkError> {
        self.replica.ensure(&target.table).await?;
        let walk = checkpoint::begin(&self.pool, target).await?;
        progress.add(walk.rows_walked);
        if let Some(total) = walk.rows_total {
            progress.set_total(total);
        }
        let Walk { id, finished_before, ranges, .. } = walk;
        // A first load is one event; what a later walk changes is drift, and each row of it is worth a line.
        let writer = Arc::new(self.writer(target, Some(id), finished_before));
        let skipped = ranges::walk(&self.source, target, ranges, &writer, progress).await?;
        let extra = self.mark_extras(target, id).await?;
        Failpoint::WalkMarked.pass();
        let note = (skipped > 0).then(|| format!("{skipped} rows could not be read and were passed over"));
        let mut transaction = self.pool.begin().await?;
        checkpoint::finish(&mut transaction, target, id, note).await?;
        transaction.commit().await?;
        Failpoint::WalkFinished.pass();
        Ok(Loaded { changed: writer.changed() + extra, skipped })
    }

    pub(super) fn writer(&self, target: &Target, walk: Option<WalkId>, is_logged: bool) -> Writer {
        Writer {
            pool: self.pool.clone(),
            replica: self.replica.clone(),
            target: target.clone(),
            walk,
            is_logged,
            changed: AtomicU64::new(0),
            turn: Mutex::default(),
        }
    }

    /// Rows of the mirror that the walk has not met and that nothing has brought since it began: the source is asked
    /// about each by its key, and that decides.
    async fn mark_extras(&self, target: &Target, walk: WalkId) -> Result<u64, WalkError> {
        let mut reading = self.pool.begin().await?;
        self.replica.declare_unmet(&mut reading, target.tenant, &target.table, walk).await?;
        let mut marked = 0;
        loop {
            let keys = self.replica.next_unmet(&mut reading, &target.table).await?;
            if keys.is_empty() {
                return Ok(marked);
            }
            let extra: Vec<RowHint> = keys.iter().filter_map(|key| hint(target, key)).collect();
            marked += extra.len() as u64;
            let mut marking = self.pool.acquire().await?;
            queue::settle::mark(&mut marking, &extra, Priority::Deferred).await?;
        }
    }
}

/// Writes pages.
pub(super) struct Writer {
    pool: PgPool,
    replica: Replica,
    target: Target,
    /// The walk whose checkpoint moves with each page; none for a sweep.
    walk: Option<WalkId>,
    is_logged: bool,
    changed: AtomicU64,
    /// Held from the lock of a page's rows until its commit.
    turn: Mutex<()>,
}

impl Visitor for Writer {
    async fn visit(&self, range: &Range, page: &TablePage, is_last: bool) -> Result<(), WalkError> {
        match self.write(&page.rows, page, Some((range, is_last))).await {
            Err(WalkError::Mirror(error)) if error.is_about_data() => {
                self.write_apart(range, page, is_last, &error).await
            }
            result => result,
        }
    }

    async fn cut(&self, total: Option<u64>, ranges: &[Range]) -> Result<(), WalkError> {
        let mut transaction = self.pool.begin().await?;
        checkpoint::cut(&mut transaction, &self.target, total, ranges).await?;
        transaction.commit().await?;
        Failpoint::WalkCut.pass();
        Ok(())
    }
}

impl Writer {
    /// Rows that were new or different.
    pub(super) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    pub(super) async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, sqlx::Error> {
        self.pool.begin().await
    }

    /// Writes rows, and with `page_of` moves the checkpoint behind their page, in one transaction.
    async fn write(&self, rows: &[Row], page: &TablePage, page_of: Option<(&Range, bool)>) -> Result<(), WalkError> {
        let mut turn = None;
        let mut transaction = self.pool.begin().await?;
        let written = self.write_rows(&mut transaction, rows, page.started_at, &mut turn).await?;
        if let Some((range, is_last)) = page_of {
            self.finish_page(&mut transaction, range, page, is_last).await?;
        }
        if self.walk.is_some() {
            Failpoint::WalkWritten.pass();
        }
        transaction.commit().await?;
        if self.walk.is_some() {
            Failpoint::WalkCommitted.pass();
        }
        self.changed.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }

    /// One of the rows does not fit the mirror: halves until it stands alone, and leaves it to live work, which sets it
    /// aside with its reason.
    async fn write_apart(
        &self,
        range: &Range,
        page: &TablePage,
        is_last: bool,
        error: &MirrorError,
    ) -> Result<(), WalkError> {
        tracing::warn!(target = %self.target, error = %crate::telemetry::chain(error), "a page is written row by row");
        let mut parts = vec![page.rows.as_slice()];
        let mut unfit = vec![];
        while let Some(part) = parts.pop() {
            match self.write(part, page, None).await {
                Err(WalkError::Mirror(error)) if error.is_about_data() && part.len() > 1 => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
                Err(WalkError::Mirror(error)) if error.is_about_data() => unfit.extend(part),
                result => result?,
            }
        }
        let mut transaction = self.pool.begin().await?;
        let hints: Vec<RowHint> = unfit.iter().filter_map(|row| hint(&self.target, &row.key)).collect();
        queue::settle::mark(&mut transaction, &hints, Priority::Deferred).await?;
        self.finish_page(&mut transaction, range, page, is_last).await?;
        Ok(transaction.commit().await?)
    }

    async fn finish_page(
        &self,
        connection: &mut PgConnection,
        range: &Range,
        page: &TablePage,
        is_last: bool,
    ) -> Result<(), WalkError> {
        let unreadable: Vec<RowHint> = page.unreadable.iter().filter_map(|(key, _)| hint(&self.target, key)).collect();
        queue::settle::mark(connection, &unreadable, Priority::Deferred).await?;
        if self.walk.is_some() {
            let position = page.last_key.as_ref();
            checkpoint::advance(connection, &self.target, range.no, page.rows.len(), position, is_last).await?;
        }
        Ok(())
    }

    /// Writes what differs. Rows that are already as fetched need neither lock nor verdict.
    async fn write_rows<'a>(
        &'a self,
        connection: &mut PgConnection,
        rows: &[Row],
        started_at: Time,
        turn: &mut Option<MutexGuard<'a, ()>>,
    ) -> Result<u64, WalkError> {
        if rows.is_empty() {
            return Ok(0);
        }
        let Target { tenant, table } = &self.target;
        self.replica.stage(connection, *tenant, table, rows, started_at).await?;
        if let Some(walk) = self.walk {
            self.replica.note_met(connection, table, walk).await?;
        }
        let positions = self.replica.staged_differences(connection, table).await?;
        if positions.is_empty() {
            return Ok(0);
        }
        // One page at a time asks for the lock, so that live work never queues behind more than one.
        *turn = Some(self.turn.lock().await);
        // What live work has written until here is seen by the verdicts, and by the merge.
        self.replica.lock(connection, *tenant, table).await?;
        let candidates: Vec<&Row> = positions.iter().filter_map(|&position| rows.get(position as usize)).collect();
        let verdicts = self.judge(connection, &positions, &candidates, started_at).await?;
        let (mut accepted, mut before, mut revived, mut doubtful) = (vec![], HashMap::new(), vec![], vec![]);
        for ((row, position), (settlement, known)) in candidates.iter().zip(&positions).zip(&verdicts) {
            if settlement.action == Action::Upsert {
                accepted.push(*position);
                before.insert(&row.key, (*row, known));
                revived.extend(known.tombstone.is_some().then(|| row.key.folded_text()));
            }
            if matches!(settlement.next, Next::LookAgain { .. }) {
                doubtful.extend(hint(&self.target, &row.key));
            }
        }
        if !revived.is_empty() {
            queue::tombstone::revive(connection, *tenant, &table.name, &revived).await?;
        }
        queue::settle::mark(connection, &doubtful, Priority::Deferred).await?;
        if !self.is_logged {
            return Ok(self.replica.merge_staged(connection, table, &accepted).await?);
        }
        let written = self.replica.merge_staged_and_tell(connection, table, &accepted).await?;
        let healed = written.iter().filter_map(|key| before.get(key));
        let entries: Vec<_> = healed.filter_map(|(row, known)| self.entry(row, known, started_at)).collect();
        queue::settle::log(connection, &entries).await?;
        Ok(written.len() as u64)
    }

    /// The verdict on each row, by what the mirror and the waiting notifications know.
    async fn judge(
        &self,
        connection: &mut PgConnection,
        positions: &[i32],
        rows: &[&Row],
        started_at: Time,
    ) -> Result<Vec<(settle::Settlement, Known)>, WalkError> {
        let Target { tenant, table } = &self.target;
        let mirrored = self.replica.staged_known(connection, table, positions).await?;
        let folded: Vec<String> = rows.iter().map(|row| row.key.folded_text()).collect();
        let hints: Vec<Option<RowHint>> = rows.iter().map(|row| hint(&self.target, &row.key)).collect();
        let evidence = queue::settle::has_evidence(connection, *tenant, &table.name).await?;
        let tombstones: HashMap<_, _> = match evidence.of_deletions {
            true => queue::tombstone::of_keys(connection, *tenant, &table.name, &folded).await?.into_iter().collect(),
            false => HashMap::new(),
        };
        let waiting = match evidence.of_notifications {
            true => queue::settle::waiting(connection, hints.iter().flatten()).await?,
            false => HashMap::new(),
        };
        let verdicts =
            rows.iter().zip(mirrored).zip(folded.iter().zip(&hints)).map(|((row, mirrored), (folded, hint))| {
                let known = Known { mirrored, tombstone: tombstones.get(folded).copied() };
                let evidence = hint.as_ref().and_then(|hint| waiting.get(hint).copied());
                let look = Look { started_at, sight: Sight::Found(row.changed_at) };
                (settle::after_fetch(look, &evidence.unwrap_or_default(), &known), known)
            });
        Ok(verdicts.collect())
    }

    fn entry(&self, row: &Row, known: &Known, started_at: Time) -> Option<SyncEntry> {
        let action = if known.mirrored.is_some() { SyncAction::Updated } else { SyncAction::Inserted };
        Some(SyncEntry {
            hint: hint(&self.target, &row.key)?,
            action,
            reason: "found by a walk".to_owned(),
            notification_id: None,
            source_changed_at: row.changed_at,
            fetch_started_at: Some(started_at),
        })
    }
}

pub(super) fn hint(target: &Target, key: &RowKey) -> Option<RowHint> {
    let Target { tenant, table } = target;
    let key = key.to_hint(table).ok()?;
    Some(RowHint { tenant: *tenant, table: table.name.clone(), key })
}
