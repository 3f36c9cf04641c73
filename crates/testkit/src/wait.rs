//! Waiting for what has no event to wait for.

use std::time::Duration;

use anyhow::ensure;
use sqlx::PgPool;
use tokio::time::Instant;

/// How long something is waited for, and how often it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    patience: Duration,
    /// Between the first two looks.
    pause: Duration,
    pause_max: Duration,
}

impl Wait {
    /// Looks often at first and at last every 100 ms: what is soon there is soon seen, and waiting for long costs
    /// little, which leaves the machine to what is waited for.
    pub const fn seconds(patience: u64) -> Self {
        let (pause, pause_max) = (Duration::from_millis(5), Duration::from_millis(100));
        Self { patience: Duration::from_secs(patience), pause, pause_max }
    }

    /// Looks as often all the time.
    pub const fn every_millis(self, pause: u64) -> Self {
        let pause = Duration::from_millis(pause);
        Self { pause, pause_max: pause, ..self }
    }

    /// Waits until it holds; until then `look` says what it sees instead. Returns how long that took.
    pub async fn until(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<(), String>,
    ) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut pause = self.pause;
        while let Err(seen) = look().await {
            ensure!(started.elapsed() < self.patience, "{what}: {seen}, after {} s", self.patience.as_secs());
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(self.pause_max);
        }
        Ok(started.elapsed())
    }

    /// Waits until something is true.
    pub async fn for_true(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<Duration> {
        self.until(what, async || if holds().await { Ok(()) } else { Err("not yet".to_owned()) }).await
    }

    /// Waits until a query counts `wanted`. The database may be away or empty meanwhile.
    pub async fn for_count(
        &self,
        what: &str,
        pool: &PgPool,
        wanted: i64,
        sql: &'static str,
    ) -> anyhow::Result<Duration> {
        let look = async || match sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await {
            Ok(count) if count == wanted => Ok(()),
            Ok(count) => Err(format!("{count} instead of {wanted}")),
            Err(error) => Err(error.to_string()),
        };
        self.until(what, look).await
    }

    /// Waits until no notification and no row of the mirror waits any more.
    pub async fn for_settled(&self, pool: &PgPool) -> anyhow::Result<Duration> {
        self.for_count("rows that still wait", pool, 0, "select rows from nxt_mirror.waiting").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_seen_last_is_told_when_patience_ends() {
        let mut looks = 0;
        let third = async || {
            looks += 1;
            if looks == 3 { Ok(()) } else { Err(String::new()) }
        };
        Wait::seconds(60).every_millis(1).until("the third look", third).await.unwrap();
        assert_eq!(looks, 3);
        let late = Wait::seconds(0).until("a miracle", async || Err("nothing".to_owned())).await.unwrap_err();
        assert_eq!(late.to_string(), "a miracle: nothing, after 0 s");
    }
}
