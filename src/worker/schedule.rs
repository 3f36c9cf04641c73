//! The scheduler: which targets are asked about now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use super::{
    Parts,
    pace::Pace,
    places::Places,
    plan::{self, Seat},
    request::Work,
    tables::{Readiness, Tables},
    telling::{self, Telling},
};
use crate::{
    domain::{TargetId, TargetTable},
    queue::{self, Claim, Claimable, Due, Priority, QueueError, Wanted},
    telemetry::{chain, spans},
    upstream::Share,
};

/// How long the scheduler sleeps when nothing wakes it: other replicas receive too, and pauses end.
const POLL: Duration = Duration::from_millis(400);
/// How often stored notifications are looked for that another replica received.
const FOLD_POLL: Duration = Duration::from_millis(200);
/// The least time between two turns, so that many wake-ups cost no more than some.
const TURN_MIN: Duration = Duration::from_millis(5);
/// How long everything waits after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// Targets that are looked at in one turn.
const TARGETS_MAX: i64 = 500;
/// How long requests under way may take when the daemon stops. What is left then is given back.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// How often the rows of a target that could not be read are probed, one of them, whether it can be read again.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// Works through the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker {
    pub(super) parts: Parts,
    pub(super) places: Places,
    pub(super) tables: Tables,
    pub(super) telling: Arc<Telling>,
    pub(super) wake: Arc<Notify>,
    pub(super) tasks: TaskTracker,
}

/// What is to be done with the rows of a target.
#[derive(Debug)]
enum Plan {
    Ask(TargetTable),
    Ignore(&'static str),
    SetAside(String),
}

/// What one turn claimed.
#[derive(Debug, Clone, Copy, Default)]
struct Claimed {
    rows: usize,
    /// Whether some target had as many rows as one request may ask for: fewer for wide rows, and for unseen ones.
    has_full: bool,
    /// Whether some of the rows were given back, to be asked for with others.
    held_back: bool,
}

impl Worker {
    /// A worker that has not started.
    pub fn new(parts: Parts) -> Self {
        let (wake, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
        let tables = Tables::new(
            Arc::clone(&parts.catalogue),
            parts.mirror.clone(),
            parts.pool.clone(),
            Arc::clone(&wake),
            tasks.clone(),
        );
        Self { parts, places: Places::default(), tables, telling: Arc::default(), wake, tasks }
    }

    /// Works until told to stop, then finishes or gives back what it holds.
    pub async fn run(self, stop: CancellationToken) {
        let beside = {
            let worker = self.clone();
            async move {
                tokio::join!(
                    worker.fold(),
                    worker.look_beside(),
                    worker.watch_outages(),
                    worker.probe_targets(),
                    tell(&worker.telling)
                );
            }
        };
        tokio::select! {
            () = self.schedule(&stop) => {}
            () = beside => {}
        }
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!("requests were still under way, their rows are fetched again");
        }
    }

    /// Works while something else goes on, and ends with it.
    pub async fn run_while<T>(self, other: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        let working = tokio::spawn(self.run(stop.clone()));
        let result = other.await;
        stop.cancel();
        if let Err(error) = working.await {
            tracing::error!(%error, "the worker panicked");
        }
        result
    }

    /// Folds what is stored into dirty rows, right after its commit.
    async fn fold(&self) {
        loop {
            let stored = self.parts.stored.notified();
            match self.parts.queue.fold().await {
                Ok(folded) if folded.notifications > 0 => self.wake.notify_one(),
                Ok(_) => _ = tokio::time::timeout(FOLD_POLL, stored).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "notifications not folded into dirty rows, it is tried again");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
            }
        }
    }

    /// Finds what is due where that takes too long for the scheduler to wait for it.
    async fn look_beside(&self) {
        let Parts { queue, me, claims, .. } = &self.parts;
        loop {
            match queue.look_beside(*me, claims, TARGETS_MAX).await {
                Ok(pause) => tokio::time::sleep(pause.max(POLL)).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "due rows not looked for");
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
            }
        }
    }

    /// Wakes the scheduler when an outage of the API is over.
    async fn watch_outages(&self) {
        self.parts.upstream.watch_outages(|| self.wake.notify_one()).await;
    }

    /// Tries one row now and then of each target that could not be read at all.
    async fn probe_targets(&self) {
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            self.tables.look_for_missing_columns();
            if let Err(error) = self.parts.mirror.look_at_narrow_tables().await {
                tracing::warn!(error = %chain(&error), "narrow columns are not looked at");
            }
            if self.parts.upstream.is_away() {
                continue;
            }
            match self.probe_once().await {
                Ok(0) => {}
                Ok(_) => self.wake.notify_one(),
                Err(error) => tracing::warn!(error = %chain(&error), "targets that could not be read are not probed"),
            }
        }
    }

    async fn probe_once(&self) -> Result<u64, QueueError> {
        let failed = |source| QueueError { action: "probe targets that could not be read", source };
        let mut connection = self.parts.pool.acquire().await.map_err(failed)?;
        queue::dead_letter::probe_targets(&mut connection).await
    }

    async fn schedule(&self, stop: &CancellationToken) {
        let mut pace = Pace::default();
        while !stop.is_cancelled() {
            let pause = match self.turn(&mut pace).await {
                Ok(pause) => pause.max(TURN_MIN),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "no rows claimed");
                    DATABASE_PAUSE
                }
            };
            if pause > TURN_MIN {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            tokio::time::sleep(TURN_MIN).await;
        }
    }

    /// Starts what may be started now. Returns how long there is nothing more to do.
    async fn turn(&self, pace: &mut Pace) -> Result<Duration, QueueError> {
        // While the API is away, only deletions are worth a look.
        let claimable = if self.parts.upstream.is_away() { Claimable::Deleted } else { Claimable::All };
        let Parts { queue, me, claims, upstream, .. } = &self.parts;
        let overview = queue.overview(*me, claims, claimable, TARGETS_MAX).await?;
        let now = Instant::now();
        let chosen = self.choose(&overview.due, now);
        if chosen.is_empty() {
            return Ok(overview.next_in.map_or(POLL, |next| next.min(POLL)));
        }
        let used = upstream.budget().used().await.map_err(|source| QueueError { action: "read the budget", source })?;
        let used = f64::from(used) / f64::from(upstream.budget().per_minute().max(1));
        let full = self.parts.fetch_rows_max;
        let delay = pace.delay(used, full, now);
        if !delay.is_zero() {
            return Ok(delay.min(POLL));
        }
        let claimed = self.start(chosen, claimable, pace, now).await?;
        // Who has more than one request may ask for has nothing to gather.
        pace.claimed(if claimed.has_full { full } else { claimed.rows }, claimed.held_back, Instant::now());
        Ok(if claimed.rows > 0 { Duration::ZERO } else { POLL })
    }

    /// Due targets that have a place now, oldest first, and what is to be done with them.
    fn choose<'a>(&self, due: &'a [Due], now: Instant) -> Vec<(&'a Due, Plan)> {
        let mut chosen: Vec<(&Due, Plan)> = vec![];
        for due in due {
            let target = &due.target;
            if !self.places.may(target, due.failures, now) {
                continue;
            }
            if let Some(why) = self.parts.settings.why_not(target) {
                chosen.push((due, Plan::Ignore(why)));
                continue;
            }
            match self.tables.of(target) {
                Readiness::Ready(table) => {
                    let table = TargetTable { id: target.id, tenant: target.tenant, table };
                    chosen.push((due, Plan::Ask(table)));
                }
                Readiness::Hopeless(reason) => chosen.push((due, Plan::SetAside(reason))),
                Readiness::Pending => {}
            }
        }
        chosen
    }

    /// Claims rows of these targets and starts the requests.
    async fn start(
        &self,
        chosen: Vec<(&Due, Plan)>,
        claimable: Claimable,
        pace: &Pace,
        now: Instant,
    ) -> Result<Claimed, QueueError> {
        let wanted: Vec<Wanted> = chosen.iter().map(|(due, plan)| self.wanted(due, plan, pace)).collect();
        let claims = self.parts.queue.claim(self.parts.me, &self.parts.claims, &wanted, claimable).await?;
        // Read behind the rows, so that it tells of every column that their notifications announce.
        let tables: Vec<&str> = claims.iter().map(|claim| claim.target.table.as_str()).collect();
        let announced = queue::announced_counts(&self.parts.pool, &tables).await?;
        let (mut works, mut claims, mut claimed) = (vec![], claims.into_iter().peekable(), Claimed::default());
        for ((due, plan), wanted) in chosen.into_iter().zip(&wanted) {
            // Claims come in the order they were asked for; those without rows are left out.
            let Some(claim) = claims.next_if(|claim| claim.target.id == due.target.id) else { continue };
            claimed.rows += claim.rows.len();
            claimed.has_full |= claim.rows.len() >= wanted.rows_max;
            match plan {
                Plan::Ask(_) if !self.tables.knows_columns(&due.target, &announced) => {}
                Plan::Ask(table) => works.extend(Work::of(claim, &table, due.failures)),
                Plan::Ignore(why) => self.spawn_settle(claim, move |worker, claim| worker.ignore(claim, why)),
                Plan::SetAside(reason) => {
                    self.spawn_settle(claim, move |worker, claim| worker.set_aside(claim, reason));
                }
            }
        }
        claimed.held_back = self.send(works, pace.may_hold_back() && !claimed.has_full, now);
        Ok(claimed)
    }

    fn wanted(&self, due: &Due, plan: &Plan, pace: &Pace) -> Wanted {
        let rows_max = match plan {
            Plan::Ask(table) => self.parts.upstream.rows_max(&table.table, self.parts.fetch_rows_max),
            Plan::Ignore(_) | Plan::SetAside(_) => self.parts.fetch_rows_max,
        };
        let priority = match (due.oldest_live, due.oldest_deferred) {
            (Some(_), Some(_)) if pace.is_for_deferred() => Priority::Deferred,
            (Some(_), _) => Priority::Live,
            (None, _) => Priority::Deferred,
        };
        Wanted { target: due.target.id, priority, rows_max }
    }

    /// Sends the requests. Returns whether the last one was held back: its claims are given back.
    fn send(&self, works: Vec<Work>, may_hold_back: bool, now: Instant) -> bool {
        let seats: Vec<Seat> = works
            .iter()
            .map(|work| Seat {
                rows: work.len(),
                priority: work.priority(),
                is_apart: work.failures > 0 || work.is_of_suspects() || self.places.is_apart(work.target(), now),
            })
            .collect();
        let mut works: Vec<Option<Work>> = works.into_iter().map(Some).collect();
        let mut requests = plan::requests(&seats, self.parts.fetch_rows_max);
        let straggler = plan::straggler(&requests, &seats, self.parts.fetch_rows_max).filter(|_| may_hold_back);
        if let Some(straggler) = straggler {
            requests.remove(straggler);
        }
        for indexes in requests {
            let is_ill = indexes.iter().any(|&index| seats[index].is_apart);
            let works: Vec<Work> = indexes.into_iter().filter_map(|index| works[index].take()).collect();
            let share = if works.iter().any(Work::is_urgent) { Share::Live } else { Share::Background };
            let targets: Vec<_> = works.iter().map(|work| (work.target().id, work.target().tenant)).collect();
            let place = self.places.take(&targets, is_ill);
            let worker = self.clone();
            self.tasks.spawn(async move {
                let _done = Done { worker: &worker, targets: targets.iter().map(|(target, _)| *target).collect() };
                let span = spans::serve(works.len(), works.iter().map(Work::len).sum());
                worker.serve(works, share, place).instrument(span).await;
            });
        }
        straggler.is_some()
    }

    fn spawn_settle<F>(&self, claim: Claim, settle: impl FnOnce(Self, Claim) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let target = claim.target.clone();
        let place = self.places.take(&[(target.id, target.tenant)], false);
        let (worker, settling) = (self.clone(), settle(self.clone(), claim));
        self.tasks.spawn(async move {
            let _done = Done { worker: &worker, targets: vec![target.id] };
            settling.await;
            drop(place);
        });
    }
}

/// Wakes the scheduler when a task has ended. Targets whose task panicked are left alone for a moment.
struct Done<'a> {
    worker: &'a Worker,
    targets: Vec<TargetId>,
}

/// How long a target is left alone whose work panicked.
const PANIC_PAUSE: Duration = Duration::from_secs(10);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        for target in &self.targets {
            if std::thread::panicking() {
                tracing::error!(target = target.0, "work on a target panicked, it is tried again in a while");
                self.worker.places.pause(*target, Instant::now() + PANIC_PAUSE);
            }
        }
        self.worker.wake.notify_one();
    }
}

/// Tells of batches of which nothing was told as they came.
async fn tell(telling: &Telling) {
    loop {
        tokio::time::sleep(telling::PAUSE).await;
        telling.rest(Instant::now());
    }
}
