//! Certificates: what was compared, when, and what came of it.

use sqlx::PgPool;

use super::Report;
use crate::domain::TargetId;

/// Leaves a certificate.
pub(super) async fn leave(pool: &PgPool, target: TargetId, report: &Report) -> Result<(), sqlx::Error> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query!(
        "insert into nxt_mirror.certificate
             (target_id, as_of, rows_compared, differences, repaired, left_different)
         values ($1, $2, $3, $4, $5, $6)",
        target as _,
        report.as_of as _,
        number(report.rows_compared),
        number(report.differences.len() as u64),
        number(report.repaired),
        number(report.left)
    )
    .execute(pool)
    .await
    .map(drop)
}
