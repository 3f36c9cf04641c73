//! Outages of the API: noticed once for everybody, watched with a probe now and then, shown to operators.
//!
//! While the API is away nothing else is sent to it, so that an outage of hours costs neither requests nor writes: rows
//! wait in the database in the order of their age, and deletions that need no request are still applied.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::sync::{Mutex, Notify};

use super::{Upstream, UpstreamError, diagnose};
use crate::{
    domain::{DatabaseTime, Diagnosis, Owner, backoff},
    telemetry::chain,
};

/// Between the first failure and the first probe; doubles up to [`PROBE_PAUSE_MAX`].
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(500);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Before the database is asked or told again that could not be.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// What one daemon knows of the API's availability.
#[derive(Debug, Default)]
pub(super) struct Watch {
    is_away: AtomicBool,
    noticed: Notify,
    /// When the last probe after a failure ended, and whether the API answered. Held by the one who probes, so that
    /// those who fail together share one probe.
    probed: Mutex<Option<(Instant, bool)>>,
}

impl Watch {
    /// Returns what held before.
    fn set(&self, is_away: bool) -> bool {
        self.is_away.swap(is_away, Ordering::SeqCst)
    }
}

/// An outage as the database tells it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outage {
    /// When it was first noticed.
    pub since: DatabaseTime,
    /// What the last probe came to.
    pub reason: String,
}

impl Outage {
    /// The outage that goes on, if one does.
    pub async fn current(pool: &PgPool) -> Result<Option<Self>, sqlx::Error> {
        sqlx::query_as!(Outage, r#"select since as "since!: _", reason as "reason!" from nxt_mirror.outage"#)
            .fetch_optional(pool)
            .await
    }

    async fn note(pool: &PgPool, reason: &str) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update nxt_mirror.api_budget
                set away_since = coalesce((select since from nxt_mirror.outage), clock_timestamp()),
                    away_noted_at = clock_timestamp(), away_reason = $1",
            reason
        )
        .execute(pool)
        .await
        .map(drop)
    }

    async fn end(pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!("update nxt_mirror.api_budget set away_since = null, away_noted_at = null, away_reason = null")
            .execute(pool)
            .await
            .map(drop)
    }
}

impl Upstream {
    /// Whether the API was found to be away and has not answered a probe since.
    pub fn is_away(&self) -> bool {
        self.watch.is_away.load(Ordering::SeqCst)
    }

    /// The diagnosis of a failed request, after a probe where the failure leaves open whether the API is away. When the
    /// API answers others, the failure is the target's.
    pub async fn examine(&self, error: &UpstreamError) -> Diagnosis {
        let diagnosis = diagnose(error);
        if is_perhaps_away(&diagnosis) && self.answers_after(error).await {
            return Diagnosis { owner: Owner::Target, ..diagnosis };
        }
        diagnosis
    }

    /// Whether the API still answers after this failure of a request. When it does not, it counts as away from now on.
    pub async fn answers_after(&self, error: &UpstreamError) -> bool {
        match diagnose(error) {
            // Without its database the daemon cannot ask at all, which says nothing of the API.
            Diagnosis { owner: Owner::Database, .. } => false,
            diagnosis if is_perhaps_away(&diagnosis) => !self.is_away() && self.answers_now().await,
            _ => true,
        }
    }

    async fn answers_now(&self) -> bool {
        let asked_at = Instant::now();
        let mut probed = self.watch.probed.lock().await;
        if let Some((_, answers)) = probed.filter(|(at, _)| *at >= asked_at) {
            return answers;
        }
        let result = self.probe().await;
        if let Err(error) = &result {
            let diagnosis = diagnose(error);
            // An API that asks for patience is there.
            if diagnosis.pause.is_none() && diagnosis.owner != Owner::Database {
                self.leave(error).await;
            }
        }
        *probed = Some((Instant::now(), result.is_ok()));
        result.is_ok()
    }

    /// Probes once whether an API that was away is back.
    pub async fn is_back(&self) -> bool {
        match self.probe().await {
            Ok(()) => {
                self.come_back().await;
                true
            }
            Err(error) => {
                self.note(&error).await;
                false
            }
        }
    }

    /// Watches over outages, for ever: whenever the API is away, probes until it is back, then calls `on_return`.
    /// Begins with the outage that another replica or an earlier run has noted, if there is one.
    pub async fn watch_outages(&self, on_return: impl Fn()) {
        if self.has_noted_outage().await && !self.is_back().await {
            self.watch.set(true);
        }
        loop {
            let noticed = self.watch.noticed.notified();
            if !self.is_away() {
                noticed.await;
            }
            for failures in 1.. {
                if !self.is_away() {
                    break;
                }
                tokio::time::sleep(backoff(failures, PROBE_PAUSE_MIN, PROBE_PAUSE_MAX)).await;
                self.is_back().await;
            }
            on_return();
        }
    }

    async fn has_noted_outage(&self) -> bool {
        let Some(pool) = self.pool() else { return false };
        loop {
            match Outage::current(pool).await {
                Ok(outage) => return outage.is_some(),
                Err(error) => tracing::warn!(%error, "not known whether an outage goes on, it is asked again"),
            }
            tokio::time::sleep(DATABASE_PAUSE).await;
        }
    }

    async fn leave(&self, error: &UpstreamError) {
        if !self.watch.set(true) {
            tracing::warn!(error = %chain(error), "the API is away; rows wait until it answers a probe");
        }
        self.note(error).await;
        self.watch.noticed.notify_one();
    }

    async fn come_back(&self) {
        if self.watch.set(false) {
            tracing::info!("the API answers again");
        }
        let Some(pool) = self.pool() else { return };
        // Nobody else would note it before the next outage.
        while let Err(error) = Outage::end(pool).await {
            tracing::warn!(%error, "the end of the outage is not noted, it is tried again");
            tokio::time::sleep(DATABASE_PAUSE).await;
            if self.is_away() {
                return;
            }
        }
    }

    async fn note(&self, error: &UpstreamError) {
        let Some(pool) = self.pool() else { return };
        if let Err(error) = Outage::note(pool, &chain(error).to_string()).await {
            tracing::warn!(%error, "the outage is not noted");
        }
    }
}

/// Whether only a probe can tell if the API is there.
fn is_perhaps_away(diagnosis: &Diagnosis) -> bool {
    diagnosis.owner == Owner::Api && diagnosis.pause.is_none()
}
