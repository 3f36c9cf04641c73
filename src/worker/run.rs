//! The worker's loop, and the way of one claim.

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
    apply::{self, ApplyError, Item, Seen},
    batch::{self, Known as KnownRow, Sorted, Stuck},
    blame::{self, Fault},
    pace::{Pace, Size},
    plan::{self, Seat},
};
use crate::{
    domain::{
        Tenant,
        settle::{self, BeforeFetch, Known},
    },
    queue::{self, Claimed, Outcome, QueueError, RENEW_INTERVAL, SyncAction, SyncEntry},
    telemetry::chain,
    upstream::{Ask, Remedy, Sighting, UpstreamError, remedy},
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

/// Works through the queue.
#[derive(Debug, Clone)]
pub struct Worker {
    parts: Parts,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    size: Size,
    slow_until: HashMap<Tenant, Instant>,
    running: HashMap<Uuid, Running>,
}

/// A claim under way.
#[derive(Debug)]
struct Running {
    tenants: Vec<Tenant>,
    since: Instant,
}

impl Worker {
    /// A worker that has not started.
    pub fn new(parts: Parts) -> Self {
        let size = Size::new(parts.fetch_rows_max);
        let state = State { size, slow_until: HashMap::new(), running: HashMap::new() };
        Self { parts, state: Arc::new(Mutex::new(state)) }
    }

    /// Works until told to stop, then finishes or gives back what it holds.
    pub async fn run(self, stop: CancellationToken) {
        let renewing = tokio::spawn(self.clone().renew_leases());
        self.claim_until(&stop).await;
        renewing.abort();
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
            let due = self.parts.queue.due(full).await?;
            if due == 0 {
                _ = tokio::time::timeout(POLL, stored).await;
                continue;
            }
            let delay = pace.delay(due, full, Instant::now());
            if !delay.is_zero() {
                tokio::time::sleep(delay.min(POLL)).await;
                if delay > POLL || self.parts.queue.due(full).await? >= full {
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
        let claimed = self.parts.queue.claim(claim_id, rows_max, &busy).await?;
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
            if self.step().await?.is_some() {
                moved = Instant::now();
            } else if self.parts.queue.backlog().await?.0 == 0 || moved.elapsed() > patience {
                return Ok(());
            } else {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn work(&self, claim_id: Uuid, claimed: Vec<Claimed>) -> Step {
        let mut step = Step { claimed: claimed.len(), ..Step::default() };
        match self.try_work(claim_id, claimed, &mut step).await {
            Ok(()) => {
                self.state().running.remove(&claim_id);
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "rows not settled");
                if self.parts.queue.release(&[claim_id]).await.is_ok() {
                    self.state().running.remove(&claim_id);
                }
            }
        }
        for (action, count) in &step.actions {
            self.parts.metrics.rows_settled.with_label_values(&[action.name()]).inc_by(*count);
        }
        step
    }

    async fn try_work(&self, claim_id: Uuid, claimed: Vec<Claimed>, step: &mut Step) -> Result<(), QueueError> {
        let Sorted { known, stuck, unasked } = batch::sort(&self.parts, claimed).await?;
        self.settle_stuck(claim_id, stuck, step).await?;
        if let Some((rows, error)) = unasked {
            self.fail_rows(claim_id, rows, &error, step).await?;
        }
        let (certain, ask) = self.split_certain(known).await?;
        let certain: Vec<Item> = certain.into_iter().map(|known| Item { known, seen: None }).collect();
        self.apply(claim_id, certain, step).await?;
        let rows_max = self.state().size.get();
        let seats: Vec<Seat> =
            ask.iter().map(|row| Seat { tenant: row.claimed.hint.tenant, attempts: row.claimed.attempts }).collect();
        let requests = plan::requests(&seats, rows_max, |tenant| self.is_slow(tenant));
        let mut ask: Vec<Option<KnownRow>> = ask.into_iter().map(Some).collect();
        let fetches = requests.into_iter().map(|indexes| {
            let rows: Vec<KnownRow> = indexes.into_iter().filter_map(|index| ask[index].take()).collect();
            self.fetch(claim_id, rows)
        });
        for done in futures_util::future::join_all(fetches).await {
            let done = done?;
            step.failed += done.failed;
            for (action, count) in done.actions {
                *step.actions.entry(action).or_default() += count;
            }
        }
        Ok(())
    }

    /// Tells apart the deletions that need no request from the rows to ask for.
    async fn split_certain(&self, rows: Vec<KnownRow>) -> Result<(Vec<KnownRow>, Vec<KnownRow>), QueueError> {
        let (deletes, mut ask): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.claimed.evidence.deletion.is_some());
        if deletes.is_empty() {
            return Ok((vec![], ask));
        }
        let failed = |source| QueueError { action: "read mirrored rows", source };
        let mut connection = self.parts.pool.acquire().await.map_err(failed)?;
        let (groups, places) = asks(&deletes);
        let mut is_certain = vec![false; deletes.len()];
        for (group, places) in groups.iter().zip(places) {
            let mirrored = self.parts.replica.known(&mut connection, group.tenant, &group.table, &group.keys).await;
            for (index, mirrored) in places.into_iter().zip(mirrored.map_err(|error| failed(error.source))?) {
                let known = Known { mirrored, tombstone: None };
                let verdict = settle::before_fetch(&deletes[index].claimed.evidence, &known);
                is_certain[index] = !matches!(verdict, BeforeFetch::Fetch);
            }
        }
        let mut certain = Vec::new();
        for (row, is_certain) in deletes.into_iter().zip(is_certain) {
            if is_certain { certain.push(row) } else { ask.push(row) }
        }
        Ok((certain, ask))
    }

    /// One request, from asking to applying.
    async fn fetch(&self, claim_id: Uuid, rows: Vec<KnownRow>) -> Result<Step, QueueError> {
        let mut step = Step::default();
        let (asks, places) = asks(&rows);
        let started = Instant::now();
        let answer = self.parts.upstream.fetch(&asks).await;
        self.note_tempo(&asks, started.elapsed(), answer.is_ok());
        let answers = match answer {
            Ok(answers) => answers,
            Err(error) => {
                if matches!(remedy(&error), Remedy::Split) {
                    self.state().size.failed(rows.len());
                }
                let rows = rows.into_iter().map(|row| row.claimed).collect();
                self.fail_rows(claim_id, rows, &error, &mut step).await?;
                return Ok(step);
            }
        };
        self.state().size.succeeded(rows.len());
        let mut rows: Vec<Option<KnownRow>> = rows.into_iter().map(Some).collect();
        let (mut items, mut failures) = (Vec::new(), Vec::new());
        for ((ask, places), answer) in asks.iter().zip(places).zip(answers) {
            let own = places.iter().filter_map(|&index| rows[index].take());
            match answer {
                Ok(sights) => {
                    for (known, sight) in own.zip(sights) {
                        match seen(sight.sighting) {
                            Ok(row) => {
                                items.push(Item { known, seen: Some(Seen { started_at: sight.started_at, row }) })
                            }
                            Err(problem) => failures.push((known.claimed, Fault::ThisRow, problem)),
                        }
                    }
                }
                Err(error) => {
                    let fault = self.find_fault(ask, error.remedy()).await;
                    failures.extend(own.map(|row| (row.claimed, fault, error.to_string())));
                }
            }
        }
        if failures.iter().any(|(_, fault, _)| matches!(fault, Fault::ThisRow)) {
            self.parts.catalog.forget().await;
        }
        self.apply(claim_id, items, &mut step).await?;
        self.settle_failures(claim_id, failures, &mut step).await?;
        Ok(step)
    }

    /// Whether a part failed because of a row or because its table cannot be read at all.
    async fn find_fault(&self, ask: &Ask, remedy: Remedy) -> Fault {
        match remedy {
            Remedy::Redescribe => self.parts.catalog.forget().await,
            Remedy::Split => match self.parts.upstream.probe_table(ask).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Fault::Lane,
                Err(error) => return Fault::of(crate::upstream::remedy(&error), false),
            },
            Remedy::Wait(_) | Remedy::Probe => {}
        }
        Fault::of(remedy, true)
    }

    /// A whole request failed.
    async fn fail_rows(
        &self,
        claim_id: Uuid,
        rows: Vec<Claimed>,
        error: &UpstreamError,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let remedy = remedy(error);
        let answers = match remedy {
            Remedy::Probe => self.parts.upstream.probe().await.is_ok(),
            Remedy::Redescribe => {
                self.parts.catalog.forget().await;
                true
            }
            Remedy::Wait(_) | Remedy::Split => true,
        };
        let fault = Fault::of(remedy, answers);
        let text = chain(error).to_string();
        tracing::warn!(rows = rows.len(), error = text, ?fault, "request failed");
        let failures = rows.into_iter().map(|row| (row, fault, text.clone())).collect();
        self.settle_failures(claim_id, failures, step).await
    }

    async fn settle_failures(
        &self,
        claim_id: Uuid,
        failures: Vec<(Claimed, Fault, String)>,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let rows_max = self.parts.fetch_rows_max;
        step.failed += failures.len();
        let outcomes = failures
            .into_iter()
            .map(|(row, fault, error)| {
                let outcome = blame::outcome(fault, &row, rows_max, &error);
                (row, outcome, error)
            })
            .collect();
        self.settle(claim_id, outcomes, step).await
    }

    async fn settle_stuck(
        &self,
        claim_id: Uuid,
        stuck: Vec<(Claimed, Stuck)>,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let outcomes = stuck
            .into_iter()
            .map(|(row, stuck)| match stuck {
                Stuck::Ignored(why) => {
                    let generation = row.generation;
                    (row, Outcome::Done { generation }, why.to_owned())
                }
                Stuck::Hopeless(reason) => {
                    let outcome = Outcome::Bury { generation: row.generation, reason: reason.clone() };
                    (row, outcome, reason)
                }
                Stuck::Troubled(reason) => {
                    let outcome = blame::outcome(Fault::Lane, &row, 1, &reason);
                    (row, outcome, reason)
                }
            })
            .collect();
        self.settle(claim_id, outcomes, step).await
    }

    /// Writes outcomes that touch no mirrored row.
    async fn settle(
        &self,
        claim_id: Uuid,
        outcomes: Vec<(Claimed, Outcome, String)>,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let failed = |source| QueueError { action: "settle rows", source };
        let mut transaction = self.parts.pool.begin().await.map_err(failed)?;
        let hints: Vec<_> = outcomes.iter().map(|(row, ..)| &row.hint).collect();
        let locked = queue::settle::lock(&mut transaction, claim_id, &hints).await?;
        let (mut own, mut entries) = (Vec::new(), Vec::new());
        for locked in &locked {
            let (row, outcome, reason) = &outcomes[locked.index];
            if let Some(action) = logged_as(outcome) {
                *step.actions.entry(action).or_default() += 1;
                entries.push(SyncEntry {
                    hint: row.hint.clone(),
                    action,
                    reason: reason.clone(),
                    notification_id: row.notification_id,
                    source_changed_at: None,
                    fetch_started_at: None,
                });
            }
            own.push((&row.hint, outcome.clone()));
        }
        queue::settle::log(&mut transaction, &entries).await?;
        queue::settle::settle(&mut transaction, &own).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn apply(&self, claim_id: Uuid, items: Vec<Item>, step: &mut Step) -> Result<(), QueueError> {
        if items.is_empty() {
            return Ok(());
        }
        match apply::apply(&self.parts, claim_id, &items).await {
            Ok(counts) => {
                for (action, count) in counts {
                    *step.actions.entry(action).or_default() += count;
                }
                Ok(())
            }
            Err(error) if error.is_about_data() => {
                let text = chain(&error).to_string();
                tracing::warn!(rows = items.len(), error = text, "rows cannot be written together");
                let failures =
                    items.into_iter().map(|item| (item.known.claimed, Fault::SomeRow, text.clone())).collect();
                self.settle_failures(claim_id, failures, step).await
            }
            Err(ApplyError::Queue(error)) => Err(error),
            Err(ApplyError::Mirror(error)) => Err(QueueError { action: error.action, source: error.source }),
            Err(ApplyError::Sql(source)) => Err(QueueError { action: "apply rows", source }),
        }
    }

    fn note_tempo(&self, asks: &[Ask], elapsed: Duration, answered: bool) {
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
    }

    fn is_slow(&self, tenant: Tenant) -> bool {
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

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
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

/// One ask for each table of each tenant, and the positions of its rows.
fn asks(rows: &[KnownRow]) -> (Vec<Ask>, Vec<Vec<usize>>) {
    let (mut asks, mut places): (Vec<Ask>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let tenant = row.claimed.hint.tenant;
        let same = |ask: &Ask| ask.tenant == tenant && ask.table == row.table;
        let position = asks.iter().position(same).unwrap_or_else(|| {
            asks.push(Ask { tenant, table: Arc::clone(&row.table), keys: vec![] });
            places.push(vec![]);
            asks.len() - 1
        });
        asks[position].keys.push(row.key.clone());
        places[position].push(index);
    }
    (asks, places)
}

fn seen(sighting: Sighting) -> Result<Option<crate::domain::Row>, String> {
    match sighting {
        Sighting::Found(row) => Ok(Some(row)),
        Sighting::Missing => Ok(None),
        Sighting::Unreadable(problem) => Err(problem),
    }
}

fn logged_as(outcome: &Outcome) -> Option<SyncAction> {
    match outcome {
        Outcome::Done { .. } => Some(SyncAction::Ignored),
        Outcome::Bury { .. } => Some(SyncAction::DeadLetter),
        Outcome::Fail { .. } => Some(SyncAction::Failed),
        Outcome::LookAgain { .. } | Outcome::Release { .. } => None,
    }
}
