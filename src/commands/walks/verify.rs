//! `verify`: compares tables with their sources.

use std::{path::Path, process::ExitCode};

use futures_util::{StreamExt, stream};
use serde::Serialize;

use super::bench::Bench;
use crate::{
    cli::Targets,
    commands::progress::Display,
    domain::{TableName, TargetTable, Tenant},
    telemetry::chain,
    walk::{Difference, Differing, Repair, Report, TABLES_AT_ONCE, Unreachable, Verifier, WalkError},
};

/// Exit code of a comparison that could not be made.
const COULD_NOT_TELL: u8 = 2;

type Verified = (TargetTable, Result<Report, WalkError>);

/// Compares tables. Exit code 0 equal (after a repair: nothing left different), 1 differences, 2 could not tell.
pub(in crate::commands) async fn verify(
    config: Option<&Path>,
    targets: Targets,
    is_repairing: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let bench = match open(config, targets).await {
        Ok(bench) => bench,
        Err(error) => {
            let reason = chain(&*error).to_string();
            complain!("nxt-mirror: {reason}");
            if as_json {
                say!("{}", serde_json::to_string(&Document::nothing(reason))?);
            }
            return Ok(ExitCode::from(COULD_NOT_TELL));
        }
    };
    let repair = if is_repairing { " with repair" } else { "" };
    bench.log(None, &format!("verify{}{repair}", bench.scope())).await;
    let (verifier, display) = (bench.verifier(), Display::new());
    let verified = match is_repairing {
        true => bench.worker().run_while(verify_all(&bench, &verifier, &display, Repair::ByWorkers)).await,
        false => verify_all(&bench, &verifier, &display, Repair::None).await,
    };
    let document = Document::new(verified, &bench.unknown);
    document.print_failures();
    if as_json {
        say!("{}", serde_json::to_string(&document)?);
    } else {
        document.print();
    }
    bench.close().await?;
    Ok(document.exit_code())
}

async fn open(config: Option<&Path>, targets: Targets) -> anyhow::Result<Bench> {
    let mut bench = Bench::open(config, targets).await?;
    bench.describe_anew().await?;
    Ok(bench)
}

async fn verify_all(bench: &Bench, verifier: &Verifier, display: &Display, repair: Repair) -> Vec<Verified> {
    stream::iter(&bench.targets)
        .map(async |target| {
            let watch = display.watch(target);
            let result = verifier.verify(target, &watch.progress, repair).await;
            let what = match &result {
                Ok(report) => format!("verify: {}", report.summary()),
                Err(error) => format!("verify: could not be compared, {}", chain(error)),
            };
            bench.log(Some(target.id), &what).await;
            (target.clone(), result)
        })
        .buffer_unordered(TABLES_AT_ONCE)
        .collect()
        .await
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Document {
    equal: bool,
    tables: Vec<Report>,
    failures: Vec<Failure>,
}

/// What could not be compared: one table, or, without its name, all of them.
#[derive(Debug, Serialize)]
struct Failure {
    company_no: Option<i64>,
    customer_no: Option<i64>,
    table: Option<TableName>,
    error: String,
}

impl Document {
    fn new(verified: Vec<Verified>, unknown: &[Unreachable]) -> Self {
        let (mut tables, mut failures) = (vec![], vec![]);
        for (target, result) in verified {
            match result {
                Ok(report) => tables.push(report),
                Err(error) => failures.push(Failure::new(&target.table.name, Some(target.tenant), &error)),
            }
        }
        failures.extend(unknown.iter().map(|part| Failure::new(&part.table, part.tenant, &part.error)));
        tables.sort_by(|one, other| one.place().cmp(&other.place()));
        let equal = failures.is_empty() && !tables.is_empty() && tables.iter().all(Report::is_equal);
        Self { equal, tables, failures }
    }

    /// Nothing could be compared at all.
    fn nothing(error: String) -> Self {
        let failure = Failure { company_no: None, customer_no: None, table: None, error };
        Self { equal: false, tables: vec![], failures: vec![failure] }
    }

    fn exit_code(&self) -> ExitCode {
        let has_left = self.tables.iter().any(|report| report.left > 0);
        match (has_left, self.equal) {
            (true, _) => ExitCode::FAILURE,
            (false, false) => ExitCode::from(COULD_NOT_TELL),
            (false, true) => ExitCode::SUCCESS,
        }
    }

    fn print(&self) {
        self.tables.iter().for_each(print);
    }

    fn print_failures(&self) {
        for failure in &self.failures {
            complain!("{}: could not be compared, {}", failure.name(), failure.error);
        }
    }
}

impl Failure {
    fn new(table: &TableName, tenant: Option<Tenant>, error: &WalkError) -> Self {
        let (company_no, customer_no) = tenant.map(Tenant::columns).unwrap_or_default();
        Self { company_no, customer_no, table: Some(table.clone()), error: chain(error).to_string() }
    }

    fn tenant(&self) -> Option<Tenant> {
        Tenant::from_columns(self.company_no, self.customer_no)
    }

    fn name(&self) -> String {
        let table = self.table.as_ref().map_or("all tables", TableName::as_str);
        match self.tenant() {
            Some(tenant) => format!("{table} of {tenant}"),
            None => table.to_owned(),
        }
    }
}

fn print(report: &Report) {
    let Report { differences, unreadable, unreadable_rows, .. } = report;
    say!("{}: {}", report.name(), report.summary());
    if *unreadable > 0 {
        say!("  {unreadable} rows could not be compared");
    }
    for row in unreadable_rows {
        say!("  {}: {}", row.key, row.reason);
    }
    for Differing { key, difference } in differences {
        match difference {
            Difference::Missing => say!("  {key}: missing in the mirror"),
            Difference::Extra => say!("  {key}: only in the mirror"),
            Difference::Different { columns } => say!("  {key}: different in {}", columns.join(", ")),
        }
    }
}
