//! `backfill` and `verify`.

use std::{path::Path, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use futures_util::{StreamExt, stream};
use nxt_embedded_postgres::EmbeddedPostgres;
use serde_json::json;
use tokio::sync::Notify;

use super::{database_url, progress::Display};
use crate::{
    app,
    cli::Targets,
    config::{MirrorSettings, Role, Settings, Source},
    database,
    domain::TableName,
    queue::QueueError,
    telemetry::{self, Metrics, chain},
    upstream::CatalogError,
    walk::{self, Loaded, Order, Repair, Report, Selection, TABLES_AT_ONCE, Target, WalkError},
    worker::{Parts, Worker},
};

/// How long a drain goes on while nothing moves.
const PATIENCE: Duration = Duration::from_secs(90);
/// Exit code of a comparison that could not be made.
const COULD_NOT_TELL: u8 = 2;

/// What both commands work with.
struct Bench {
    parts: Parts,
    targets: Vec<Target>,
    unknown: Vec<(TableName, CatalogError)>,
    server: Option<EmbeddedPostgres>,
    settings: MirrorSettings,
    selection: Selection,
}

type Found = (Vec<Target>, Vec<(TableName, CatalogError)>);

async fn find_targets(parts: &Parts, settings: &MirrorSettings, selection: &Selection) -> anyhow::Result<Found> {
    let found = walk::targets(&parts.upstream, &parts.catalog, settings, selection).await;
    found.context("find the tables and companies")
}

impl Bench {
    async fn open(config: Option<&Path>, targets: Targets) -> anyhow::Result<Self> {
        let mut settings = Settings::read(&Source::from_process(config)?, Role::Worker)?;
        telemetry::start(&settings.log);
        let tables = targets.table.into_iter().map(TableName::new).collect::<Result<Vec<_>, _>>().context("--table")?;
        let selection = Selection { tables, companies: targets.company };
        if selection.tables.is_empty() && settings.mirror.tables.is_empty() {
            anyhow::bail!("no table is named: give --table, or set NXT_TABLES");
        }
        // What is named here is mirrored, too, or rows of it that are looked at would be ignored.
        if !settings.mirror.tables.is_empty() {
            settings.mirror.tables.extend(selection.tables.iter().cloned());
        }
        let (url, server) = database_url(&settings.database).await?;
        let pool = database::connect(database::options(&url)?).await?;
        database::migrate(&pool).await?;
        let upstream = settings.upstream.as_ref().context("a worker has API settings")?;
        let metrics = Arc::new(Metrics::new());
        let parts = app::worker_parts(upstream, &settings.mirror, &pool, &metrics, &Arc::new(Notify::new())).await?;
        let (targets, unknown) = find_targets(&parts, &settings.mirror, &selection).await?;
        Ok(Self { parts, targets, unknown, server, settings: settings.mirror, selection })
    }

    /// Describes the tables anew: an earlier run did so, and this one shall see what has changed since.
    async fn describe_anew(&mut self) -> anyhow::Result<()> {
        self.parts.catalog.forget().await;
        (self.targets, self.unknown) = find_targets(&self.parts, &self.settings, &self.selection).await?;
        Ok(())
    }

    async fn close(self) -> anyhow::Result<()> {
        self.parts.pool.close().await;
        match self.server {
            Some(server) => Ok(server.stop().await?),
            None => Ok(()),
        }
    }

    fn report_unknown(&self) {
        for (table, error) in &self.unknown {
            eprintln!("{table}: skipped, {}", chain(error));
        }
    }
}

/// Walks tables into the mirror. Exit code 0 only if every one came to its end.
pub(super) async fn backfill(config: Option<&Path>, targets: Targets) -> anyhow::Result<ExitCode> {
    let mut bench = Bench::open(config, targets).await?;
    let order = Order::begin(&bench.parts.pool, &bench.targets).await?;
    if order.is_new() {
        bench.describe_anew().await?;
    }
    bench.report_unknown();
    let display = Display::new();
    let loader = bench.parts.loader();
    let pool = &bench.parts.pool;
    let walked: Vec<bool> = stream::iter(&bench.targets)
        .map(async |target| {
            if matches!(order.has_done(pool, target).await, Ok(true)) {
                display.pausing(|| println!("{target}: walked before this load was interrupted"));
                return true;
            }
            let watch = display.watch(target);
            let result = loader.load(target, &watch.progress).await;
            let rows = watch.progress.walked();
            drop(watch);
            display.pausing(|| match &result {
                Ok(Loaded { changed, skipped: 0 }) => {
                    println!("{target}: {rows} rows walked, {changed} new or different");
                }
                Ok(Loaded { changed, skipped }) => {
                    println!("{target}: {rows} rows walked, {changed} new or different, {skipped} could not be read");
                }
                Err(error) => eprintln!("{target}: not finished after {rows} rows, {}", chain(error)),
            });
            matches!(result, Ok(Loaded { skipped: 0, .. }))
        })
        .buffer_unordered(TABLES_AT_ONCE)
        .collect()
        .await;
    // Rows that only the mirror has were marked for a look.
    Worker::new(bench.parts.clone()).drain(PATIENCE).await.context("look at rows that only the mirror has")?;
    order.finish(pool).await?;
    let complete = bench.unknown.is_empty() && !walked.is_empty() && walked.iter().all(|done| *done);
    bench.close().await?;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compares tables. Exit code 0 equal (after a repair: nothing left different), 1 differences, 2 could not tell.
pub(super) async fn verify(
    config: Option<&Path>,
    targets: Targets,
    repair: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let opened = async {
        let mut bench = Bench::open(config, targets).await?;
        bench.describe_anew().await?;
        anyhow::Ok(bench)
    };
    let bench = match opened.await {
        Ok(bench) => bench,
        Err(error) => {
            eprintln!("nxt-mirror: {}", chain(&*error));
            return Ok(ExitCode::from(COULD_NOT_TELL));
        }
    };
    bench.report_unknown();
    let display = Display::new();
    let verifier = bench.parts.verifier();
    let mender = Mender(Worker::new(bench.parts.clone()));
    let repair: Option<&(dyn Repair + Sync)> = if repair { Some(&mender) } else { None };
    let verified: Vec<(usize, Result<Report, WalkError>)> = stream::iter(bench.targets.iter().enumerate())
        .map(|(index, target)| {
            let watch = display.watch(target);
            let verifier = &verifier;
            async move { (index, verifier.verify(target, &watch.progress, repair).await) }
        })
        .buffer_unordered(TABLES_AT_ONCE)
        .collect()
        .await;
    let (mut reports, mut failures) = (vec![], vec![]);
    for (index, result) in verified {
        match result {
            Ok(report) => reports.push(report),
            Err(error) => failures.push((bench.targets[index].to_string(), error)),
        }
    }
    reports.sort_by(|one, other| (&one.tenant, &one.table).cmp(&(&other.tenant, &other.table)));
    if as_json {
        println!("{}", document(&reports, &failures, &bench.unknown));
    } else {
        print(&reports, &failures);
    }
    let unreadable = reports.iter().any(|report| report.unreadable > 0);
    let could_not_tell = !failures.is_empty() || !bench.unknown.is_empty() || reports.is_empty() || unreadable;
    let left = reports.iter().any(|report| report.left > 0);
    bench.close().await?;
    Ok(match (left, could_not_tell) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(COULD_NOT_TELL),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn print(reports: &[Report], failures: &[(String, WalkError)]) {
    for report in reports {
        let Report { tenant, table, rows_compared, differences, repaired, left, unreadable, .. } = report;
        println!(
            "{table} of {tenant}: {rows_compared} rows compared, {} differences, {repaired} repaired, {left} left",
            differences.len()
        );
        if *unreadable > 0 {
            println!("  {unreadable} rows could not be read");
        }
        for (key, difference) in differences {
            match difference {
                walk::Difference::Missing => println!("  {key}: missing in the mirror"),
                walk::Difference::Extra => println!("  {key}: only in the mirror"),
                walk::Difference::Different { columns } => println!("  {key}: different in {}", columns.join(", ")),
            }
        }
    }
    for (target, error) in failures {
        eprintln!("{target}: could not be compared, {}", chain(error));
    }
}

fn document(
    reports: &[Report],
    failures: &[(String, WalkError)],
    unknown: &[(TableName, CatalogError)],
) -> serde_json::Value {
    let failed = failures.iter().map(|(target, error)| json!({ "target": target, "error": chain(error).to_string() }));
    let unknown = unknown.iter().map(|(table, error)| json!({ "target": table, "error": error.to_string() }));
    let equal = failures.is_empty()
        && !reports.is_empty()
        && reports.iter().all(|report| report.left == 0 && report.unreadable == 0);
    json!({ "equal": equal, "tables": reports, "failures": failed.chain(unknown).collect::<Vec<_>>() })
}

/// Repairs by working off the queue.
struct Mender(Worker);

impl Repair for Mender {
    fn repair(&self) -> Pin<Box<dyn Future<Output = Result<(), QueueError>> + Send + '_>> {
        Box::pin(self.0.drain(PATIENCE))
    }
}
