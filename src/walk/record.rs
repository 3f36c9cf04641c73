//! What is on record about the walks of a target, for people.

use sqlx::PgPool;

use crate::domain::{DatabaseTime, SourceTime, TargetId};

/// Certificates that are shown.
const CERTIFICATES_MAX: i64 = 10;

/// The full scan of a target that is under way, else the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRecord {
    /// When it began.
    pub started_at: DatabaseTime,
    /// When it came to the end of the table; `None` while it is under way.
    pub finished_at: Option<DatabaseTime>,
    /// Rows that it has walked.
    pub rows_walked: i64,
    /// Rows of the table, as the source counted them when it began.
    pub rows_total: Option<i64>,
    /// What it could not read.
    pub note: Option<String>,
}

/// How far a target is swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepRecord {
    /// The newest change, by the source's clock, up to which all is applied.
    pub watermark: SourceTime,
    /// When that was last looked at.
    pub swept_at: Option<DatabaseTime>,
}

/// A comparison of the whole table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CertificateRecord {
    /// Of which moment it tells.
    pub as_of: DatabaseTime,
    /// How long it took.
    pub seconds: f64,
    /// Rows that were compared.
    pub rows_compared: i64,
    /// Those that differed.
    pub differences: i64,
    /// Those that were mended.
    pub repaired: i64,
    /// Those that were left.
    pub left_different: i64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WalkRecord {
    /// The full scan.
    pub scan: Option<ScanRecord>,
    /// The sweep.
    pub sweep: Option<SweepRecord>,
    /// Comparisons, the latest first.
    pub certificates: Vec<CertificateRecord>,
}

impl WalkRecord {
    /// Reads it.
    pub async fn read(pool: &PgPool, target: TargetId) -> Result<Self, sqlx::Error> {
        Ok(Self {
            scan: scan(pool, target).await?,
            sweep: sweep(pool, target).await?,
            certificates: certificates(pool, target).await?,
        })
    }
}

async fn scan(pool: &PgPool, target: TargetId) -> Result<Option<ScanRecord>, sqlx::Error> {
    sqlx::query_as!(
        ScanRecord,
        r#"select started_at as "started_at: _", finished_at as "finished_at: _", rows_walked, rows_total, note
             from nxt_mirror.walk where target_id = $1"#,
        target as _
    )
    .fetch_optional(pool)
    .await
}

async fn sweep(pool: &PgPool, target: TargetId) -> Result<Option<SweepRecord>, sqlx::Error> {
    sqlx::query_as!(
        SweepRecord,
        r#"select watermark as "watermark: _", swept_at as "swept_at: _" from nxt_mirror.sweep where target_id = $1"#,
        target as _
    )
    .fetch_optional(pool)
    .await
}

async fn certificates(pool: &PgPool, target: TargetId) -> Result<Vec<CertificateRecord>, sqlx::Error> {
    sqlx::query_as!(
        CertificateRecord,
        r#"select as_of as "as_of: _", extract(epoch from finished_at - as_of)::float8 as "seconds!", rows_compared,
                  differences, repaired, left_different
             from nxt_mirror.certificate where target_id = $1 order by as_of desc limit $2"#,
        target as _,
        CERTIFICATES_MAX
    )
    .fetch_all(pool)
    .await
}
