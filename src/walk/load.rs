//! First load, healing walks and sweeps: what a page brings is written by the rules that live work follows.

use sqlx::{PgConnection, PgPool};

use super::{
    Target, WalkError,
    checkpoint::{self, Checkpoint, Purpose},
    page::Pages,
};
use crate::{
    domain::{
        Row, RowHint, RowKey, Time,
        settle::{self, Action, Known, Look, Next, Sight},
    },
    mirror::{Fetched, Replica},
    queue::{self, Priority, SyncAction, SyncEntry},
    upstream::Upstream,
};

/// Keys of the mirror that are compared with the keys met at a time.
const EXTRAS_ROWS: i64 = 5_000;
/// How far a sweep reaches back behind its watermark: changes may become visible late.
const OVERLAP: chrono::Duration = chrono::Duration::minutes(10);

/// Walks tables into the mirror.
#[derive(Debug, Clone)]
pub struct Loader {
    pool: PgPool,
    upstream: Upstream,
    replica: Replica,
    rows_max: usize,
}

/// What a page came to.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    changed: u64,
}

impl Loader {
    /// A loader; `rows_max` is the size of a page.
    pub fn new(pool: PgPool, upstream: Upstream, replica: Replica, rows_max: usize) -> Self {
        Self { pool, upstream, replica, rows_max }
    }

    /// Walks a whole table, from where an interrupted walk stopped if there is one, and marks the rows that only the
    /// mirror has. Calls `progress` with the rows walked so far. Returns how many rows were new or different.
    pub async fn load(&self, target: &Target, mut progress: impl FnMut(u64)) -> Result<u64, WalkError> {
        self.replica.ensure(&target.table).await?;
        let walk = checkpoint::begin(&self.pool, target, Purpose::Load).await?;
        let mut walked = u64::try_from(walk.rows_walked).unwrap_or_default();
        progress(walked);
        let mut pages = Pages::new(&self.upstream, target, self.rows_max, walk.position.clone(), None);
        let mut changed = 0;
        loop {
            let page = pages.next().await?;
            changed += self
                .apply(target, Purpose::Load, &walk, &page.rows, page.started_at, pages.position.as_ref())
                .await?
                .changed;
            walked += page.rows.len() as u64;
            progress(walked);
            if !page.has_next {
                break;
            }
        }
        let mut transaction = self.pool.begin().await?;
        changed += self.mark_extras(&mut transaction, target, &walk).await?;
        checkpoint::finish(&mut transaction, target, Purpose::Load).await?;
        transaction.commit().await?;
        Ok(changed)
    }

    /// Asks for what changed since the last sweep, less an overlap, and writes it. Finds INSERTs and UPDATEs whose
    /// notifications were lost. The watermark moves only when everything was applied.
    pub async fn sweep(&self, target: &Target) -> Result<u64, WalkError> {
        self.replica.ensure(&target.table).await?;
        if target.table.changed_column().is_none() {
            return Ok(0);
        }
        let watermark = self.watermark(target).await?;
        let walk = Checkpoint { started_at: watermark, position: None, rows_walked: 0, finished_before: true };
        let mut pages = Pages::new(&self.upstream, target, self.rows_max, None, Some(watermark - OVERLAP));
        let (mut changed, mut newest) = (0, watermark);
        loop {
            let page = pages.next().await?;
            newest = page.rows.iter().filter_map(|row| row.changed_at).fold(newest, Time::max);
            changed += self.apply(target, Purpose::Sweep, &walk, &page.rows, page.started_at, None).await?.changed;
            if !page.has_next {
                break;
            }
        }
        self.set_watermark(target, newest).await?;
        Ok(changed)
    }

    /// Writes a page and moves the checkpoint, in one transaction.
    async fn apply(
        &self,
        target: &Target,
        purpose: Purpose,
        walk: &Checkpoint,
        rows: &[Row],
        started_at: Time,
        position: Option<&RowKey>,
    ) -> Result<Written, WalkError> {
        let mut transaction = self.pool.begin().await?;
        let Target { tenant, table } = target;
        self.replica.lock(&mut transaction, *tenant, table).await?;
        let keys: Vec<RowKey> = rows.iter().map(|row| row.key.clone()).collect();
        let verdicts = self.judge(&mut transaction, target, rows, &keys, started_at).await?;
        let (mut upserts, mut before, mut revived, mut doubtful) = (vec![], vec![], vec![], vec![]);
        for (row, (settlement, known)) in rows.iter().zip(&verdicts) {
            if settlement.action == Action::Upsert {
                upserts.push(Fetched { row, started_at, notification_id: None });
                before.push(known);
                revived.extend(known.tombstone.is_some().then(|| row.key.folded_text()));
            }
            if matches!(settlement.next, Next::LookAgain { .. }) {
                doubtful.extend(hint(target, &row.key));
            }
        }
        if !revived.is_empty() {
            queue::settle::revive_keys(&mut transaction, *tenant, &table.name, &revived).await?;
        }
        let written = self.replica.upsert(&mut transaction, *tenant, table, &upserts).await?;
        queue::settle::mark(&mut transaction, &doubtful, Priority::Deferred).await?;
        if walk.finished_before {
            // A first load is one event; what a later walk changes is drift, and each row of it is worth a line.
            let healed = upserts.iter().zip(before).filter(|(fetched, _)| written.contains(&fetched.row.key));
            let entries: Vec<_> = healed.filter_map(|(fetched, known)| entry(target, fetched, known)).collect();
            queue::settle::log(&mut transaction, &entries).await?;
        }
        if purpose == Purpose::Load {
            checkpoint::advance(&mut transaction, target, purpose, &keys, position).await?;
        }
        transaction.commit().await?;
        Ok(Written { changed: written.len() as u64 })
    }

    /// The verdict on each row of a page, by what the mirror and the waiting notifications know.
    async fn judge(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        rows: &[Row],
        keys: &[RowKey],
        started_at: Time,
    ) -> Result<Vec<(settle::Settlement, Known)>, WalkError> {
        let Target { tenant, table } = target;
        let mirrored = self.replica.known(connection, *tenant, table, keys).await?;
        let folded: Vec<String> = keys.iter().map(RowKey::folded_text).collect();
        let tombstones: std::collections::HashMap<_, _> =
            queue::settle::tombstones(connection, *tenant, &table.name, &folded).await?.into_iter().collect();
        let hints: Vec<RowHint> = keys.iter().filter_map(|key| hint(target, key)).collect();
        let waiting = queue::settle::waiting(connection, &hints).await?;
        let verdicts = rows.iter().zip(mirrored).zip(&folded).map(|((row, mirrored), folded)| {
            let known = Known { mirrored, tombstone: tombstones.get(folded).copied() };
            let evidence = hint(target, &row.key).and_then(|hint| waiting.get(&hint).copied());
            let look = Look { started_at, sight: Sight::Found(row.changed_at) };
            (settle::after_fetch(look, &evidence.unwrap_or_default(), &known), known)
        });
        Ok(verdicts.collect())
    }

    /// Rows of the mirror that the walk has not met and that nothing has brought since it began: the source is asked
    /// about each by its key, and that decides.
    async fn mark_extras(
        &self,
        connection: &mut PgConnection,
        target: &Target,
        walk: &Checkpoint,
    ) -> Result<u64, WalkError> {
        let Target { tenant, table } = target;
        let (mut after, mut marked) = (None, 0);
        loop {
            let keys = self
                .replica
                .keys_fetched_before(connection, *tenant, table, walk.started_at, after.as_ref(), EXTRAS_ROWS)
                .await?;
            let Some(last) = keys.last().cloned() else { return Ok(marked) };
            let met = checkpoint::seen(connection, target, Purpose::Load, &keys).await?;
            let met: std::collections::HashSet<_> = met.into_iter().collect();
            let extra: Vec<RowHint> =
                keys.iter().filter(|key| !met.contains(*key)).filter_map(|key| hint(target, key)).collect();
            marked += extra.len() as u64;
            queue::settle::mark(connection, &extra, Priority::Deferred).await?;
            after = Some(last);
        }
    }

    /// Where the last sweep ended; at first, when the table was first seen.
    async fn watermark(&self, target: &Target) -> Result<Time, WalkError> {
        let walk = checkpoint::begin(&self.pool, target, Purpose::Sweep).await?;
        Ok(walk.started_at)
    }

    async fn set_watermark(&self, target: &Target, watermark: Time) -> Result<(), WalkError> {
        sqlx::query(
            "update nxt_mirror.checkpoint set started_at = greatest(started_at, $4), last_finished_at = now()
              where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, 'sweep')",
        )
        .bind(target.tenant.kind())
        .bind(target.tenant.number())
        .bind(target.table.name.as_str())
        .bind(watermark)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

pub(super) fn hint(target: &Target, key: &RowKey) -> Option<RowHint> {
    let Target { tenant, table } = target;
    let key = key.to_hint(table).ok()?;
    Some(RowHint { tenant: *tenant, table: table.name.clone(), key })
}

fn entry(target: &Target, fetched: &Fetched<'_>, known: &Known) -> Option<SyncEntry> {
    let action = if known.mirrored.is_some() { SyncAction::Updated } else { SyncAction::Inserted };
    Some(SyncEntry {
        hint: hint(target, &fetched.row.key)?,
        action,
        reason: "found by a walk".to_owned(),
        notification_id: None,
        source_changed_at: fetched.row.changed_at,
        fetch_started_at: Some(fetched.started_at),
    })
}
