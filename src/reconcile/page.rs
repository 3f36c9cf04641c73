//! Pages of walks and sweeps: what differs is written by the same rules; rows that are as fetched need neither lock nor
//! verdict.

use sqlx::PgConnection;

use super::{
    ReconcileError, Writer,
    verdicts::{Change, Seen, Subject, applied, canonical},
};
use crate::{
    domain::{
        AnnouncedKey, DatabaseTime, Row, RowKey, TargetTable,
        settle::{Then, Verdict},
    },
    mirror::WalkId,
    queue::{self, Journal, Priority},
};

/// Rows that one request brought, each key once.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Whose.
    pub target: &'a TargetTable,
    /// Which.
    pub rows: &'a [Row],
    /// Start of the request.
    pub started_at: DatabaseTime,
    /// The walk that remembers the keys it has met; none for a sweep.
    pub walk: Option<WalkId>,
    /// Whether each change is worth a line in the sync log: not those of a first load.
    pub is_logged: bool,
}

impl Writer {
    /// Writes a page inside the caller's transaction, which [`Writer::begin`] began and [`Writer::commit`] ends. Returns
    /// how many rows were new or different.
    pub async fn take_page(
        &self,
        connection: &mut PgConnection,
        page: Page<'_>,
        journal: &mut Journal,
    ) -> Result<u64, ReconcileError> {
        let Page { target, rows, walk, .. } = page;
        if let Some(walk) = walk {
            let keys: Vec<&RowKey> = rows.iter().map(|row| &row.key).collect();
            self.mirror.note_met(connection, target, walk, &keys).await?;
        }
        let candidates = self.candidates(connection, target, rows).await?;
        let changed = match candidates.is_empty() {
            true => 0,
            false => self.take_candidates(connection, page, candidates, journal).await?,
        };
        clear_letters(connection, target, rows).await?;
        Ok(changed)
    }

    async fn take_candidates(
        &self,
        connection: &mut PgConnection,
        page: Page<'_>,
        candidates: Vec<&Row>,
        journal: &mut Journal,
    ) -> Result<u64, ReconcileError> {
        let Page { target, started_at, is_logged, .. } = page;
        self.mirror.lock(connection, target).await?;
        let subjects =
            candidates.iter().map(|row| Subject { asked: &row.key, seen: Seen::Found(row, started_at), claimed: None });
        // Read again: what live work has written until here is seen by the verdicts.
        let mut cases = self.judge(connection, target, subjects.collect()).await?;
        self.carry_out(connection, target, &mut cases, journal).await?;
        let doubtful: Vec<AnnouncedKey> = cases
            .iter()
            .filter(|case| is_doubtful(case.verdict))
            .filter_map(|case| case.subject.key().announced(&target.table).ok())
            .collect();
        queue::mark(connection, target.id, &doubtful, Priority::Deferred).await?;
        let changed: Vec<_> = cases.iter().filter(|case| case.change != Change::None).collect();
        if is_logged {
            changed.iter().for_each(|case| journal.log(case.entry(target, "found by a walk".to_owned())));
        }
        if !changed.is_empty() {
            queue::note_applied(connection, target.id, applied(&cases, false)).await?;
        }
        Ok(changed.len() as u64)
    }

    /// Rows that the mirror lacks or holds otherwise, as it is now.
    async fn candidates<'a>(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        rows: &'a [Row],
    ) -> Result<Vec<&'a Row>, ReconcileError> {
        let keys: Vec<RowKey> = rows.iter().map(|row| row.key.clone()).collect();
        let known = self.mirror.known(connection, target, &keys).await?;
        let (mirrored, mut candidates): (Vec<_>, Vec<_>) =
            rows.iter().zip(known).partition(|(_, known)| known.is_some());
        if !mirrored.is_empty() {
            let rows: Vec<&Row> = mirrored.iter().map(|(row, _)| *row).collect();
            let differs = self.mirror.differing(connection, target, &rows).await?;
            candidates.extend(mirrored.into_iter().zip(differs).filter(|(_, differs)| *differs).map(|(row, _)| row));
        }
        Ok(candidates.into_iter().map(|(row, _)| row).collect())
    }
}

/// What was set aside and is in the mirror now as the source has it has come right.
async fn clear_letters(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[Row],
) -> Result<(), ReconcileError> {
    if queue::dead_letter::has_any(connection, target.id).await? {
        let keys: Vec<String> = rows.iter().filter_map(|row| canonical(&row.key, target)).collect();
        queue::dead_letter::clear_dead(connection, target.id, &keys).await?;
    }
    Ok(())
}

fn is_doubtful(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Write { then: Then::Recheck { .. }, .. } | Verdict::Keep { then: Then::Recheck { .. }, .. }
    )
}
