//! Walks that happen by themselves while the daemon serves: loads, resyncs and sweeps.
//!
//! Of several replicas one leads. It finds what is due every few seconds and starts each as a task of its own, as far as
//! there are places; nothing waits for the slowest. What a hanging tenant keeps busy takes no place from the others.

mod chosen;
mod due;
mod errand;
mod failures;
mod lease;
mod places;
mod run;

use std::sync::Arc;

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::Loader;
use crate::{
    config::MirrorSettings,
    queue::{Queue, WorkerId},
    upstream::{Catalogue, Upstream},
};
use lease::Lease;

/// What the schedule works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Database.
    pub pool: PgPool,
    /// Tells who leads.
    pub queue: Queue,
    /// This process, alive as long as its worker says so.
    pub me: WorkerId,
    /// The API.
    pub upstream: Upstream,
    /// The API's tables.
    pub catalogue: Arc<Catalogue>,
    /// What is mirrored, and when it is walked.
    pub settings: MirrorSettings,
    /// Writes.
    pub loader: Loader,
    /// `NXT_REQUESTS_PER_MINUTE`.
    pub requests_per_minute: u32,
}

/// A kind of walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A table is walked for the first time, or goes on with that: as fast as the budget allows.
    Load,
    /// A table is walked again, its pages spread over time.
    Resync,
    /// What changed lately is asked for.
    Sweep,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Load => "load",
            Self::Resync => "resync",
            Self::Sweep => "sweep",
        })
    }
}

/// Walks what is due until told to stop, whenever this replica leads. When it no longer does, its walks end at once.
pub async fn run(parts: Parts, stop: CancellationToken) {
    stop.run_until_cancelled(lead_in_turns(&parts)).await;
}

async fn lead_in_turns(parts: &Parts) {
    let mut lease = Lease::new(parts.queue.clone(), parts.me);
    loop {
        lease.taken().await;
        tracing::debug!("this replica leads the schedule");
        tokio::select! {
            () = lease.lost() => tracing::warn!("this replica no longer leads the schedule, its walks have ended"),
            () = run::lead(parts) => {}
        }
    }
}
