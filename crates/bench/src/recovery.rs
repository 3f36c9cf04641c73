//! How long it takes until things are right again: after a start with a large backlog, and after kills.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Fault, FaultKind, Options, Owner};
use nxt_testkit::{Daemon, Site, Wait, free_address};
use serde_json::{Map, json};
use tokio::net::TcpStream;

use super::{
    load::{Requests, post},
    site,
};

const COMPANY: i64 = 2_000_001;
const BACKLOG: i64 = 1_000_000;

/// One of several daemons on one database.
struct Replica {
    daemon: Daemon,
    public: String,
    ops: String,
}

async fn replica(site: &Site) -> anyhow::Result<Replica> {
    let (public, ops) = (free_address(), free_address());
    let mut command = super::command(site, &["serve"]);
    let daemon = Daemon::start(command.env("NXT_LISTEN", &public).env("NXT_OPS_LISTEN", &ops));
    let replica = Replica { daemon, public, ops };
    replica.ready().await?;
    Ok(replica)
}

async fn all_settled(site: &Site) -> anyhow::Result<Duration> {
    Wait::seconds(180).every_millis(50).for_settled(&site.pool).await
}

fn put(site: &Site, numbers: std::ops::Range<i64>) -> anyhow::Result<()> {
    let row = |number: i64| Map::from_iter([("orderNo".to_owned(), json!(number)), ("name".to_owned(), json!("x"))]);
    let rows: Vec<_> = numbers.map(row).collect();
    Ok(site.simulator.put_all(Owner::Company(COMPANY), "Order", &rows, false)?)
}

impl Replica {
    async fn ready(&self) -> anyhow::Result<Duration> {
        let (started, http) = (Instant::now(), reqwest::Client::new());
        loop {
            let answer = http.get(format!("http://{}/readyz", self.ops)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) && TcpStream::connect(&self.public).await.is_ok()
            {
                return Ok(started.elapsed());
            }
            ensure!(started.elapsed() < Duration::from_secs(60), "the daemon is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn first_accepted(&self, number: u64) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let request = Requests::orders(number..number + 1);
        while post(&self.public, &request, 1, Instant::now() + Duration::from_secs(1)).await.is_err() {
            ensure!(started.elapsed() < Duration::from_secs(60), "nothing is accepted");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(started.elapsed())
    }
}

pub(super) async fn measure(
    server: &mut Option<EmbeddedPostgres>,
    restart: impl AsyncFn() -> anyhow::Result<EmbeddedPostgres>,
) -> anyhow::Result<()> {
    let running = server.as_ref().context("the server runs")?;
    backlog(running).await?;
    outage(running).await?;
    replicas(running).await?;
    killed_server(server, restart).await
}

/// A start with a million rows that wait, and its memory while it works them off.
async fn backlog(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let site = site(server, Options::default()).await?;
    ensure!(super::command(&site, &["migrate"]).status().await?.success(), "the migration failed");
    for from in (1..=BACKLOG).step_by(10_000) {
        put(&site, from..from + 10_000)?;
    }
    sqlx::query(
        "with target as (
             insert into nxt_mirror.target (tenant_kind, tenant_no, table_name) values ('company', $1, 'Order') returning id
         )
         insert into nxt_mirror.dirty_row
             (target_id, row_key, due_at, waiting_since, announced, notification_id)
         select target.id, '{\"orderno\":' || n || '}', now(), now(), true, n from target, generate_series(1, $2) n",
    )
    .bind(COMPANY)
    .bind(BACKLOG)
    .execute(&site.pool)
    .await?;
    let started = Instant::now();
    let replica = replica(&site).await?;
    let ready = started.elapsed();
    let pid = replica.daemon.id().context("the daemon runs")?;
    let (mut most, watching) = (0.0_f64, Instant::now());
    while watching.elapsed() < Duration::from_secs(30) {
        most = most.max(super::resident(pid)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = site.count("select count(*) from nxt_mirror.dirty_row").await;
    println!(
        "start with 1,000,000 waiting rows              {:>8.0} ms to ready, {most:.0} MiB at most, {} rows settled in 30 s",
        ready.as_secs_f64() * 1_000.0,
        BACKLOG - left,
    );
    Ok(())
}

/// An API that is away for a minute while notifications of many rows come in.
async fn outage(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    const ROWS: i64 = 100_000;
    let site = site(server, Options::default()).await?;
    let replica = replica(&site).await?;
    let pid = replica.daemon.id().context("the daemon runs")?;
    put(&site, 0..ROWS)?;
    site.simulator.fault(Fault::new(FaultKind::Unavailable));
    let requests = Requests::orders(0..ROWS.unsigned_abs());
    post(&replica.public, &requests, ROWS.unsigned_abs(), Instant::now() + Duration::from_secs(60)).await?;
    let asked = site.simulator.counters().graphql_requests;
    let written = "select n_tup_upd from pg_stat_user_tables where relname = 'dirty_row'";
    let (writes, mut most, watching) = (site.count(written).await, 0.0_f64, Instant::now());
    while watching.elapsed() < Duration::from_secs(60) {
        most = most.max(super::resident(pid)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!(
        "API away for 60 s, 100,000 rows waiting        {:>8} requests sent, {} writes of waiting rows, {most:.0} MiB at most",
        site.simulator.counters().graphql_requests - asked,
        site.count(written).await - writes,
    );
    site.simulator.clear_faults();
    let settled = all_settled(&site).await?;
    let out_of_turn = site.count(OUT_OF_TURN).await;
    println!(
        "API back                                       {:>8.1} s until all were settled, {out_of_turn} of them more than 8 batches out of turn",
        settled.as_secs_f64(),
    );
    Ok(())
}

/// Rows that were settled far from their turn by age. A target has four requests at a time; twice that is allowed.
const OUT_OF_TURN: &str = "
select count(*) from (
    select row_number() over (order by id) as settled, row_number() over (order by notification_id) as received
      from nxt_mirror.sync_log) as turns
 where abs(settled - received) > 8 * 500";

/// Three replicas, one of which is killed while it holds rows; then a daemon that starts again.
async fn replicas(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let site = site(server, Options::default()).await?;
    let mut replicas = vec![replica(&site).await?, replica(&site).await?, replica(&site).await?];
    // Slow answers, so that rows are held when the kill comes.
    put(&site, 1..6_001)?;
    site.simulator.fault(Fault { millis: 3_000, ..Fault::new(FaultKind::Slow) });
    for (index, replica) in replicas.iter().enumerate() {
        let first = 1 + index as u64 * 2_000;
        let requests = Requests::orders(first..first + 2_000);
        post(&replica.public, &requests, 2_000, Instant::now() + Duration::from_secs(30)).await?;
    }
    // All rows are of one target, so one replica holds them all. Workers are numbered in the order of their starts.
    let leased = "select count(*) from nxt_mirror.target where worker_id is not null";
    Wait::seconds(30).for_count("targets that a replica holds", &site.pool, 1, leased).await?;
    let before = "select count(*) from nxt_mirror.worker where id < (select min(worker_id) from nxt_mirror.target)";
    let holder = usize::try_from(site.count(before).await)?;
    replicas.remove(holder).daemon.kill().await;
    site.simulator.clear_faults();
    let settled = all_settled(&site).await?;
    println!(
        "one of three replicas killed                   {:>8.1} s until its rows were settled by the others",
        settled.as_secs_f64()
    );
    let counters = site.simulator.counters();
    println!(
        "three replicas                                 {:>8} API requests, {} over a limit",
        counters.graphql_requests,
        counters.rate_violations + counters.in_flight_violations
    );
    let one = replicas.pop().context("two")?;
    one.daemon.kill().await;
    let started = Instant::now();
    let again = replica(&site).await?;
    again.first_accepted(100_000).await?;
    println!(
        "daemon killed and started again                {:>8.0} ms until a notification was accepted",
        started.elapsed().as_secs_f64() * 1_000.0
    );
    Ok(())
}

async fn killed_server(
    server: &mut Option<EmbeddedPostgres>,
    restart: impl AsyncFn() -> anyhow::Result<EmbeddedPostgres>,
) -> anyhow::Result<()> {
    let running = server.take().context("the server runs")?;
    let site = site(&running, Options::default()).await?;
    let replica = replica(&site).await?;
    replica.first_accepted(1).await?;
    let pid = running.server_pid().context("the server runs")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), nix::sys::signal::Signal::SIGKILL)?;
    drop(running);
    let back = restart().await?;
    let started = Instant::now();
    replica.first_accepted(2).await?;
    println!(
        "PostgreSQL killed                              {:>8.0} ms from its return until a notification was accepted",
        started.elapsed().as_secs_f64() * 1_000.0
    );
    *server = Some(back);
    Ok(())
}
