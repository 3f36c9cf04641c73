//! Walks that happen by themselves while the daemon serves: first loads, sweeps, and slow walks.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{PgPool, pool::PoolConnection};
use tokio_util::sync::CancellationToken;

use super::{Loader, Selection, Target, WalkError, targets};
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
/// How long a table that failed is left alone.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);

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
}

/// Walks what is due until told to stop. Of several replicas one does it, whichever holds the lock; the others take
/// over when its connection is gone.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let mut leader: Option<PoolConnection<sqlx::Postgres>> = None;
    let mut memory = Memory::default();
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        let leading = stop.run_until_cancelled(lead(&parts.pool, &mut leader)).await;
        if leading != Some(true) {
            continue;
        }
        if let Some(Err(error)) = stop.run_until_cancelled(round(&parts, &mut memory)).await {
            tracing::warn!(error = %chain(&error), "walks are put off");
            stop.run_until_cancelled(tokio::time::sleep(FAILURE_PAUSE)).await;
        }
    }
}

/// Whether this replica holds the lock that one of them has.
async fn lead(pool: &PgPool, held: &mut Option<PoolConnection<sqlx::Postgres>>) -> bool {
    if let Some(connection) = held {
        if sqlx::query("select 1").execute(&mut **connection).await.is_ok() {
            return true;
        }
        *held = None;
    }
    let Ok(mut connection) = pool.acquire().await else { return false };
    let locked = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('nxt-mirror schedule', 0))")
        .fetch_one(&mut *connection)
        .await;
    match locked {
        Ok(true) => {
            // Never back to the pool with the lock held: the session ends with it.
            connection.close_on_drop();
            *held = Some(connection);
            true
        }
        Ok(false) | Err(_) => false,
    }
}

/// What is remembered between rounds.
#[derive(Debug, Default)]
struct Memory {
    /// Tables that failed, and when.
    failed: HashMap<String, Instant>,
    /// Targets of the settings, and when they were found.
    chosen: Option<(Instant, Vec<Target>)>,
}

/// Walks whatever is due: first loads and slow walks, then sweeps.
async fn round(parts: &Parts, memory: &mut Memory) -> Result<(), WalkError> {
    memory.failed.retain(|_, since| since.elapsed() < FAILURE_PAUSE);
    for target in due(parts, memory, "load", parts.settings.walk_interval).await? {
        attempt(parts, memory, &target, "walk").await;
    }
    if let Some(interval) = parts.settings.sweep_interval {
        for target in due(parts, memory, "sweep", Some(interval)).await? {
            attempt(parts, memory, &target, "sweep").await;
        }
    }
    Ok(())
}

async fn attempt(parts: &Parts, memory: &mut Memory, target: &Target, what: &str) {
    let id = format!("{what} {target}");
    if memory.failed.contains_key(&id) {
        return;
    }
    let started = Instant::now();
    let result = match what {
        "sweep" => parts.loader.sweep(target).await,
        _ => parts.loader.load(target, |_| ()).await,
    };
    match result {
        Ok(0) => tracing::debug!(%target, what, "done, nothing had changed"),
        Ok(changed) => tracing::info!(%target, what, changed, seconds = started.elapsed().as_secs(), "done"),
        Err(error) => {
            if matches!(error, WalkError::Upstream(_) | WalkError::Denied(_)) {
                parts.catalog.forget().await;
            }
            tracing::warn!(%target, what, error = %chain(&error), "not finished, it goes on later");
            memory.failed.insert(id, Instant::now());
        }
    }
}

/// Tables whose walk of this purpose is due. Chosen tables are walked from the start; others hold what notifications
/// brought, and are swept and, once somebody has walked them, walked again.
async fn due(
    parts: &Parts,
    memory: &mut Memory,
    purpose: &str,
    interval: Option<Duration>,
) -> Result<Vec<Target>, WalkError> {
    let mut candidates = known(parts).await?;
    for target in chosen(parts, memory).await? {
        if !candidates.iter().any(|(own, _)| own.tenant == target.tenant && own.table.name == target.table.name) {
            candidates.push((target, true));
        }
    }
    let states = states(&parts.pool, purpose).await?;
    let mut due = vec![];
    for (target, chosen) in candidates {
        let state = states.get(&(target.tenant, target.table.name.as_str().to_ascii_lowercase())).copied();
        let old = |age: f64| interval.is_some_and(|interval| age >= interval.as_secs_f64());
        let is_due = match (purpose, state) {
            ("load", None) => chosen,
            ("load", Some((_, _, true))) => true,
            ("load", Some((false, ..))) => chosen,
            // A table that nothing has brought yet has nothing to sweep.
            (_, None) => false,
            (_, Some((_, age, _))) => old(age),
        };
        if is_due {
            due.push(target);
        }
    }
    Ok(due)
}

/// Whether a walk of this purpose has ever ended, the seconds since the last one did or since the table was first seen,
/// and whether one is under way.
type State = (bool, f64, bool);

/// The state of every table that holds something.
async fn states(pool: &PgPool, purpose: &str) -> Result<HashMap<(Tenant, String), State>, WalkError> {
    let rows: Vec<(String, i64, String, bool, f64, bool)> = sqlx::query_as(
        "select t.tenant_kind, t.tenant_no, lower(t.table_name), c.last_finished_at is not null,
                extract(epoch from clock_timestamp() - coalesce(c.last_finished_at, t.first_seen_at))::float8,
                c.started_at is not null and c.finished_at is null
           from nxt_mirror.mirrored_tenant t
           left join nxt_mirror.checkpoint c
                  on (c.tenant_kind, c.tenant_no, c.table_name, c.purpose)
                   = (t.tenant_kind, t.tenant_no, t.table_name, $1)",
    )
    .bind(purpose)
    .fetch_all(pool)
    .await?;
    let keyed = rows.into_iter().filter_map(|(kind, number, table, ended, age, under_way)| {
        Some(((Tenant::from_parts(&kind, number)?, table), (ended, age, under_way)))
    });
    Ok(keyed.collect())
}

/// The targets of the settings, looked up now and then.
async fn chosen(parts: &Parts, memory: &mut Memory) -> Result<Vec<Target>, WalkError> {
    if parts.settings.tables.is_empty() {
        return Ok(vec![]);
    }
    if let Some((found, targets)) = &memory.chosen
        && found.elapsed() < CHOSEN_FRESH
    {
        return Ok(targets.clone());
    }
    let (targets, unknown) = targets(&parts.upstream, &parts.catalog, &parts.settings, &Selection::default()).await?;
    for (table, error) in unknown {
        tracing::error!(row.table = %table, error = %chain(&error), "table of NXT_TABLES cannot be walked");
    }
    memory.chosen = Some((Instant::now(), targets.clone()));
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
