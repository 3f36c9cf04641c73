//! Measures a daemon as a process of its own, beside what the same machine's PostgreSQL does by itself in the same run.
//!
//! `cargo run --release -p nxt-bench` prints a summary; `docs/benchmark.md` explains the figures. Everything runs on
//! loopback, for a bounded time, with durable settings.

mod applying;
mod economy;
mod figures;
mod guard;
mod isolation;
mod latency;
mod load;
mod month_end;
mod pages;
mod queue;
mod receiving;
mod recovery;
mod scale;
mod unstored;
mod walks;

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_simulator::Options;
use nxt_testkit::{Daemon, Site, Wait, recreate};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;

use load::Requests;

const SETTLE: Wait = Wait::seconds(180).every_millis(100);
const DATABASE: &str = "bench";

#[derive(Parser)]
struct Args {
    /// Seconds of each measurement of a rate
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Folder of the database, made anew
    #[arg(long, default_value = "./nxt-data/bench")]
    data_dir: PathBuf,
    /// Measure these alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rows of the large table that is loaded
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
    /// Minutes for which an old snapshot is held
    #[arg(long, default_value_t = 0.5)]
    snapshot_minutes: f64,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Measure ratios for a few minutes and fail if one has fallen far below a baseline
    Guard(guard::Args),
    /// Measure the same work beside few and beside very many targets, rows and ledger entries
    Scale(scale::Args),
    /// Receives notifications and stores nothing
    #[command(hide = true)]
    Unstored {
        /// Where it listens
        address: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Memory, acknowledged notifications a second, and their bytes
    Receiving,
    /// A flood on a daemon that works, beside an old snapshot and without
    Snapshot,
    /// Folding and claiming beside many dirty rows
    Queue,
    /// Rows applied out of a backlog, with and without indexes and history
    Applying,
    /// From a change to the mirror
    Latency,
    /// A million changes in ten minutes beside reports
    MonthEnd,
    /// API requests a row
    Economy,
    /// CPU and memory at 500 changes a second, without and with 20 open pages
    Pages,
    /// Loading and verifying whole tables
    Walks,
    /// Finding and mending damage beside live changes
    Repair,
    /// Latency beside damage
    Isolation,
    /// A flood of deletions
    Deletions,
    /// Starts with a backlog, and kills
    Recovery,
}

impl Args {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(Command::Unstored { address }) = &args.command {
        return unstored::serve(address).await;
    }
    let mut server = Some(EmbeddedPostgres::start(EmbeddedOptions::new(&args.data_dir)).await?);
    let mut result = measure(&args, server.as_ref().context("it has just started")?).await;
    if result.is_ok() && args.command.is_none() && args.wants(Part::Recovery) {
        result = recovery::measure(&mut server, restart(&args)).await;
    }
    if let Some(server) = server {
        server.stop().await?;
    }
    result
}

/// Starts the server again after it was killed; its children need a moment to notice.
fn restart(args: &Args) -> impl AsyncFn() -> anyhow::Result<EmbeddedPostgres> {
    async || {
        for _ in 0..100 {
            if let Ok(server) = EmbeddedPostgres::start(EmbeddedOptions::new(&args.data_dir)).await {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the server does not come back")
    }
}

async fn measure(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    match &args.command {
        Some(Command::Guard(guard)) => return guard::run(guard, server).await,
        Some(Command::Scale(large)) => return scale::measure(server, *large).await,
        Some(Command::Unstored { .. }) | None => {}
    }
    if args.wants(Part::Receiving) {
        memory(server).await?;
        receiving::measure(args, server).await?;
    }
    if args.wants(Part::Snapshot) {
        receiving::snapshot(args, server).await?;
    }
    if args.wants(Part::Queue) {
        queue::measure(server).await?;
    }
    if args.wants(Part::Applying) {
        applying::measure(server).await?;
    }
    if args.wants(Part::Latency) {
        latency::measure(server).await?;
    }
    if args.wants(Part::MonthEnd) {
        month_end::measure(server).await?;
    }
    if args.wants(Part::Economy) {
        economy::measure(server).await?;
    }
    if args.wants(Part::Pages) {
        pages::measure(args, server).await?;
    }
    if args.wants(Part::Walks) {
        walks::measure(server, args.rows).await?;
    }
    if args.wants(Part::Repair) {
        walks::repair(server).await?;
    }
    if args.wants(Part::Isolation) {
        isolation::poison(server).await?;
    }
    if args.wants(Part::Deletions) {
        isolation::flood(server).await?;
    }
    Ok(())
}

/// A fresh database and a daemon on it.
struct Bench {
    daemon: Daemon,
    site: Site,
}

impl Bench {
    async fn start(server: &EmbeddedPostgres, role: &str) -> anyhow::Result<Self> {
        Self::start_with(server, role, Options::default()).await
    }

    async fn start_with(server: &EmbeddedPostgres, role: &str, options: Options) -> anyhow::Result<Self> {
        let site = site(server, options).await?;
        let daemon = Daemon::start(&mut command(&site, &["serve", "--role", role]));
        wait_until_it_listens(&site).await?;
        Ok(Self { daemon, site })
    }

    /// Resident memory in MiB.
    fn resident(&self) -> anyhow::Result<f64> {
        resident(self.daemon.id().context("the daemon runs")?)
    }

    async fn settle(&self) -> anyhow::Result<()> {
        settle(&self.site).await
    }
}

async fn settle(site: &Site) -> anyhow::Result<()> {
    site.simulator.drain().await;
    SETTLE.for_settled(&site.pool).await?;
    Ok(())
}

async fn wait_until_it_listens(site: &Site) -> anyhow::Result<()> {
    let look = async || TcpStream::connect(&site.public).await.map(drop).map_err(|error| error.to_string());
    Wait::seconds(30).every_millis(50).until("the daemon listens", look).await?;
    Ok(())
}

/// A fresh database and a simulator without the published example, for the program beside this one.
async fn site(server: &EmbeddedPostgres, options: Options) -> anyhow::Result<Site> {
    site_of(server, DATABASE, options).await
}

async fn site_of(server: &EmbeddedPostgres, database: &str, options: Options) -> anyhow::Result<Site> {
    let program = std::env::current_exe()?.with_file_name("nxt-mirror");
    ensure!(program.is_file(), "there is no daemon; build it first: cargo build --release");
    recreate(&server.url("postgres"), database).await?;
    let options = Options { published_example: false, ..options };
    Ok(Site::new(program, options, server.url(database).expose_secret(), &[("NXT_LOG", "warn")]).await)
}

/// The program, silent unless something is wrong.
fn command(site: &Site, arguments: &[&str]) -> tokio::process::Command {
    let mut command = site.command(arguments);
    command.stdout(Stdio::null());
    command
}

/// Resident memory of a process in MiB.
fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1_024.0)
}

async fn memory(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    const QUEUED: u64 = 50_000;
    let bench = Bench::start(server, "all").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("resident memory, idle                         {:>8.1} MiB", bench.resident()?);
    drop(bench);
    let bench = Bench::start(server, "receiver").await?;
    load::post(&bench.site.public, &Requests::orders(0..QUEUED), QUEUED, Instant::now() + Duration::from_secs(120))
        .await?;
    println!("resident memory, after 50,000 queued          {:>8.1} MiB", bench.resident()?);
    Ok(())
}
