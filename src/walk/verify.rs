//! Proof that a mirrored table equals its source, and the repair of what differs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use sqlx::{PgPool, types::Uuid};

use super::{
    Progress, Source, Target, WalkError, checkpoint,
    load::hint,
    ranges::{self, Range, Visitor},
};
use crate::{
    domain::{Row, RowHint, RowKey, Time},
    mirror::{Replica, WalkId},
    queue::{self, Priority},
    upstream::{Ask, Sighting, TablePage},
};

/// Looks at a row that differs, before it is reported: it may have changed meanwhile.
const LOOKS: u32 = 5;
/// Pause before the second look, doubling.
const PAUSE: Duration = Duration::from_millis(500);

/// How a row differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Difference {
    /// The source has it, the mirror does not.
    Missing,
    /// The mirror has it, the source does not.
    Extra,
    /// Both have it, with other values.
    Different {
        /// Mirrored columns whose values differ.
        columns: Vec<String>,
    },
}

/// What a comparison of one table found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whose table.
    pub tenant: String,
    /// Which.
    pub table: String,
    /// The mirror is compared as of this moment.
    pub as_of: Time,
    /// Rows of the source, and of the mirror alone.
    pub rows_compared: u64,
    /// Rows that the API could not read; nothing is known of them.
    pub unreadable: u64,
    /// Rows that differ, by key.
    pub differences: BTreeMap<String, Difference>,
    /// Of those, mended.
    pub repaired: u64,
    /// Of those, still different.
    pub left: u64,
}

/// Compares tables.
#[derive(Debug, Clone)]
pub struct Verifier {
    pool: PgPool,
    replica: Replica,
    source: Source,
}

type Found = BTreeMap<RowKey, Difference>;

impl Verifier {
    /// A verifier.
    pub fn new(pool: PgPool, replica: Replica, source: Source) -> Self {
        Self { pool, replica, source }
    }

    /// Compares every row and column of a table, looks again at what differs, and leaves a certificate. `repair` mends
    /// rows that were marked for a look by key, and returns when none waits.
    pub async fn verify(
        &self,
        target: &Target,
        progress: &Arc<Progress>,
        repair: Option<&(dyn Repair + Sync)>,
    ) -> Result<Report, WalkError> {
        self.replica.ensure(&target.table).await?;
        let as_of: Time = sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.pool).await?;
        let walk = WalkId { id: Uuid::new_v4(), started_at: as_of };
        let comparer =
            Arc::new(Comparer { verifier: self.clone(), target: target.clone(), walk, found: Mutex::default() });
        let walked = ranges::walk(&self.source, target, vec![Range::whole()], &comparer, progress).await;
        let extras = match &walked {
            Ok(_) => self.extras(target, walk).await,
            Err(_) => Ok(vec![]),
        };
        checkpoint::forget_met(&mut *self.pool.acquire().await?, walk).await?;
        let (unreadable, extras) = (walked?, extras?);
        let rows_compared = progress.walked() + extras.len() as u64;
        let mut found = std::mem::take(&mut *comparer.found());
        found.extend(extras.into_iter().map(|key| (key, Difference::Extra)));
        self.look_again(target, &mut found, LOOKS).await?;
        let differences = found.clone();
        let mut left = found;
        if let Some(repair) = repair.filter(|_| !left.is_empty()) {
            let hints: Vec<RowHint> = left.keys().filter_map(|key| hint(target, key)).collect();
            let mut connection = self.pool.acquire().await?;
            queue::settle::mark(&mut connection, &hints, Priority::Deferred).await?;
            drop(connection);
            repair.repair().await?;
            self.look_again(target, &mut left, LOOKS).await?;
        }
        let report = Report {
            tenant: target.tenant.to_string(),
            table: target.table.name.to_string(),
            as_of,
            rows_compared,
            unreadable,
            repaired: (differences.len() - left.len()) as u64,
            left: left.len() as u64,
            differences: differences.into_iter().map(|(key, difference)| (key.to_string(), difference)).collect(),
        };
        self.certify(target, &report).await?;
        Ok(report)
    }

    /// Rows that differ from the mirror. `walk` remembers their keys.
    async fn compare(
        &self,
        target: &Target,
        rows: &[Row],
        started_at: Time,
        walk: Option<WalkId>,
    ) -> Result<Found, WalkError> {
        if rows.is_empty() {
            return Ok(Found::new());
        }
        let Target { tenant, table } = target;
        let mut transaction = self.pool.begin().await?;
        self.replica.stage(&mut transaction, *tenant, table, rows, started_at).await?;
        if let Some(walk) = walk {
            self.replica.note_met(&mut transaction, table, walk).await?;
        }
        let compared = self.replica.compare_staged(&mut transaction, table).await?;
        transaction.commit().await?;
        let kind = |columns: Option<Vec<String>>| match columns {
            None => Difference::Missing,
            Some(columns) => Difference::Different { columns },
        };
        Ok(compared.into_iter().map(|(key, columns)| (key, kind(columns))).collect())
    }

    /// Keys that were in the mirror when the comparison began and that the walk has not met.
    async fn extras(&self, target: &Target, walk: WalkId) -> Result<Vec<RowKey>, WalkError> {
        let mut reading = self.pool.begin().await?;
        self.replica.declare_unmet(&mut reading, target.tenant, &target.table, walk).await?;
        let mut extras = vec![];
        loop {
            let keys = self.replica.next_unmet(&mut reading, &target.table).await?;
            if keys.is_empty() {
                return Ok(extras);
            }
            extras.extend(keys);
        }
    }

    /// Asks again for the rows that differ, and forgets those that no longer do.
    async fn look_again(&self, target: &Target, found: &mut Found, looks: u32) -> Result<(), WalkError> {
        for look in 0..looks {
            if found.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE.saturating_mul(1 << look)).await;
            let keys: Vec<RowKey> = found.keys().cloned().collect();
            let mut still = Found::new();
            for keys in keys.chunks(self.source.keys_max.max(1)) {
                still.extend(self.look(target, keys).await?);
            }
            *found = still;
        }
        Ok(())
    }

    async fn look(&self, target: &Target, keys: &[RowKey]) -> Result<Found, WalkError> {
        let ask = Ask { tenant: target.tenant, table: target.table.clone(), keys: keys.to_vec() };
        let mut answers = self.source.upstream.fetch(std::slice::from_ref(&ask)).await?;
        let sights =
            answers.pop().expect("one ask has one answer").map_err(|error| WalkError::Denied(error.to_string()))?;
        let (mut rows, mut gone) = (vec![], vec![]);
        for (key, sight) in keys.iter().zip(sights) {
            match sight.sighting {
                // A row that the source spells otherwise is another row to the mirror, and this one should not be.
                Sighting::Found(row) if row.key == *key => rows.push(row),
                Sighting::Found(_) | Sighting::Missing => gone.push(key.clone()),
                Sighting::Unreadable(problem) => return Err(WalkError::Denied(problem)),
            }
        }
        let mut found = self.compare(target, &rows, Time::default(), None).await?;
        let mut connection = self.pool.acquire().await?;
        let mirrored = self.replica.known(&mut connection, target.tenant, &target.table, &gone).await?;
        let extra = gone.into_iter().zip(mirrored).filter(|(_, mirrored)| mirrored.is_some());
        found.extend(extra.map(|(key, _)| (key, Difference::Extra)));
        Ok(found)
    }

    async fn certify(&self, target: &Target, report: &Report) -> Result<(), WalkError> {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        sqlx::query(
            "insert into nxt_mirror.verification
                 (tenant_kind, tenant_no, table_name, as_of, rows_compared, differences, repaired, left_different)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(target.tenant.kind())
        .bind(target.tenant.number())
        .bind(target.table.name.as_str())
        .bind(report.as_of)
        .bind(number(report.rows_compared))
        .bind(number(report.differences.len() as u64))
        .bind(number(report.repaired))
        .bind(number(report.left))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Works off the rows that are marked for a look.
pub trait Repair {
    /// Returns when no row waits.
    fn repair(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<(), queue::QueueError>> + Send + '_>>;
}

/// Compares pages as they come.
struct Comparer {
    verifier: Verifier,
    target: Target,
    walk: WalkId,
    found: Mutex<Found>,
}

impl Comparer {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visitor for Comparer {
    async fn visit(&self, _: &Range, page: &TablePage, _: bool) -> Result<(), WalkError> {
        if let Some((key, problem)) = page.unreadable.first() {
            return Err(WalkError::Denied(format!("row {key} cannot be compared: {problem}")));
        }
        let found = self.verifier.compare(&self.target, &page.rows, page.started_at, Some(self.walk)).await?;
        self.found().extend(found);
        Ok(())
    }

    async fn cut(&self, _: Option<u64>, _: &[Range]) -> Result<(), WalkError> {
        Ok(())
    }
}
