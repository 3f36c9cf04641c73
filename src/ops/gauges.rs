//! Gauges that are read from the database when they are asked for, so that they are never older than the question.

use sqlx::PgPool;

use crate::{
    clocks,
    queue::{self, status},
    telemetry::Metrics,
    upstream::{self, Outage},
};

/// States that a target can have; each is shown, at zero, too.
const STATES: [&str; 3] = ["current", "catching up", "degraded"];

/// Reads them. What cannot be read keeps its last figure, and `database_up` says so.
pub(super) async fn refresh(pool: &PgPool, metrics: &Metrics) {
    let done = read(pool, metrics).await;
    metrics.database_up.set(done.is_ok().into());
    if let Err(error) = done {
        tracing::warn!(%error, "gauges are not refreshed");
    }
}

async fn read(pool: &PgPool, metrics: &Metrics) -> anyhow::Result<()> {
    let backlog = status::backlog(pool).await?;
    metrics.backlog_rows.set(backlog.rows);
    metrics.lag.set(backlog.lag_seconds);
    let letters = queue::dead_letter::count(pool).await?;
    metrics.dead_letters.with_label_values(&["body"]).set(letters.bodies);
    metrics.dead_letters.with_label_values(&["row"]).set(letters.rows);
    metrics.silent_tables.set(status::silent_targets(pool).await?);
    let targets = status::targets_by_state(pool).await?;
    for state in STATES {
        let targets = targets.iter().find(|counted| counted.state == state).map_or(0, |counted| counted.targets);
        metrics.targets.with_label_values(&[state]).set(targets);
    }
    metrics.differences.set(targets.iter().map(|counted| counted.differences).sum());
    let usage = upstream::usage(pool).await?;
    metrics.budget_used.set(usage.total().into());
    metrics.api_away.set(Outage::current(pool).await?.is_some().into());
    let clocks = clocks::evidence(pool).await?;
    metrics.source_zone_shift_seconds.set(clocks.zone_shift.unwrap_or_default().num_seconds());
    metrics.notification_delay_seconds.set(clocks.delay.unwrap_or_default().num_seconds());
    Ok(())
}
