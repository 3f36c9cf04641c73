//! Waiting for rows that were marked dirty.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::domain::{DatabaseTime, TargetId};

/// How often the rows are counted.
const POLL: Duration = Duration::from_millis(250);

/// Waits until no row of these targets waits since this moment or longer, while workers are at it. Gives up when nothing
/// has moved for `patience`; returns whether all are settled.
pub async fn wait_until_settled(
    pool: &PgPool,
    targets: &[TargetId],
    moment: DatabaseTime,
    patience: Duration,
) -> Result<bool, sqlx::Error> {
    let (mut least, mut moved) = (i64::MAX, Instant::now());
    loop {
        let waiting = count(pool, targets, moment).await?;
        if waiting == 0 {
            return Ok(true);
        }
        if waiting < least {
            (least, moved) = (waiting, Instant::now());
        } else if moved.elapsed() > patience {
            return Ok(false);
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn count(pool: &PgPool, targets: &[TargetId], moment: DatabaseTime) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "waiting!" from nxt_mirror.dirty_row where target_id = any($1) and waiting_since <= $2"#,
        &targets.iter().map(|target| target.0).collect::<Vec<_>>(),
        moment as _
    )
    .fetch_one(pool)
    .await
}
