//! What is acknowledged a second, beside what the same machine does without storing and PostgreSQL without us; what a
//! notification takes on disk; and what becomes of it all while somebody holds an old snapshot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::Wait;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use tokio::process::Command;

use super::{
    Args, Bench, DATABASE,
    figures::{median, ratio},
    load::{self, Requests},
    unstored::Unstored,
};

/// Turns of each rate; the machine is shared, and its pace changes from one minute to the next.
const ROUNDS: usize = 5;
/// Different notifications of a burst.
const ROWS: u64 = 60_000;
/// Notifications of a burst whose size is measured.
const SIZED: u64 = 300_000;
/// Different rows while a snapshot is held: few enough for the request budget to keep up with them.
const ROWS_BESIDE_SNAPSHOT: u64 = 30_000;
/// How long a flood goes on before it is measured.
const WARM_UP: Duration = Duration::from_secs(3);
const ENDLESS: u64 = u64::MAX / 2;

pub(super) async fn measure(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    rates(args, server).await?;
    sizes(server).await
}

/// The rates in turn, so that a slow minute of the machine meets all of them.
async fn rates(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let mut rates = Rates::new(server).await?;
    let time = Duration::from_secs(args.seconds);
    let mut inserts = vec![];
    for _ in 0..ROUNDS {
        rates.turn(time).await?;
        inserts.push(pgbench(args, server).await?);
    }
    let total = rates.check().await?;
    let Rates { stored, bare, .. } = rates;
    println!(
        "acknowledged notifications, {} connections    {:>8.0} /s, median of {ROUNDS}; all {total} stored",
        load::CONNECTIONS,
        median(&stored),
    );
    println!(
        "the same handler, which stores nothing        {:>8.0} /s, share {}",
        median(&bare),
        ratio(&stored, &bare)
    );
    println!(
        "pgbench single-row INSERTs, 64 clients        {:>8.0} /s, ratio {}",
        median(&inserts),
        ratio(&stored, &inserts)
    );
    Ok(())
}

/// A receiver beside a handler that stores nothing, and the notifications that each acknowledged a second, turn by turn.
pub(super) struct Rates {
    bench: Bench,
    unstored: Unstored,
    requests: Requests,
    accepted: u64,
    pub(super) stored: Vec<f64>,
    pub(super) bare: Vec<f64>,
}

impl Rates {
    pub(super) async fn new(server: &EmbeddedPostgres) -> anyhow::Result<Self> {
        let (bench, unstored) = (Bench::start(server, "receiver").await?, Unstored::start().await?);
        Ok(Self { bench, unstored, requests: Requests::mixed(ROWS), accepted: 0, stored: vec![], bare: vec![] })
    }

    pub(super) async fn turn(&mut self, time: Duration) -> anyhow::Result<()> {
        let run = burst(&self.bench.site.public, &self.requests, time).await?;
        self.accepted += run.accepted;
        self.stored.push(run.rate);
        self.bare.push(burst(&self.unstored.address, &self.requests, time).await?.rate);
        Ok(())
    }

    /// Fails unless all that was acknowledged is stored; how many that are.
    pub(super) async fn check(&self) -> anyhow::Result<u64> {
        let counted = sqlx::query_scalar("select count(*) from nxt_mirror.notification");
        let stored: i64 = counted.fetch_one(&self.bench.site.pool).await?;
        ensure!(u64::try_from(stored)? == self.accepted, "{} acknowledged, {stored} stored", self.accepted);
        Ok(self.accepted)
    }
}

struct Run {
    accepted: u64,
    rate: f64,
}

async fn burst(host: &str, requests: &Requests, time: Duration) -> anyhow::Result<Run> {
    let started = Instant::now();
    let accepted = load::post(host, requests, ENDLESS, started + time).await?;
    Ok(Run { accepted, rate: accepted as f64 / started.elapsed().as_secs_f64() })
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

/// Bytes of a burst, received alone, and received and folded.
async fn sizes(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let requests = Requests::mixed(ROWS);
    for (role, what) in [("receiver", "received"), ("all", "received and folded")] {
        let bench = Bench::start(server, role).await?;
        let pool = &bench.site.pool;
        // Rows that are never settled stay on disk.
        bench.site.simulator.fault(Fault::new(FaultKind::TokenAway));
        sqlx::query("checkpoint").execute(pool).await?;
        let before = Footprint::take(pool).await?;
        let accepted =
            load::post(&bench.site.public, &requests, SIZED, Instant::now() + Duration::from_secs(300)).await?;
        ensure!(accepted == SIZED, "{accepted} of {SIZED} were accepted");
        if role == "all" {
            let unfolded = "select count(*) from nxt_mirror.unfolded";
            Wait::seconds(120).every_millis(100).for_count("blocks that are not folded", pool, 0, unfolded).await?;
        }
        let after = Footprint::take(pool).await?;
        let each = |after: i64, before: i64| (after - before) as f64 / SIZED as f64;
        println!(
            "bytes a notification, {what:<24}{:>8.0} on disk, {:.0} of them the ledger; {:.0} of WAL; {SIZED} of {ROWS} rows",
            each(after.all, before.all),
            each(after.ledger, before.ledger),
            each(after.wal, before.wal),
        );
    }
    Ok(())
}

/// Bytes, indexes and TOAST included.
#[derive(sqlx::FromRow)]
struct Footprint {
    all: i64,
    ledger: i64,
    wal: i64,
}

impl Footprint {
    async fn take(pool: &PgPool) -> anyhow::Result<Self> {
        let footprint = sqlx::query_as(
            "select sum(pg_total_relation_size(oid))::bigint as all,
                    pg_total_relation_size('nxt_mirror.ledger_block') as ledger,
                    pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint as wal
               from pg_class where relnamespace = 'nxt_mirror'::regnamespace and relkind = 'r'",
        );
        Ok(footprint.fetch_one(pool).await?)
    }
}

/// A flood on a daemon that works, without a snapshot, with one, and without one again.
pub(super) async fn snapshot(args: &Args, server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let before = flood(args, server, None).await?;
    let held = flood(args, server, Some(args.snapshot_minutes)).await?;
    let after = flood(args, server, None).await?;
    let [free] = before.as_slice() else { anyhow::bail!("one window") };
    let [again] = after.as_slice() else { anyhow::bail!("one window") };
    let without = f64::midpoint(free.accepted, again.accepted);
    free.print("flood on a daemon that works", without);
    for (window, when) in held.iter().zip(["first seconds", "last seconds", "all of it"]) {
        window.print(&format!("snapshot held {} min, {when}", args.snapshot_minutes), without);
    }
    again.print("without a snapshot again", without);
    Ok(())
}

/// What happened in some seconds of a flood.
struct Window {
    /// Acknowledged notifications a second.
    accepted: f64,
    /// Dirty rows settled a second.
    settled: f64,
    /// Dirty rows at its end.
    dirty: i64,
    /// Notifications that were not folded at its end.
    unfolded: i64,
}

impl Window {
    fn print(&self, what: &str, without: f64) {
        println!(
            "{what:<45} {:>8.0} /s acknowledged, {:.2} of without; {:.0} rows/s settled, {} dirty, {} not folded",
            self.accepted,
            self.accepted / without,
            self.settled,
            self.dirty,
            self.unfolded
        );
    }
}

/// The first seconds and, if a snapshot is held, the last ones and all of the time.
async fn flood(args: &Args, server: &EmbeddedPostgres, minutes: Option<f64>) -> anyhow::Result<Vec<Window>> {
    let bench = Bench::start(server, "all").await?;
    for (owner, table, rows) in load::mixed_rows(ROWS_BESIDE_SNAPSHOT) {
        bench.site.simulator.put_all(owner, table, &rows, false)?;
    }
    let requests = Requests::mixed(ROWS_BESIDE_SNAPSHOT);
    let seconds = Duration::from_secs(args.seconds);
    let held = minutes.map_or(seconds, |minutes| Duration::from_secs_f64(minutes * 60.0).max(seconds * 2));
    let accepted = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + WARM_UP + held;
    let posting = load::post_counting(&bench.site.public, &requests, ENDLESS, until, &accepted);
    let watching = async {
        tokio::time::sleep(WARM_UP).await;
        let snapshot = match minutes {
            Some(_) => Some(old_snapshot(&bench.site.pool).await?),
            None => None,
        };
        let moment = async || Moment::take(&bench.site.pool, &accepted).await;
        let begin = moment().await?;
        tokio::time::sleep(seconds).await;
        let mut windows = vec![begin.until(moment().await?)];
        if let Some(snapshot) = snapshot {
            tokio::time::sleep(held - seconds * 2).await;
            let before = moment().await?;
            tokio::time::sleep(seconds).await;
            let end = moment().await?;
            windows.extend([before.until(end), begin.until(end)]);
            snapshot.rollback().await?;
        }
        anyhow::Ok(windows)
    };
    let (posted, windows) = tokio::join!(posting, watching);
    posted?;
    windows
}

/// A transaction that has read and then does nothing.
async fn old_snapshot(pool: &PgPool) -> anyhow::Result<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut transaction = pool.begin_with("begin isolation level repeatable read").await?;
    sqlx::query("select count(*) from nxt_mirror.target").execute(&mut *transaction).await?;
    Ok(transaction)
}

/// What had happened by then.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    accepted: u64,
    rows: DirtyRows,
    unfolded: i64,
}

impl Moment {
    async fn take(pool: &PgPool, accepted: &AtomicU64) -> anyhow::Result<Self> {
        let (at, accepted, rows) = (Instant::now(), accepted.load(Ordering::Relaxed), rows(pool).await?);
        let unfolded = "select coalesce(sum(cardinality(is_company)), 0)::bigint from nxt_mirror.unfolded";
        Ok(Self { at, accepted, rows, unfolded: sqlx::query_scalar(unfolded).fetch_one(pool).await? })
    }

    fn until(self, end: Self) -> Window {
        let seconds = (end.at - self.at).as_secs_f64();
        Window {
            accepted: (end.accepted - self.accepted) as f64 / seconds,
            settled: (end.rows.cleared - self.rows.cleared) as f64 / seconds,
            dirty: end.rows.dirty,
            unfolded: end.unfolded,
        }
    }
}

/// What the server has counted of dirty rows. It counts for nothing, where a look at the rows would meet all their old
/// versions.
#[derive(Clone, Copy, sqlx::FromRow)]
struct DirtyRows {
    cleared: i64,
    dirty: i64,
}

async fn rows(pool: &PgPool) -> anyhow::Result<DirtyRows> {
    let counted = sqlx::query_as(
        "select n_tup_del as cleared, n_tup_ins - n_tup_del as dirty from pg_stat_user_tables
          where schemaname = 'nxt_mirror' and relname = 'dirty_row'",
    );
    Ok(counted.fetch_one(pool).await?)
}
