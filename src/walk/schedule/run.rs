//! Leading: finding what is due, and starting it where there is a place.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::task::{Id, JoinError, JoinSet};

use super::{
    Kind, Parts,
    chosen::Chosen,
    due::{self, Due},
    errand::{Ended, Errand},
    failures::Failures,
    places::{Places, Room, Running},
};
use crate::{
    domain::{Target, TargetId},
    telemetry::chain,
    walk::{
        Loader,
        pacer::{self, Pacer},
        page, sweep,
    },
};

/// How often it is looked whether anything is due,
const TICK: Duration = Duration::from_secs(2);
/// and how many times as long as a look takes passes until the next one, where there are very many targets.
const REST: u32 = 20;

/// Leads for ever. Dropped, all walks end with it.
pub(super) async fn lead(parts: &Parts) {
    let chosen = Chosen::default();
    let mut schedule = Schedule {
        parts,
        chosen: &chosen,
        pacer: Arc::new(Pacer::new(Duration::ZERO)),
        places: Places::default(),
        failures: Failures::default(),
        waiting: VecDeque::new(),
        tasks: JoinSet::new(),
    };
    // Neither ends, and neither waits for the other.
    tokio::join!(chosen.keep_current(parts), schedule.run());
}

type Task = Vec<(TargetId, Ended)>;

/// What is under way and what waits for a place.
struct Schedule<'a> {
    parts: &'a Parts,
    chosen: &'a Chosen,
    /// Spreads the pages of resyncs over the interval.
    pacer: Arc<Pacer>,
    places: Places,
    failures: Failures,
    /// What is due and has no place yet, the longest waiting first.
    waiting: VecDeque<Due>,
    tasks: JoinSet<Task>,
}

impl Schedule<'_> {
    async fn run(&mut self) {
        let mut next_look = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_look) => {
                    let began = tokio::time::Instant::now();
                    self.look().await;
                    next_look = began + TICK.max(began.elapsed() * REST);
                }
                Some(ended) = self.tasks.join_next_with_id() => self.take(ended),
            }
            if !self.parts.upstream.is_away() {
                self.start();
            }
        }
    }

    /// Looks anew at what is due.
    async fn look(&mut self) {
        self.waiting = match self.find().await {
            Ok(due) => due.into(),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "it is not known which walks are due");
                VecDeque::new()
            }
        };
    }

    async fn find(&self) -> Result<Vec<Due>, sqlx::Error> {
        let states = due::states(&self.parts.pool).await?;
        let mut due = due::find(&states, &self.parts.settings, |target| self.chosen.contains(target));
        let now = Instant::now();
        due.retain(|due| {
            !self.places.hold(due.kind, due.target.id) && !self.failures.leave_alone(due.kind, due.target.id, now)
        });
        if due.iter().any(|due| due.kind == Kind::Resync)
            && let Some(interval) = self.parts.settings.walk_interval
        {
            self.pacer.set_gap(pacer::gap(interval, pages(&self.parts.pool).await?, self.parts.requests_per_minute));
        }
        Ok(due)
    }

    /// Starts whatever has a place.
    fn start(&mut self) {
        let (mut full, mut left) = (HashSet::new(), vec![]);
        while let Some(due) = self.waiting.pop_front() {
            let (kind, tenant) = (due.kind, due.target.tenant);
            let is_full = full.contains(&(kind, None)) || full.contains(&(kind, Some(tenant)));
            let room = if is_full { None } else { Some(self.places.room(kind, tenant)) };
            match room {
                Some(Room::Free) => {
                    let targets = self.together(due);
                    self.spawn(kind, targets);
                    continue;
                }
                Some(Room::NoneForTenant) => _ = full.insert((kind, Some(tenant))),
                Some(Room::NoneAtAll) => _ = full.insert((kind, None)),
                None => {}
            }
            left.push(due);
        }
        self.waiting = left.into();
    }

    /// What is swept by the same requests: tables of one tenant.
    fn together(&mut self, due: Due) -> Vec<Target> {
        let (kind, tenant) = (due.kind, due.target.tenant);
        let mut targets = vec![due.target];
        if kind == Kind::Sweep {
            self.waiting.retain(|other| {
                let joins = other.kind == kind && other.target.tenant == tenant && targets.len() < sweep::TABLES_MAX;
                if joins {
                    targets.push(other.target.clone());
                }
                !joins
            });
        }
        targets
    }

    fn spawn(&mut self, kind: Kind, targets: Vec<Target>) {
        let progress = Arc::default();
        let running =
            Running { kind, tenant: targets[0].tenant, targets: targets.clone(), progress: Arc::clone(&progress) };
        let errand = Errand { parts: self.parts.clone(), loader: self.loader(kind), kind, targets, progress };
        let task = self.tasks.spawn(errand.run());
        self.places.take(task.id(), running);
    }

    fn loader(&self, kind: Kind) -> Loader {
        self.parts.loader.paced((kind == Kind::Resync).then(|| Arc::clone(&self.pacer)))
    }

    fn take(&mut self, ended: Result<(Id, Task), JoinError>) {
        let (id, results) = match ended {
            Ok((id, results)) => (id, Some(results)),
            Err(error) => {
                tracing::error!(%error, "a walk panicked, which is a mistake in this program; it goes on later");
                (error.id(), None)
            }
        };
        let Some(Running { kind, targets, .. }) = self.places.free(id) else { return };
        let panicked = || targets.iter().map(|target| (target.id, Ended::Failed)).collect();
        for (target, ended) in results.unwrap_or_else(panicked) {
            match ended {
                Ended::Done => self.failures.clear(kind, target),
                Ended::PutOff => {}
                Ended::Failed => self.failures.note(kind, target, Instant::now()),
            }
        }
    }
}

/// Pages of all tables, as their last walks tell.
async fn pages(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let page = i64::try_from(page::ROWS_MAX / 2).unwrap_or(i64::MAX);
    let pages: i64 = sqlx::query_scalar!(
        r#"select coalesce(sum(rows_walked / $1 + 1), 0)::bigint as "pages!" from nxt_mirror.walk"#,
        page
    )
    .fetch_one(pool)
    .await?;
    Ok(pages.unsigned_abs())
}
