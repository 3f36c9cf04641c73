//! Measures a daemon as a process of its own, beside what the same machine's PostgreSQL does by itself in the same run.
//!
//! `cargo run --release -p nxt-bench` prints a summary; `docs/benchmark.md` explains the figures. Everything runs on
//! loopback, for a bounded time, with durable settings.

mod isolation;
mod recovery;
mod walks;

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_simulator::{Options, Owner};
use nxt_testkit::{Daemon, SECRET, Site, Wait, recreate, sign};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

const CONNECTIONS: usize = 64;
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
    /// Measure this alone
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Rows of the large table that is loaded
    #[arg(long, default_value_t = 1_000_000)]
    rows: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Receiving, and API requests a row
    Notifications,
    /// Loading and verifying whole tables
    Walks,
    /// Finding and mending damage beside live changes
    Repair,
    /// Latency beside damage, and a flood of deletions
    Isolation,
    /// Starts with a backlog, and kills
    Recovery,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut server = Some(EmbeddedPostgres::start(EmbeddedOptions::new(&args.data_dir)).await?);
    let mut result = measure(&args, server.as_ref().context("it has just started")?).await;
    if result.is_ok() && args.only.is_none_or(|only| only == Part::Recovery) {
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
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Notifications) {
        memory(server).await?;
        acknowledged(args, server).await?;
        economy(server).await?;
    }
    if wanted(Part::Walks) {
        walks::measure(server, args.rows).await?;
    }
    if wanted(Part::Repair) {
        walks::repair(server).await?;
    }
    if wanted(Part::Isolation) {
        isolation::measure(server).await?;
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
        let site = site(server, Options::default()).await?;
        let daemon = Daemon::start(&mut command(&site, &["serve", "--role", role]));
        let look = async || TcpStream::connect(&site.public).await.map(drop).map_err(|error| error.to_string());
        Wait::seconds(30).every_millis(50).until("the daemon listens", look).await?;
        Ok(Self { daemon, site })
    }

    /// Resident memory in MiB.
    fn resident(&self) -> anyhow::Result<f64> {
        resident(self.daemon.id().context("the daemon runs")?)
    }

    async fn settle(&self) -> anyhow::Result<()> {
        self.site.simulator.drain().await;
        SETTLE.for_settled(&self.site.pool).await?;
        Ok(())
    }
}

/// A fresh database and a simulator without the published example, for the program beside this one.
async fn site(server: &EmbeddedPostgres, options: Options) -> anyhow::Result<Site> {
    let program = std::env::current_exe()?.with_file_name("nxt-mirror");
    ensure!(program.is_file(), "there is no daemon; build it first: cargo build --release");
    recreate(&server.url("postgres"), DATABASE).await?;
    let options = Options { published_example: false, ..options };
    Ok(Site::new(program, options, server.url(DATABASE).expose_secret(), &[("NXT_LOG", "warn")]).await)
}

/// The program, silent unless something is wrong.
fn command(site: &Site, arguments: &[&str]) -> Command {
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

/// A request as bytes, for order `number`.
fn request(host: &str, number: u64) -> Vec<u8> {
    let body = json!({
        "tableIdentifier": "Order", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{ "OrderNo": number }], "timestamp": "2026-01-01T00:00:00.1234567Z",
        "changedByUser": "benchmark", "changedColumns": [{ "ChangedTimestamp": 20_260_101_000_000_123_i64 }],
    })
    .to_string();
    let signature = sign(SECRET, body.as_bytes());
    format!(
        "POST /webhooks/business-nxt HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nx-vwd-signature-v1: {signature}\r\nx-vwd-notification-id: b-{number}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Posts on `CONNECTIONS` connections until `count` are sent or the time is over; returns how many were accepted.
async fn post(host: &str, first: u64, count: u64, until: Instant) -> anyhow::Result<u64> {
    let tasks: Vec<_> = (0..CONNECTIONS as u64)
        .map(|lane| {
            let host = host.to_owned();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(&host).await?;
                stream.set_nodelay(true)?;
                let mut answer = vec![0; 4_096];
                let mut accepted = 0;
                for number in (lane..count).step_by(CONNECTIONS) {
                    if Instant::now() > until {
                        break;
                    }
                    stream.write_all(&request(&host, first + number)).await?;
                    let mut filled = 0;
                    // The answer's body ends with its only closing brace.
                    while !answer[..filled].ends_with(b"}") {
                        let read = stream.read(&mut answer[filled..]).await?;
                        ensure!(read > 0, "the connection was closed");
                        filled += read;
                    }
                    ensure!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer[..filled]));
                    accepted += 1;
                }
                Ok::<u64, anyhow::Error>(accepted)
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await??;
    }
    Ok(accepted)
}

async fn memory(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("resident memory, idle                         {:>8.1} MiB", bench.resident()?);
    drop(bench);
    let bench = Bench::start(server, "receiver").await?;
    post(&bench.site.public, 0, 50_000, Instant::now() + Duration::from_secs(120)).await?;
    println!("resident memory, after 50,000 queued          {:>8.1} MiB", bench.resident()?);
    Ok(())
}

async fn acknowledged(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "receiver").await?;
    let alone = pgbench(args, server).await?;
    let started = Instant::now();
    let until = started + Duration::from_secs(args.seconds);
    let accepted = post(&bench.site.public, 1_000_000, u64::MAX / 2, until).await?;
    let rate = accepted as f64 / started.elapsed().as_secs_f64();
    let again = pgbench(args, server).await?;
    let stored: i64 =
        sqlx::query_scalar("select count(*) from nxt_mirror.notification").fetch_one(&bench.site.pool).await?;
    ensure!(u64::try_from(stored)? == accepted, "{accepted} acknowledged, {stored} stored");
    println!("pgbench single-row INSERTs, 64 clients        {alone:>8.0} /s before, {again:.0} /s after");
    println!(
        "acknowledged notifications, 64 connections    {rate:>8.0} /s, ratio {:.2}; all {stored} stored",
        rate / ((alone + again) / 2.0)
    );
    Ok(())
}

/// Transactions a second of PostgreSQL alone, one row each.
async fn pgbench(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<f64> {
    let url = server.url(DATABASE);
    let pool = PgPool::connect(url.expose_secret()).await?;
    sqlx::query("create table if not exists bench_single (id bigserial primary key, body text not null)")
        .execute(&pool)
        .await?;
    let script = std::env::temp_dir().join(format!("nxt-mirror-bench-{}.sql", std::process::id()));
    std::fs::write(&script, format!("insert into bench_single (body) values ('{}');\n", "x".repeat(300)))?;
    let output = Command::new("pgbench")
        .args(["-n", "-c", "64", "-j", "2", "-M", "prepared", "-T", &args.seconds.to_string(), "-f"])
        .arg(&script)
        .arg(url.expose_secret())
        .output()
        .await
        .context("run pgbench")?;
    std::fs::remove_file(&script)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("tps")).with_context(|| format!("pgbench: {text}"))?;
    Ok(line.split_whitespace().nth(2).context("no number")?.parse()?)
}

fn order(number: i64, turn: i64) -> Map<String, Value> {
    let row = json!({ "orderNo": number, "name": format!("turn {turn}") });
    row.as_object().expect("an object").clone()
}

async fn economy(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    let owner = Owner::Company(2_000_001);
    let turns: Vec<_> = (0..5_000).map(|turn| order(turn % 50, turn)).collect();
    bench.site.simulator.put_all(owner, "Order", &turns, true)?;
    bench.settle().await?;
    report(&bench, "5,000 notifications of 50 rows", 50).await?;
    drop(bench);

    let bench = Bench::start(server, "all").await?;
    let mut rows = 0;
    for company in [2_000_001, 2_000_002] {
        for (table, key) in [("Order", "orderNo"), ("Batch", "batchNo"), ("GeneralLedgerAccount", "accountNo")] {
            let count = if rows + 1_667 > 10_000 { 10_000 - rows } else { 1_667 };
            let new: Vec<_> =
                (0..count).map(|number| Map::from_iter([(key.to_owned(), Value::from(number))])).collect();
            bench.site.simulator.put_all(Owner::Company(company), table, &new, true)?;
            rows += count;
        }
    }
    bench.settle().await?;
    report(&bench, "10,000 notifications of 10,000 rows", rows).await
}

async fn report(bench: &Bench, what: &str, rows: i64) -> anyhow::Result<()> {
    let comparison = bench.site.compare().await;
    ensure!(comparison.is_equal(), "{comparison}");
    let counters = bench.site.simulator.counters();
    println!(
        "{what:<45} {:>8} API requests, {:.1} a 1,000 rows, {} over a limit",
        counters.graphql_requests,
        counters.graphql_requests as f64 * 1_000.0 / rows as f64,
        counters.rate_violations + counters.in_flight_violations,
    );
    Ok(())
}
