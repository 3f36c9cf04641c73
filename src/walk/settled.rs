//! Waiting for rows that were marked dirty.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::{
    domain::{AnnouncedKey, DatabaseTime, TargetId},
    queue::Priority,
};

/// How often the rows are counted.
const POLL: Duration = Duration::from_millis(250);

/// Rows that were marked for a fetch by a walk or a repair.
#[derive(Debug, Clone, Copy)]
pub struct Marked<'a> {
    /// Of these targets.
    pub targets: &'a [TargetId],
    /// These alone; without them all that wait behind live work, which nobody has notified since.
    pub keys: Option<&'a [AnnouncedKey]>,
    /// By this moment.
    pub moment: DatabaseTime,
}

/// Waits until none of these rows waits since their moment or longer, while workers are at it. What others wait for, live
/// work among it, keeps nobody here. Gives up when nothing has moved for `patience`; returns whether all are settled.
pub async fn wait_until_settled(pool: &PgPool, marked: Marked<'_>, patience: Duration) -> Result<bool, sqlx::Error> {
    let keys = marked.keys.map(|keys| keys.iter().map(AnnouncedKey::canonical).collect::<Vec<_>>());
    let (mut least, mut moved) = (i64::MAX, Instant::now());
    loop {
        let waiting = count(pool, marked, keys.as_deref()).await?;
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

async fn count(pool: &PgPool, marked: Marked<'_>, keys: Option<&[String]>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "waiting!" from nxt_mirror.dirty_row
            where target_id = any($1) and waiting_since <= $2
              and case when $3::text[] is null then priority = $4 else row_key = any($3) end"#,
        &marked.targets.iter().map(|target| target.0).collect::<Vec<_>>(),
        marked.moment as _,
        keys as _,
        Priority::Deferred.code()
    )
    .fetch_one(pool)
    .await
}
