//! Comparing rows with the mirror: the dry run of writing them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Progress, WalkError,
    patience::{Patience, repeated},
    ranges::{Range, Visitor},
    report::{Difference, Differences, Uncompared},
};
use crate::{
    domain::{
        Row, RowKey, TargetTable,
        isolate::{Limits, isolate_in_turn},
    },
    mirror::{Comparison, WalkId},
    reconcile::{ReconcileError, Writer},
    telemetry::chain,
    upstream::TablePage,
};

/// While somebody holds the mirrored table, some two minutes.
const PATIENCE: Patience = Patience::Tries(30);
/// The search for rows that cannot be compared.
const SEARCH: Limits = Limits::new(16, 64);
/// So many rows, none of which can be compared, say that the table is to blame.
const ROWS_TELLING: usize = 8;

/// Compares rows of one table as they come.
#[derive(Debug)]
pub(super) struct Comparer {
    writer: Writer,
    target: TargetTable,
    walk: WalkId,
    progress: Arc<Progress>,
    found: Mutex<Found>,
}

/// What comparisons have found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) differences: Differences,
    pub(super) uncompared: Uncompared,
}

impl Comparer {
    pub(super) fn new(writer: Writer, target: TargetTable, walk: WalkId, progress: &Arc<Progress>) -> Self {
        Self { writer, target, walk, progress: Arc::clone(progress), found: Mutex::default() }
    }

    /// What was found so far.
    pub(super) fn take_found(&self) -> Found {
        std::mem::take(&mut *self.found.lock())
    }

    async fn note_met(&self, keys: &[&RowKey]) -> Result<(), WalkError> {
        let mut transaction = self.writer.begin().await?;
        self.writer.mirror().note_met(&mut transaction, &self.target, self.walk, keys).await?;
        Ok(transaction.commit().await?)
    }
}

impl Visitor for Comparer {
    async fn visit(&self, _: &Range, page: &TablePage, _: bool) -> Result<(), WalkError> {
        let _waiting = self.progress.wait();
        // One that cannot be compared is there nevertheless.
        let unreadable = page.unreadable.iter().map(|(key, _)| key);
        let keys: Vec<&RowKey> = page.rows.iter().map(|row| &row.key).chain(unreadable).collect();
        if keys.is_empty() {
            return Ok(());
        }
        repeated(&self.target, PATIENCE, || self.note_met(&keys)).await?;
        let rows: Vec<&Row> = page.rows.iter().collect();
        let compared = compare_each(&self.writer, &self.target, &rows).await?;
        let mut found = self.found.lock();
        found.differences.extend(compared.differences);
        found.uncompared.extend(compared.uncompared);
        found.uncompared.extend(page.unreadable.iter().cloned());
        Ok(())
    }

    async fn cut(&self, _: Option<u64>, _: &[Range]) -> Result<(), WalkError> {
        Ok(())
    }
}

/// Compares rows; one that does not fit the mirror cannot be compared, and harms no other.
pub(super) async fn compare_each(writer: &Writer, target: &TargetTable, rows: &[&Row]) -> Result<Found, WalkError> {
    if rows.is_empty() {
        return Ok(Found::default());
    }
    match compare_patiently(writer, target, rows).await {
        Ok(differences) => Ok(Found { differences, uncompared: Uncompared::new() }),
        Err(error) if error.reason_of_rows().is_some() => compare_apart(writer, target, rows, error).await,
        Err(error) => Err(error),
    }
}

async fn compare_patiently(writer: &Writer, target: &TargetTable, rows: &[&Row]) -> Result<Differences, WalkError> {
    repeated(target, PATIENCE, || compare(writer, target, rows)).await
}

async fn compare(writer: &Writer, target: &TargetTable, rows: &[&Row]) -> Result<Differences, WalkError> {
    let mut transaction = writer.begin().await?;
    let compared = writer.mirror().compare(&mut transaction, target, rows).await?;
    transaction.commit().await?;
    let difference = |(row, comparison): (&&Row, Comparison)| match comparison {
        Comparison::Equal => None,
        Comparison::Missing => Some((row.key.clone(), Difference::Missing)),
        Comparison::Different(columns) => Some((row.key.clone(), Difference::Different { columns })),
    };
    Ok(rows.iter().zip(compared).filter_map(difference).collect())
}

async fn compare_apart(
    writer: &Writer,
    target: &TargetTable,
    rows: &[&Row],
    error: WalkError,
) -> Result<Found, WalkError> {
    tracing::warn!(%target, error = %chain(&error), "the rows of a page are compared apart");
    let compare = |part: Vec<_>| async move {
        let compared = compare_patiently(writer, target, &part).await;
        (part, compared)
    };
    let compared = isolate_in_turn(rows.to_vec(), error, SEARCH, compare, WalkError::reason_of_rows).await?;
    let alone = compared.culprits.into_iter().map(|(row, reason)| (row.key.clone(), reason));
    let together = compared.unresolved.into_iter().flat_map(|(rows, reason)| {
        rows.into_iter().map(move |row| (row.key.clone(), reason.clone())).collect::<Vec<_>>()
    });
    let uncompared: Uncompared = alone.chain(together).collect();
    if uncompared.len() == rows.len() && rows.len() >= ROWS_TELLING {
        let reason = uncompared.into_values().next().unwrap_or_default();
        return Err(ReconcileError::NoRowFits { reason }.into());
    }
    Ok(Found { differences: compared.done.into_iter().flatten().collect(), uncompared })
}
