//! Walks that happen by themselves while the daemon serves: first loads, sweeps, and slow walks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt};
use sqlx::{PgPool, pool::PoolConnection};
use tokio_util::sync::CancellationToken;

use super::{
    Loaded, Loader, Selection, TABLES_AT_ONCE, Target, WalkError,
    pacer::{self, Pacer},
    page, sweep, targets,
};
use crate::{
    config::MirrorSettings,
    domain::{TableName, Tenant},
    telemetry::chain,
    upstream::{Catalog, Upstream},
};

/// How often it is looked whether anything is due.
const TICK: Duration = Duration::from_secs(2);
/// How long the list of companies and chosen tables holds.
const CHOSEN_FRESH: Duration = Duration::from_secs(600);
/// How long a table that failed is left alone, at first; twice as long each time, up to sixteen times as long, so that what
/// cannot be read for days costs little.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);
const FAILURE_PAUSE_DOUBLINGS_MAX: u32 = 4;

/// What the schedule works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Database.
    pub pool: PgPool,
    /// The API.
    pub upstream: Upstream,
    /// The API's tables.
    pub catalog: Arc<Catalog>,
    /// What is mirrored, and when it is walked.
    pub settings: MirrorSettings,
    /// Writes.
    pub loader: Loader,
    /// `NXT_REQUESTS_PER_MINUTE`.
    pub requests_per_minute: u32,
}

/// Walks what is due until told to stop. Of several replicas one does it, whichever holds the lock; the others take
/// over when its connection is gone.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let memory = Memory::default();
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        let leading = stop.run_until_cancelled(lead(&parts.pool)).await;
        let Some(Some(lead)) = leading else { continue };
        let work = async {
            tokio::select! {
                () = hold(lead) => tracing::warn!("the lock of the schedule is lost, another replica may take it"),
                // None of them ends, and none waits for another.
                _ = async { tokio::join!(
                    repeat(&parts, &memory, Errand::Load),
                    repeat(&parts, &memory, Errand::Heal),
                    repeat(&parts, &memory, Errand::Sweep),
                ) } => {}
            }
        };
        stop.run_until_cancelled(work).await;
    }
}

/// The lock that one replica has, if this one can get it.
async fn lead(pool: &PgPool) -> Option<PoolConnection<sqlx::Postgres>> {
    let mut connection = pool.acquire().await.ok()?;
    let locked = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('nxt-mirror schedule', 0))")
        .fetch_one(&mut *connection)
        .await;
    if !matches!(locked, Ok(true)) {
        return None;
    }
    // Never back to the pool with the lock held: the session ends with it.
    connection.close_on_drop();
    Some(connection)
}

/// Returns when the lock is lost.
async fn hold(mut connection: PoolConnection<sqlx::Postgres>) {
    while sqlx::query("select 1").execute(&mut *connection).await.is_ok() {
        tokio::time::sleep(TICK).await;
    }
}

/// What is remembered between rounds.
#[derive(Debug, Default)]
struct Memory {
    /// Errands that failed, when last and how often one after the other.
    failed: Mutex<HashMap<String, (Instant, u32)>>,
    /// Targets of the settings, and when they were found.
    chosen: tokio::sync::Mutex<Option<(Instant, Vec<Target>)>>,
}

/// What is done by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    /// A table is walked for the first time, or goes on with a walk: as fast as the budget allows.
    Load,
    /// A table is walked again, in no hurry.
    Heal,
    /// What changed lately is asked for.
    Sweep,
}

impl Errand {
    /// The name of its checkpoint.
    fn purpose(self) -> &'static str {
        match self {
            Self::Load | Self::Heal => "load",
            Self::Sweep => "sweep",
        }
    }

    /// This errand at this table, as it is remembered.
    fn of(self, target: &Target) -> String {
        format!("{self:?} {target}")
    }
}

/// Runs an errand whenever it is due, for ever.
async fn repeat(parts: &Parts, memory: &Memory, errand: Errand) {
    loop {
        let pause = match run_errand(parts, memory, errand).await {
            Ok(()) => TICK,
            Err(error) => {
                tracing::warn!(?errand, error = %chain(&error), "walks are put off");
                FAILURE_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Does whatever is due of this kind, several tables at once.
async fn run_errand(parts: &Parts, memory: &Memory, errand: Errand) -> Result<(), WalkError> {
    if parts.upstream.is_away() {
        return Ok(());
    }
    let due = due(parts, memory, errand).await?;
    if due.is_empty() {
        return Ok(());
    }
    let loader = match (errand, parts.settings.walk_interval) {
        (Errand::Heal, Some(interval)) => parts.loader.paced(Arc::new(heal_pacer(parts, interval).await?)),
        _ => parts.loader.clone(),
    };
    let mut due: Vec<&Target> = due.iter().filter(|target| !memory.is_left_alone(&errand.of(target))).collect();
    due.sort_by_key(|target| target.tenant);
    let together = if errand == Errand::Sweep { sweep::TABLES_MAX } else { 1 };
    // Boxed, for the compiler cannot see that borrowing futures of a stream may change threads.
    let walks: Vec<_> =
        due.chunks(together).map(|targets| attempt(parts, memory, &loader, targets, errand).boxed()).collect();
    futures_util::stream::iter(walks).buffer_unordered(TABLES_AT_ONCE).collect::<()>().await;
    Ok(())
}

/// Spreads the pages of all tables over the interval.
async fn heal_pacer(parts: &Parts, interval: Duration) -> Result<Pacer, WalkError> {
    let sizes: Vec<i64> = sqlx::query_scalar("select rows_walked from nxt_mirror.checkpoint where purpose = 'load'")
        .fetch_all(&parts.pool)
        .await?;
    let page = page::ROWS_MAX as u64 / 2;
    let pages = sizes.iter().map(|rows| rows.unsigned_abs() / page + 1).sum();
    Ok(Pacer::new(pacer::gap(interval, pages, parts.requests_per_minute)))
}

async fn attempt(parts: &Parts, memory: &Memory, loader: &Loader, targets: &[&Target], errand: Errand) {
    if parts.upstream.is_away() {
        return;
    }
    let started = Instant::now();
    match errand {
        Errand::Sweep => {
            let results = loader.sweep_together(targets).await;
            for (target, result) in targets.iter().zip(results) {
                report(parts, memory, target, errand, started, result).await;
            }
        }
        Errand::Load | Errand::Heal => {
            for target in targets {
                let result = loader.load(target, &Arc::default()).await;
                report(parts, memory, target, errand, started, result).await;
            }
        }
    }
}

async fn report(
    parts: &Parts,
    memory: &Memory,
    target: &Target,
    errand: Errand,
    started: Instant,
    result: Result<Loaded, WalkError>,
) {
    if result.is_ok() {
        memory.failed().remove(&errand.of(target));
    }
    match result {
        Ok(Loaded { changed: 0, skipped: 0 }) => tracing::debug!(%target, ?errand, "done, nothing had changed"),
        Ok(Loaded { changed, skipped }) => {
            tracing::info!(%target, ?errand, changed, skipped, seconds = started.elapsed().as_secs(), "done");
        }
        Err(WalkError::Upstream(error)) if !parts.upstream.answers_after(&error).await => {
            tracing::debug!(%target, ?errand, error = %chain(&error), "put off until the API answers");
        }
        Err(error) => {
            if matches!(error, WalkError::Upstream(_) | WalkError::Denied(_)) {
                parts.catalog.forget().await;
            }
            tracing::warn!(%target, ?errand, error = %chain(&error), "not finished, it goes on later");
            memory.note_failure(errand.of(target));
        }
    }
}

impl Memory {
    fn note_failure(&self, errand: String) {
        let mut failed = self.failed();
        let (last, times) = failed.entry(errand).or_insert((Instant::now(), 0));
        (*last, *times) = (Instant::now(), *times + 1);
    }

    fn is_left_alone(&self, errand: &str) -> bool {
        self.failed().get(errand).is_some_and(|(last, times)| {
            let doublings = times.saturating_sub(1).min(FAILURE_PAUSE_DOUBLINGS_MAX);
            last.elapsed() < FAILURE_PAUSE * (1 << doublings)
        })
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, u32)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tables whose walk of this purpose is due. Chosen tables are walked from the start; others hold what notifications
/// brought, and are swept and, once somebody has walked them, walked again.
async fn due(parts: &Parts, memory: &Memory, errand: Errand) -> Result<Vec<Target>, WalkError> {
    let interval = match errand {
        Errand::Load => None,
        Errand::Heal => parts.settings.walk_interval,
        Errand::Sweep => parts.settings.sweep_interval,
    };
    if errand != Errand::Load && interval.is_none() {
        return Ok(vec![]);
    }
    let mut candidates = known(parts).await?;
    for target in chosen(parts, memory).await? {
        if !candidates.iter().any(|(own, _)| own.tenant == target.tenant && own.table.name == target.table.name) {
            candidates.push((target, true));
        }
    }
    let states = states(&parts.pool, errand.purpose()).await?;
    let is_due = |(target, chosen): &(Target, bool)| {
        let state = states.get(&(target.tenant, target.table.name.as_str().to_ascii_lowercase())).copied();
        let is_old = |age: f64| interval.is_some_and(|interval| age >= interval.as_secs_f64());
        match (errand, state) {
            (Errand::Load, None) => *chosen,
            // A walk again that was interrupted is taken up by its own kind.
            (Errand::Load, Some(State { ended_before, under_way, .. })) => !ended_before && (*chosen || under_way),
            (Errand::Heal, Some(State { ended_before, under_way, age })) => ended_before && (under_way || is_old(age)),
            (Errand::Sweep, Some(State { age, .. })) => is_old(age),
            // A table that nothing has brought yet has nothing to heal or sweep.
            (Errand::Heal | Errand::Sweep, None) => false,
        }
    };
    Ok(candidates.into_iter().filter(is_due).map(|(target, _)| target).collect())
}

/// Where the walks of one purpose of a table are.
#[derive(Debug, Clone, Copy)]
struct State {
    /// Whether one has ever ended.
    ended_before: bool,
    /// Whether one is under way.
    under_way: bool,
    /// Seconds since the last one ended, or since the table was first seen.
    age: f64,
}

/// The state of every table that holds something.
async fn states(pool: &PgPool, purpose: &str) -> Result<HashMap<(Tenant, String), State>, WalkError> {
    let rows: Vec<(String, i64, String, bool, bool, f64)> = sqlx::query_as(
        "select t.tenant_kind, t.tenant_no, lower(t.table_name), c.last_finished_at is not null,
                c.started_at is not null and c.finished_at is null,
                extract(epoch from clock_timestamp() - coalesce(c.last_finished_at, t.first_seen_at))::float8
           from nxt_mirror.mirrored_tenant t
           left join nxt_mirror.checkpoint c
                  on (c.tenant_kind, c.tenant_no, c.table_name, c.purpose)
                   = (t.tenant_kind, t.tenant_no, t.table_name, $1)",
    )
    .bind(purpose)
    .fetch_all(pool)
    .await?;
    let keyed = rows.into_iter().filter_map(|(kind, number, table, ended_before, under_way, age)| {
        Some(((Tenant::from_parts(&kind, number)?, table), State { ended_before, under_way, age }))
    });
    Ok(keyed.collect())
}

/// The targets of the settings, looked up now and then.
async fn chosen(parts: &Parts, memory: &Memory) -> Result<Vec<Target>, WalkError> {
    if parts.settings.tables.is_empty() {
        return Ok(vec![]);
    }
    let mut remembered = memory.chosen.lock().await;
    if let Some((found, targets)) = &*remembered
        && found.elapsed() < CHOSEN_FRESH
    {
        return Ok(targets.clone());
    }
    let (targets, unknown) = targets(&parts.upstream, &parts.catalog, &parts.settings, &Selection::default()).await?;
    for (table, error) in unknown {
        tracing::error!(row.table = %table, error = %chain(&error), "table of NXT_TABLES cannot be walked");
    }
    *remembered = Some((Instant::now(), targets.clone()));
    Ok(targets)
}

/// Tables that hold something, and whether the settings name them.
async fn known(parts: &Parts) -> Result<Vec<(Target, bool)>, WalkError> {
    let rows: Vec<(String, i64, String)> =
        sqlx::query_as("select tenant_kind, tenant_no, table_name from nxt_mirror.mirrored_tenant")
            .fetch_all(&parts.pool)
            .await?;
    let mut found = vec![];
    for (kind, number, table) in rows {
        let (Some(tenant), Ok(name)) = (Tenant::from_parts(&kind, number), TableName::new(table)) else { continue };
        if !parts.settings.companies.is_empty()
            && matches!(tenant, Tenant::Company(number) if !parts.settings.companies.contains(&number))
        {
            continue;
        }
        let chosen = parts.settings.tables.iter().any(|own| own.as_str().eq_ignore_ascii_case(name.as_str()));
        if !parts.settings.tables.is_empty() && !chosen {
            continue;
        }
        // One that cannot be described now has its own error elsewhere.
        if let Ok(table) = parts.catalog.table(tenant.level(), &name, None).await {
            found.push((Target { tenant, table }, chosen));
        }
    }
    Ok(found)
}
