//! The subcommands, each a thin layer over the parts that do the work.

mod asker;
mod colour;
mod doctor;
mod grant;
mod init;
mod logs;
mod manual;
mod operate;
mod own_server;
mod progress;
mod schema;
mod status;
mod subscriptions;
mod walks;

use std::{net::SocketAddr, path::Path, process::ExitCode, time::Duration};

use anyhow::Context;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use own_server::{Kept, connector};

use crate::{
    app::App,
    cli::{Cli, Command},
    config::{ConfigError, DatabaseSettings, LogSettings, OpsSettings, Role, Settings, Source},
    database::{self, Connector, DatabaseError},
    demo,
    domain::table::BadTableName,
    output, shutdown,
    telemetry::{self, Traces},
};

/// How long the daemon may take to answer a health check.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code of wrong settings and of a command line that asks for nothing that can be done.
const USAGE: u8 = 2;

/// A command line that clap takes and that still says too little, or something that makes no sense.
#[derive(Debug, Error)]
#[error("{0}")]
struct Usage(String);

/// Runs a subcommand to its end. An error is one line on standard error, with its causes; the code is the process's own.
///
/// The runtime is here and not in the program: what is polled nowhere in the library would be compiled by each program
/// that uses it.
pub fn main(cli: Cli) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complaint(format_args!("nxt-mirror: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(output::while_written(run_and_tell(cli)))
}

async fn run_and_tell(cli: Cli) -> ExitCode {
    // What is said again and again is told in between, and at the end.
    let result = tokio::select! {
        result = run(cli) => result,
        () = telemetry::tell_repeats() => unreachable!("it never ends"),
    };
    telemetry::tell_last_repeats();
    match result {
        Ok(code) => code,
        Err(error) => {
            output::complaint(format_args!("nxt-mirror: {}", telemetry::chain(&*error)));
            exit_code(&error)
        }
    }
}

/// The exit code of a command that ended with an error: 2 if it was asked wrongly, else 1.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ConfigError>()
            || cause.is::<Usage>()
            || cause.is::<BadTableName>()
            || cause.downcast_ref().is_some_and(DatabaseError::is_wrong_address)
    };
    match error.chain().any(is_usage) {
        true => ExitCode::from(USAGE),
        false => ExitCode::FAILURE,
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Init(args) => init::init(config, args).await,
        Command::Serve { role } => serve(config, role).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Simulate(args) => {
            telemetry::start(&LogSettings::read(&Source::from_process(config)?)?);
            nxt_simulator::run(args, shutdown::on_signal()?, |line| say!("{line}")).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Migrate => migrate(config).await,
        Command::Backfill(targets) => walks::backfill(config, targets).await,
        Command::Verify { targets, repair, json } => walks::verify(config, targets, repair, json).await,
        Command::Status { json } => status::status(config, json).await,
        Command::Logs(args) => logs::logs(config, args).await,
        Command::DeadLetters { command } => operate::dead_letters(config, command).await,
        Command::Subscriptions { targets, json } => subscriptions::subscriptions(config, targets, json).await,
        Command::Schema { format } => schema::schema(config, format).await,
        Command::Grant { role, company } => grant::grant(config, &role, &company).await,
        Command::Replay(args) => operate::replay(config, args).await,
        Command::Explain { table, key, company, json } => operate::explain(config, table, key, company, json).await,
        Command::Doctor(args) => doctor::doctor(config, args).await,
        Command::Completions { shell, folder } => manual::completions(shell, &folder),
        Command::Man { folder } => manual::pages(&folder),
        Command::Healthcheck => healthcheck(config).await,
    }
}

async fn serve(config: Option<&Path>, role: Role) -> anyhow::Result<ExitCode> {
    let settings = Settings::read(&Source::from_process(config)?, role)?;
    let traces = Traces::start(&settings.log)?;
    let result = keep_serving(&settings).await;
    traces.finish().await;
    result.map(|()| ExitCode::SUCCESS)
}

/// Serves on a database that is there, or on one of its own.
async fn keep_serving(settings: &Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let (connector, server) = connector(&settings.database).await?;
    let kept = server.map(|server| Kept::start(server, stop.clone()));
    let result = run_daemon(settings, connector, stop).await;
    if let Some(kept) = kept {
        kept.finish().await?;
    }
    result
}

async fn run_daemon(settings: &Settings, connector: Connector, stop: CancellationToken) -> anyhow::Result<()> {
    let app = App::build(settings, connector).await?;
    match app.public_address() {
        Some(public) => tracing::info!(%public, ops = %app.ops_address(), "serving"),
        None => tracing::info!(ops = %app.ops_address(), "working"),
    }
    app.run(stop).await
}

async fn migrate(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let source = Source::from_process(config)?;
    let settings = DatabaseSettings::read(&source)?;
    telemetry::start(&LogSettings::read(&source)?);
    let (connector, server) = connector(&settings).await?;
    let pool = database::connect(&connector).await?;
    database::migrate(&pool).await?;
    say!("the database is up to date");
    pool.close().await;
    if let Some(server) = server {
        server.stop().await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the daemon's own listener for readiness. Spoken by hand, because a health check runs every few seconds and a
/// whole HTTP client costs more than the question.
async fn healthcheck(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let settings = OpsSettings::read(&Source::from_process(config)?)?;
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(HEALTH_TIMEOUT, ask)
        .await
        .with_context(|| format!("{address} did not answer"))?
        .with_context(|| format!("ask {address}"))?;
    let first = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    if first.split_whitespace().nth(1) == Some("200") {
        say!("ready");
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("not ready: {first}")
}
