//! `doctor`: checks everything that has to be right outside the daemon, and says what to do about what is not.

mod address;
mod database;
mod findings;

use std::{path::Path, process::ExitCode, sync::Arc};

use sqlx::PgPool;
use tokio::sync::Notify;
use url::Url;

use findings::Findings;

use super::{
    own_server::connector,
    subscriptions::{Comparison, Line, State},
};
use crate::{
    app,
    cli::DoctorArgs,
    clocks,
    config::{Role, Settings, Source},
    database::{connect, is_current},
    queue::status,
    telemetry::{self, Metrics, chain},
    walk::{self, Selection},
    worker::Parts,
};

/// Beyond this the log of this machine misleads whoever reads it beside the database's.
const CLOCK_DIFFERENCE_MAX: chrono::Duration = chrono::Duration::seconds(30);

/// Exit code 0 only if there is no problem.
pub(super) async fn doctor(config: Option<&Path>, args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    examine(config, args.public_url.as_ref(), &mut findings).await?;
    let code = if findings.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        say!("{}", serde_json::to_string(&findings.in_order())?);
    } else {
        findings.print();
    }
    Ok(code)
}

async fn examine(config: Option<&Path>, public: Option<&Url>, findings: &mut Findings) -> anyhow::Result<()> {
    let source = Source::from_process(config)?;
    let settings = match Settings::read(&source, Role::All) {
        Ok(settings) => settings,
        Err(error) => {
            findings.problem("settings", error, "correct the setting it names; .env.example explains each");
            return Ok(());
        }
    };
    telemetry::start(&settings.log);
    findings.fine("settings", "complete");
    let (connector, server) = match connector(&settings.database).await {
        Ok(found) => found,
        Err(error) => {
            findings.problem("database", chain(&*error), "install a PostgreSQL server or set DATABASE_URL");
            return Ok(());
        }
    };
    let pool = match connect(&connector).await {
        Ok(pool) => pool,
        Err(error) => {
            findings.problem("database", chain(&error), "check DATABASE_URL and that the server accepts connections");
            return Ok(());
        }
    };
    match is_current(&pool).await {
        Ok(true) => {
            findings.fine("database", "answers and is up to date");
            database::environment(&settings.database, &pool, findings).await;
            database::narrow_columns(&settings.mirror, &pool, findings).await;
            api(&settings, &pool, findings).await?;
            if let (Some(public), Some(webhook)) = (public, &settings.webhook) {
                address::try_out(public, webhook, &pool, findings).await;
            }
            targets(&pool, findings).await?;
            time(&pool, findings).await?;
        }
        Ok(false) => findings.problem("database", "migrations are not done", "run nxt-mirror migrate"),
        Err(error) => findings.problem("database", error, "check the server's log"),
    }
    pool.close().await;
    if let Some(server) = server {
        server.stop().await?;
    }
    Ok(())
}

async fn api(settings: &Settings, pool: &PgPool, findings: &mut Findings) -> anyhow::Result<()> {
    let Some(upstream) = &settings.upstream else { return Ok(()) };
    let metrics = Arc::new(Metrics::new());
    let parts = app::worker_parts(upstream, &settings.mirror, pool, &metrics, &Arc::new(Notify::new())).await?;
    if let Err(error) = parts.upstream.probe().await {
        findings.problem(
            "API",
            chain(&error),
            "check NXT_CLIENT_ID, NXT_CLIENT_SECRET and NXT_SCOPE, and that the API integration is approved",
        );
        return Ok(());
    }
    findings.fine("API", "gives a token and answers");
    match parts.upstream.available_companies().await {
        Ok(companies) if companies.is_empty() => findings.problem(
            "companies",
            "the service may see none",
            "add rows to Connect Application Access in Business NXT for the user named as the client id",
        ),
        Ok(companies) => {
            let numbers: Vec<_> = companies.iter().map(|company| company.company_no.to_string()).collect();
            findings.fine("companies", numbers.join(", "));
        }
        Err(error) => findings.problem("companies", chain(&error), "see the API's error"),
    }
    tables(settings, &parts, findings).await;
    let comparison = Comparison {
        upstream: &parts.upstream,
        pool: Some(pool),
        client_id: &upstream.client_id,
        mirror: &settings.mirror,
    };
    let compared = subscriptions(&comparison, pool, findings).await;
    app::leave(&parts.queue, parts.me).await;
    compared
}

async fn tables(settings: &Settings, parts: &Parts, findings: &mut Findings) {
    match walk::targets(&parts.pool, &parts.upstream, &parts.catalogue, &settings.mirror, &Selection::default()).await {
        Ok((targets, unknown)) => {
            for part in unknown {
                let advice = "correct NXT_TABLES, or tell the key in NXT_KEYS as the line says";
                findings.problem(&format!("table {part}"), chain(&part.error), advice);
            }
            if !targets.is_empty() {
                findings.fine("tables", format_args!("{} to walk", targets.len()));
            }
        }
        Err(error) => findings.problem("tables", chain(&error), "see the API's error"),
    }
}

/// What recent notifications tell of the source's clock and zone, and whether the daemon's log is dated right.
async fn time(pool: &PgPool, findings: &mut Findings) -> anyhow::Result<()> {
    let evidence = clocks::evidence(pool).await?;
    for finding in evidence.findings() {
        findings.problem("time", finding, finding.advice());
    }
    match (evidence.findings().is_empty(), evidence.dated_rows) {
        (true, 0) => findings.fine("time", "no notification has told a change time yet"),
        (true, rows) => findings.fine("time", format_args!("change times agree with {rows} notifications")),
        (false, _) => {}
    }
    let difference = clocks::of_this_machine() - status::now(pool).await?;
    if difference.abs() > CLOCK_DIFFERENCE_MAX {
        findings.warning(
            "clock",
            format_args!("this machine's is {:.1} min from the database's", difference.as_seconds_f64() / 60.0),
            "nothing is decided by it, but log lines are dated wrong: set it by a time service",
        );
    }
    Ok(())
}

/// Targets that cannot be asked or written now, and why; and those of which rows are set aside.
async fn targets(pool: &PgPool, findings: &mut Findings) -> anyhow::Result<()> {
    for target in status::freshness(pool).await? {
        let what = format!("{} of {}", target.table, target.tenant_name());
        // That the API is away was found before.
        if let Some(because) = target.paused_because.as_ref().filter(|_| target.paused_until.is_some()) {
            findings.problem(&what, because, "it is tried again ever more rarely; mend what the line names");
        } else if target.dead_letters > 0 {
            let advice = "see nxt-mirror dead-letters list; retry them when what each names is mended";
            findings.problem(&what, format_args!("{} rows are set aside", target.dead_letters), advice);
        }
    }
    Ok(())
}

/// Tables of which notifications are missing. Where the subscriptions cannot be read, notifications that have come tell
/// that there is one.
async fn subscriptions(comparison: &Comparison<'_>, pool: &PgPool, findings: &mut Findings) -> anyhow::Result<()> {
    let lines = match comparison.lines(&Selection::default()).await {
        Ok(lines) => lines,
        Err(error) => {
            findings.problem("subscriptions", chain(&*error), "see the API's error");
            return Ok(());
        }
    };
    let targets = status::freshness(pool).await?;
    let has_spoken = |line: &Line| {
        let mut own = targets.iter().filter(|target| line.is_of(target));
        own.any(|target| target.last_notified_at.is_some() || target.backlog > 0)
    };
    let mut fine = 0;
    for line in &lines {
        let advice = match line.state {
            State::Ok => None,
            State::Unreadable if has_spoken(line) => None,
            State::Missing | State::Filtered => Some("until then, sweeps find changes late and walks deletions"),
            State::Unreadable => Some("no notification of it has come either; see nxt-mirror subscriptions"),
        };
        match advice {
            None => fine += 1,
            Some(advice) => {
                let what = format!("subscription of {} of {}", line.table(), line.tenant());
                findings.problem(&what, line.note.as_deref().unwrap_or_default(), advice);
            }
        }
    }
    findings.fine("subscriptions", format_args!("notifications come of {fine} of {} tables of companies", lines.len()));
    Ok(())
}
