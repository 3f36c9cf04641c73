//! Proof that a mirrored table equals its source, and the repair of what differs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use sqlx::PgPool;

use super::{Target, WalkError, load::hint, page::Pages};
use crate::{
    domain::{Row, RowHint, RowKey, Time},
    mirror::Replica,
    queue::{self, Priority},
    upstream::{Ask, Sighting, Upstream},
};

/// Looks at a row that differs, before it is reported: it may have changed meanwhile.
const LOOKS: u32 = 5;
/// Pause before the second look, doubling.
const PAUSE: Duration = Duration::from_millis(500);
/// Keys of the mirror that are read at a time.
const EXTRAS_ROWS: i64 = 5_000;

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
    upstream: Upstream,
    replica: Replica,
    rows_max: usize,
}

type Found = BTreeMap<RowKey, Difference>;

impl Verifier {
    /// A verifier; `rows_max` is the size of a page.
    pub fn new(pool: PgPool, upstream: Upstream, replica: Replica, rows_max: usize) -> Self {
        Self { pool, upstream, replica, rows_max }
    }

    /// Compares every row and column of a table, looks again at what differs, and leaves a certificate. `repair` mends
    /// rows that were marked for a look by key, and returns when none waits.
    pub async fn verify(
        &self,
        target: &Target,
        mut progress: impl FnMut(u64),
        repair: Option<&(dyn Repair + Sync)>,
    ) -> Result<Report, WalkError> {
        self.replica.ensure(&target.table).await?;
        let as_of: Time = sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.pool).await?;
        let mut found = Found::new();
        let mut met = std::collections::HashSet::new();
        let mut pages = Pages::new(&self.upstream, target, self.rows_max, None, None);
        loop {
            let page = pages.next().await?;
            found.extend(self.compare(target, &page.rows).await?);
            met.extend(page.rows.iter().map(|row| fingerprint(&row.key)));
            progress(met.len() as u64);
            if !page.has_next {
                break;
            }
        }
        let mut rows_compared = met.len() as u64;
        for key in self.extras(target, as_of, &met).await? {
            rows_compared += 1;
            found.insert(key, Difference::Extra);
        }
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
            repaired: (differences.len() - left.len()) as u64,
            left: left.len() as u64,
            differences: differences.into_iter().map(|(key, difference)| (key.to_string(), difference)).collect(),
        };
        self.certify(target, &report).await?;
        Ok(report)
    }

    async fn compare(&self, target: &Target, rows: &[Row]) -> Result<Found, WalkError> {
        let mut connection = self.pool.acquire().await?;
        let compared = self.replica.compare(&mut connection, target.tenant, &target.table, rows).await?;
        let kind = |columns: Option<Vec<String>>| match columns {
            None => Difference::Missing,
            Some(columns) => Difference::Different { columns },
        };
        Ok(compared.into_iter().map(|(key, columns)| (key, kind(columns))).collect())
    }

    /// Keys that were in the mirror when the comparison began and that the walk has not met.
    async fn extras(
        &self,
        target: &Target,
        as_of: Time,
        met: &std::collections::HashSet<u64>,
    ) -> Result<Vec<RowKey>, WalkError> {
        let mut connection = self.pool.acquire().await?;
        let (mut extras, mut after) = (vec![], None);
        loop {
            let keys = self
                .replica
                .keys_fetched_before(&mut connection, target.tenant, &target.table, as_of, after.as_ref(), EXTRAS_ROWS)
                .await?;
            let Some(last) = keys.last().cloned() else { return Ok(extras) };
            after = Some(last);
            extras.extend(keys.into_iter().filter(|key| !met.contains(&fingerprint(key))));
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
            for keys in keys.chunks(self.rows_max.max(1)) {
                still.extend(self.look(target, keys).await?);
            }
            *found = still;
        }
        Ok(())
    }

    async fn look(&self, target: &Target, keys: &[RowKey]) -> Result<Found, WalkError> {
        let ask = Ask { tenant: target.tenant, table: target.table.clone(), keys: keys.to_vec() };
        let mut answers = self.upstream.fetch(std::slice::from_ref(&ask)).await?;
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
        let mut found = self.compare(target, &rows).await?;
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

/// Eight bytes a key, so that a walk of millions stays small. Two keys of one fingerprint would hide an extra row; at
/// ten million rows the odds of any are one in 300,000.
fn fingerprint(key: &RowKey) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
