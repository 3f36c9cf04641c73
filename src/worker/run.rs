//! The worker's loop: when to claim, how much, and whose rows.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::types::Uuid;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Parts,
    pace::{Pace, Size},
};
use crate::{
    domain::Tenant,
    queue::{Claimable, Claimed, QueueError, RENEW_INTERVAL, SyncAction},
    telemetry::chain,
    upstream::Ask,
};

/// Claims worked on at the same time.
const CLAIMS_MAX: usize = 8;
/// Claims that may hold rows of one slow tenant.
const SLOW_CLAIMS_MAX: usize = 1;
/// How long the loop sleeps when nothing is due and nothing wakes it: other replicas receive too, and pauses end.
const POLL: Duration = Duration::from_millis(500);
/// How long the loop waits after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// A request that takes longer marks its tenants as slow.
const SLOW: Duration = Duration::from_secs(5);
/// How long a tenant counts as slow after it was.
const SLOW_FOR: Duration = Duration::from_secs(60);
/// How long running claims may take to finish when the daemon stops. What is left then is given back.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Requests in a row that bring no row of a table, after which it is no longer searched for single culprits.
const BARREN_MAX: u32 = 100;
/// How long that is held against a table.
const BARREN_FOR: Duration = Duration::from_secs(300);

/// A table of a tenant, by its SQL name.
pub(super) type Lane = (Tenant, String);

/// What one claim came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Rows claimed.
    pub claimed: usize,
    /// Rows whose look failed.
    pub failed: usize,
    /// Rows by what was done.
    pub actions: HashMap<SyncAction, u64>,
}

impl Step {
    pub(super) fn add(&mut self, other: Self) {
        self.claimed += other.claimed;
        self.failed += other.failed;
        for (action, count) in other.actions {
            *self.actions.entry(action).or_default() += count;
        }
    }
}

/// Works through the queue.
#[derive(Debug, Clone)]
pub struct Worker {
    pub(super) parts: Parts,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) size: Size,
    slow_until: HashMap<Tenant, Instant>,
    /// Requests that brought no row of a table, one after the other, and when the last was.
    pub(super) barren: HashMap<Lane, (u32, Instant)>,
    pub(super) running: HashMap<Uuid, Running>,
}

/// A claim under way.
#[derive(Debug)]
pub(super) struct Running {
    tenants: Vec<Tenant>,
    since: Instant,
}

impl Worker {
    /// A worker that has not started.
    pub fn new(parts: Parts) -> Self {
        let size = Size::new(parts.fetch_rows_max);
        let state = State { size, slow_until: HashMap::new(), barren: HashMap::new(), running: HashMap::new() };
        Self { parts, state: Arc::new(Mutex::new(state)) }
    }

    /// Works until told to stop, then finishes or gives back what it holds.
    pub async fn run(self, stop: CancellationToken) {
        let renewing = tokio::spawn(self.clone().renew_leases());
        let watching = tokio::spawn(self.clone().watch_outages());
        self.claim_until(&stop).await;
        renewing.abort();
        watching.abort();
    }

    /// Wakes the loop when an outage of the API is over, until aborted.
    async fn watch_outages(self) {
        let Parts { upstream, stored, .. } = self.parts;
        upstream.watch_outages(|| stored.notify_one()).await;
    }

    /// While the API is away, only deletions are worth a look.
    fn claimable(&self) -> Claimable {
        if self.parts.upstream.is_away() { Claimable::Deleted } else { Claimable::All }
    }

    /// Keeps the claims of slow requests, until aborted.
    async fn renew_leases(self) {
        let mut timer = tokio::time::interval(RENEW_INTERVAL);
        loop {
            timer.tick().await;
            let long: Vec<Uuid> = {
                let state = self.state();
                let long = state.running.iter().filter(|(_, running)| running.since.elapsed() >= RENEW_INTERVAL);
                long.map(|(claim_id, _)| *claim_id).collect()
            };
            if !long.is_empty()
                && let Err(error) = self.parts.queue.renew(&long).await
            {
                tracing::warn!(error = %chain(&error), "claims not renewed");
            }
        }
    }

    async fn claim_until(&self, stop: &CancellationToken) {
        let claims = Arc::new(Semaphore::new(CLAIMS_MAX));
        let mut running = JoinSet::new();
        let mut pace = Pace::default();
        while let Some(permit) = stop.run_until_cancelled(claims.clone().acquire_owned()).await {
            while let Some(ended) = running.try_join_next() {
                report_panic(ended);
            }
            match stop.run_until_cancelled(self.next(&mut pace)).await {
                None => break,
                Some(Ok((claim_id, claimed))) => {
                    let worker = self.clone();
                    running.spawn(async move {
                        worker.work(claim_id, claimed).await;
                        drop(permit);
                    });
                }
                Some(Err(error)) => {
                    tracing::warn!(error = %chain(&error), "no rows claimed");
                    stop.run_until_cancelled(tokio::time::sleep(DATABASE_PAUSE)).await;
                }
            }
        }
        self.finish(running).await;
    }

    async fn finish(&self, mut running: JoinSet<()>) {
        let all = async {
            while let Some(ended) = running.join_next().await {
                report_panic(ended);
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, all).await.is_err() {
            running.shutdown().await;
        }
        let held: Vec<Uuid> = self.state().running.keys().copied().collect();
        if held.is_empty() {
            return;
        }
        match self.parts.queue.release(&held).await {
            Ok(rows) => tracing::info!(rows, "unfinished rows given back"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "unfinished rows not given back, their leases run out")
            }
        }
    }

    /// Waits until rows are due and claims them.
    async fn next(&self, pace: &mut Pace) -> Result<(Uuid, Vec<Claimed>), QueueError> {
        loop {
            let stored = self.parts.stored.notified();
            let full = self.state().size.get();
            let due = self.parts.queue.due(self.claimable(), full).await?;
            if due == 0 {
                _ = tokio::time::timeout(POLL, stored).await;
                continue;
            }
            let delay = pace.delay(due, full, Instant::now());
            if !delay.is_zero() {
                tokio::time::sleep(delay.min(POLL)).await;
                if delay > POLL || self.parts.queue.due(self.claimable(), full).await? >= full {
                    continue;
                }
            }
            let (claim_id, claimed) = self.claim(full).await?;
            if claimed.is_empty() {
                // Due, but of tenants that have enough going on.
                tokio::time::sleep(POLL).await;
                continue;
            }
            pace.claimed(claimed.len(), full, Instant::now());
            return Ok((claim_id, claimed));
        }
    }

    async fn claim(&self, rows_max: usize) -> Result<(Uuid, Vec<Claimed>), QueueError> {
        let claim_id = Uuid::new_v4();
        let busy = self.busy_tenants();
        let claimed = self.parts.queue.claim(claim_id, self.claimable(), rows_max, &busy).await?;
        if !claimed.is_empty() {
            let mut tenants: Vec<Tenant> = claimed.iter().map(|row| row.hint.tenant).collect();
            tenants.sort_unstable();
            tenants.dedup();
            self.state().running.insert(claim_id, Running { tenants, since: Instant::now() });
        }
        Ok((claim_id, claimed))
    }

    /// Claims once whatever is due and works it off. Returns `None` when nothing was due.
    pub async fn step(&self) -> Result<Option<Step>, QueueError> {
        let full = self.state().size.get();
        let (claim_id, claimed) = self.claim(full).await?;
        if claimed.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.work(claim_id, claimed).await))
    }

    /// Works until no row is due or waits for another look. Gives up when nothing has moved for `patience`.
    pub async fn drain(&self, patience: Duration) -> Result<(), QueueError> {
        let mut moved = Instant::now();
        loop {
            if self.parts.upstream.is_away() {
                self.parts.upstream.is_back().await;
            }
            if self.step().await?.is_some() {
                moved = Instant::now();
            } else if self.parts.queue.backlog().await?.rows == 0 || moved.elapsed() > patience {
                return Ok(());
            } else {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Takes note of how long a request took, and says whether that was long.
    pub(super) fn note_tempo(&self, asks: &[Ask], elapsed: Duration, answered: bool) -> bool {
        let mut state = self.state();
        let mut tenants: Vec<Tenant> = asks.iter().map(|ask| ask.tenant).collect();
        tenants.dedup();
        let alone = tenants.len() == 1;
        for tenant in tenants {
            if elapsed > SLOW {
                state.slow_until.insert(tenant, Instant::now() + SLOW_FOR);
            } else if alone && answered {
                state.slow_until.remove(&tenant);
            }
        }
        elapsed > SLOW
    }

    /// Takes note of a request that brought no row of a table that answers otherwise, and says whether there were too many.
    pub(super) fn is_barren(&self, lane: Lane) -> bool {
        let mut state = self.state();
        let (requests, last) = state.barren.entry(lane).or_insert((0, Instant::now()));
        if last.elapsed() > BARREN_FOR {
            *requests = 0;
        }
        (*requests, *last) = (*requests + 1, Instant::now());
        *requests > BARREN_MAX
    }

    pub(super) fn is_slow(&self, tenant: Tenant) -> bool {
        self.state().slow_until.get(&tenant).is_some_and(|until| Instant::now() < *until)
    }

    /// Slow tenants with as many claims under way as they may have.
    fn busy_tenants(&self) -> Vec<Tenant> {
        let state = self.state();
        let now = Instant::now();
        let claims =
            |tenant: &Tenant| state.running.values().filter(|running| running.tenants.contains(tenant)).count();
        state
            .slow_until
            .iter()
            .filter(|(tenant, until)| now < **until && claims(tenant) >= SLOW_CLAIMS_MAX)
            .map(|(tenant, _)| *tenant)
            .collect()
    }

    pub(super) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of a claim whose work panicked are due again when its lease runs out.
fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "work on a claim panicked; its rows are tried again when the lease has run out");
    }
}
