//! Proof that a mirrored table equals its source, and the repair of what differs.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, types::Uuid};

use super::{
    Progress, Report, Source, WalkError, certificate, checkpoint,
    compare::Comparer,
    extras,
    ranges::{self, Range},
    recheck::Rechecker,
    report::{Compared, Difference},
    settled::{Marked, wait_until_settled},
    write::announced,
};
use crate::{
    domain::{DatabaseTime, RowKey, TargetTable},
    mirror::WalkId,
    queue::{self, Priority},
    reconcile::Writer,
};

/// How long a repair goes on while none of its rows is settled.
const REPAIR_PATIENCE: Duration = Duration::from_secs(90);

/// What is done about rows that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    None,
    /// They are marked for a fetch by key; workers, which must run beside, do the rest.
    ByWorkers,
}

/// Compares tables.
#[derive(Debug, Clone)]
pub struct Verifier {
    pool: PgPool,
    writer: Writer,
    source: Source,
}

impl Verifier {
    /// A verifier.
    pub fn new(pool: PgPool, writer: Writer, source: Source) -> Self {
        Self { pool, writer, source }
    }

    /// Compares every row and column of a table, fetches again what differs, and leaves a certificate. A repair returns
    /// when the rows that differed are settled.
    pub async fn verify(
        &self,
        target: &TargetTable,
        progress: &Arc<Progress>,
        repair: Repair,
    ) -> Result<Report, WalkError> {
        let table = self.writer.mirror().ensure(&target.table).await?;
        let target = TargetTable { table, ..target.clone() };
        let as_of = queue::status::now(&self.pool).await?;
        let mut compared = self.compare(&target, as_of, progress).await?;
        let rechecker = Rechecker { source: &self.source, writer: &self.writer, target: &target };
        rechecker.recheck(&mut compared).await?;
        let differences = compared.differences.clone();
        if repair == Repair::ByWorkers && !differences.is_empty() {
            self.repair(&target, &compared).await?;
            rechecker.recheck(&mut compared).await?;
        }
        let report = Report::new(&target, as_of, differences, &compared);
        certificate::leave(&self.pool, target.id, &report).await?;
        Ok(report)
    }

    /// Walks the whole table, and adds what only the mirror has.
    async fn compare(
        &self,
        target: &TargetTable,
        as_of: DatabaseTime,
        progress: &Arc<Progress>,
    ) -> Result<Compared, WalkError> {
        let walk = WalkId { id: Uuid::new_v4(), started_at: as_of };
        let comparer = Arc::new(Comparer::new(self.writer.clone(), target.clone(), walk, progress));
        let walked = ranges::walk(&self.source, target, vec![Range::whole()], &comparer, progress).await;
        let extras = match &walked {
            Ok(_) => self.extras(target, walk).await,
            Err(_) => Ok(vec![]),
        };
        checkpoint::forget_met(&mut *self.pool.acquire().await?, walk).await?;
        let (skipped, extras) = (walked?, extras?);
        let found = comparer.take_found();
        let mut compared = Compared {
            differences: found.differences,
            uncompared: found.uncompared,
            rows: progress.walked(),
            skipped: skipped.unknown,
        };
        compared.differences.extend(extras.into_iter().map(|key| (key, Difference::Extra)));
        Ok(compared)
    }

    /// Keys that were in the mirror when the comparison began and that the walk has not met.
    async fn extras(&self, target: &TargetTable, walk: WalkId) -> Result<Vec<RowKey>, WalkError> {
        let mut all = vec![];
        loop {
            let keys = extras::read(&self.writer, target, walk).await?;
            let is_last = keys.len() < extras::KEYS_MAX;
            if !is_last {
                let mut transaction = self.writer.begin().await?;
                extras::note_read(&self.writer, &mut transaction, target, walk, &keys).await?;
                transaction.commit().await?;
            }
            all.extend(keys);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Marks the rows that differ, and waits until workers have settled them.
    async fn repair(&self, target: &TargetTable, compared: &Compared) -> Result<(), WalkError> {
        let keys = announced(target, compared.differences.keys());
        let mut transaction = self.writer.begin().await?;
        queue::mark(&mut transaction, target.id, &keys, Priority::Deferred).await?;
        let marked_at = sqlx::query_scalar!(r#"select now() as "now!: _""#).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        let marked = Marked { targets: &[target.id], keys: Some(&keys), moment: marked_at };
        if !wait_until_settled(&self.pool, marked, REPAIR_PATIENCE).await? {
            tracing::warn!(%target, "some rows that differ are still not settled");
        }
        Ok(())
    }
}
