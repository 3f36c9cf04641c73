//! `backfill`: walks tables into the mirror.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use futures_util::{StreamExt, stream};

use super::bench::{Bench, PATIENCE};
use crate::{
    cli::Targets,
    commands::progress::Display,
    domain::{TargetId, TargetTable},
    queue,
    telemetry::chain,
    walk::{self, Loaded, Loader, Marked, Order, TABLES_AT_ONCE, WalkError},
};

/// Walks tables into the mirror. Exit code 0 only if every one came to its end.
pub(in crate::commands) async fn backfill(config: Option<&Path>, targets: Targets) -> anyhow::Result<ExitCode> {
    let mut bench = Bench::open(config, targets).await?;
    bench.log(None, &format!("backfill{}", bench.scope())).await;
    let order = Order::begin(bench.pool(), &bench.targets).await?;
    if order.is_new() {
        bench.describe_anew().await?;
    }
    bench.report_unknown();
    let (display, loader) = (Display::new(), bench.loader());
    let walked: Vec<bool> = stream::iter(&bench.targets)
        .map(|target| load(&bench, &order, &loader, &display, target))
        .buffer_unordered(TABLES_AT_ONCE)
        .collect()
        .await;
    settle(&bench).await?;
    order.finish(bench.pool()).await?;
    let is_complete = bench.unknown.is_empty() && !walked.is_empty() && walked.iter().all(|done| *done);
    bench.close().await?;
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns whether every row of the table was walked.
async fn load(bench: &Bench, order: &Order, loader: &Loader, display: &Display, target: &TargetTable) -> bool {
    if matches!(order.has_done(bench.pool(), target.id).await, Ok(true)) {
        display.pausing(|| say!("{target}: walked before this load was interrupted"));
        return true;
    }
    let watch = display.watch(target);
    let result = loader.load(target, &watch.progress).await;
    let rows = watch.progress.walked();
    drop(watch);
    display.pausing(|| print(target, rows, &result));
    matches!(result, Ok(Loaded { skipped: 0, .. }))
}

fn print(target: &TargetTable, rows: u64, result: &Result<Loaded, WalkError>) {
    match result {
        Ok(Loaded { changed, skipped: 0 }) => say!("{target}: {rows} rows walked, {changed} new or different"),
        Ok(Loaded { changed, skipped }) => {
            say!("{target}: {rows} rows walked, {changed} new or different, {skipped} could not be read");
        }
        Err(error) => complain!("{target}: not finished after {rows} rows, {}", chain(error)),
    }
}

/// Works off the rows that were marked for a fetch by key: those that only the mirror has, for example.
async fn settle(bench: &Bench) -> anyhow::Result<()> {
    let moment = queue::status::now(bench.pool()).await?;
    let targets: Vec<TargetId> = bench.targets.iter().map(|target| target.id).collect();
    let marked = Marked { targets: &targets, keys: None, moment };
    let settled = walk::wait_until_settled(bench.pool(), marked, PATIENCE);
    let settled = bench.worker().run_while(settled).await;
    if !settled.context("wait for rows that were marked for a fetch by key")? {
        complain!("some rows that were marked for a fetch by key still wait; a running daemon works them off");
    }
    Ok(())
}
