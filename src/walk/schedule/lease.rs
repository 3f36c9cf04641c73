//! Who leads: a living worker, and no longer than it lives.

use std::time::{Duration, Instant};

use crate::{
    queue::{Queue, WorkerId},
    telemetry::chain,
};

/// How often the lead is taken or confirmed.
const BEAT: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a lead holds that is not confirmed: a worker that says nothing counts as dead after four seconds.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(4);

/// The lead of the schedule.
#[derive(Debug)]
pub(super) struct Lease {
    queue: Queue,
    me: WorkerId,
    confirmed: Instant,
}

impl Lease {
    pub(super) fn new(queue: Queue, me: WorkerId) -> Self {
        Self { queue, me, confirmed: Instant::now() }
    }

    /// Returns when this replica leads.
    pub(super) async fn taken(&mut self) {
        while self.ask().await != Some(true) {
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Returns when this replica leads no longer, or cannot be sure of it: after it stood still, for example.
    pub(super) async fn lost(&mut self) {
        loop {
            tokio::time::sleep(BEAT).await;
            if self.confirmed.elapsed() > UNCONFIRMED_MAX || self.ask().await == Some(false) {
                return;
            }
        }
    }

    /// Whether this replica leads; `None` when the database does not tell.
    async fn ask(&mut self) -> Option<bool> {
        let asked_at = Instant::now();
        match tokio::time::timeout(ANSWER_TIMEOUT, self.queue.lead(self.me)).await {
            Ok(Ok(leads)) => {
                self.confirmed = asked_at;
                Some(leads)
            }
            Ok(Err(error)) => {
                tracing::debug!(error = %chain(&error), "the lead of the schedule is not known");
                None
            }
            Err(_) => None,
        }
    }
}
