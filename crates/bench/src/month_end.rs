//! The last day of the month: very many notifications for ten minutes, while people run reports.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::future::try_join_all;
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Options, Owner};
use nxt_testkit::{Site, Wait};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use super::{Bench, figures::at, latency};

/// Companies whose rows change, and the one in which a row now and then is watched.
const BUSY: [i64; 2] = [2_000_001, 2_000_002];
const WATCHED: i64 = 5_199_768;
/// Tables with a key `rowNo` and a text `name`.
const TABLES: u32 = 5;
/// Changes, and the time within which they are made.
const CHANGES: i64 = 1_000_000;
const DURATION: Duration = Duration::from_secs(600);
/// Changes that are made at once, of one table.
const BURST: i64 = 200;
const REPORTS: u32 = 5;
/// What a report asks, and how long it is until the next one.
const REPORT: &str = "select count(*), count(distinct name), max(_changed_at) from business_nxt.extra";
const REPORT_PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn measure(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let options = Options { extra_tables: TABLES, ..Options::default() };
    let bench = Bench::start_with(server, "all", options).await?;
    for target in 0..targets() {
        put(&bench.site, target, 0..1)?;
    }
    bench.settle().await?;
    let before = bench.site.simulator.counters().graphql_requests;
    let is_over = Cell::new(false);
    let work = async {
        let started = Instant::now();
        let memory = changes(&bench).await?;
        let made = started.elapsed();
        let behind = Wait::seconds(600).every_millis(100).for_settled(&bench.site.pool).await?;
        is_over.set(true);
        Ok((memory, made, behind))
    };
    let reports = try_join_all((1..=REPORTS).map(|number| report(&bench.site.pool, number, &is_over)));
    let watched = latency::one_by_one(&bench.site, WATCHED, DURATION);
    let oldest = oldest(&bench.site.pool, &is_over);
    let ((memory, made, behind), reports, watched, oldest) = tokio::try_join!(work, reports, watched, oldest)?;
    println!(
        "{CHANGES} changes in {:.0} s beside {REPORTS} reports: all settled {:.1} s after the last, {memory:.0} MiB at most",
        made.as_secs_f64(),
        behind.as_secs_f64(),
    );
    let requests = bench.site.simulator.counters().graphql_requests - before;
    println!("its API requests                              {requests:>8}");
    println!("notifications that were not accepted at once  {:>8}", bench.site.simulator.sender_counters().failed);
    println!("a row waited, at most                         {oldest:>8.1} s");
    latency::print("a change of another company meanwhile", &watched);
    latency::print("a report", &reports.concat());
    Ok(())
}

fn targets() -> i64 {
    i64::from(TABLES) * BUSY.len() as i64
}

fn put(site: &Site, target: i64, numbers: std::ops::Range<i64>) -> anyhow::Result<()> {
    let row = |number: i64| -> Map<String, Value> {
        Map::from_iter([("rowNo".to_owned(), json!(number)), ("name".to_owned(), json!(format!("voucher {number}")))])
    };
    let company = BUSY[usize::try_from(target)? % BUSY.len()];
    let table = format!("Extra{}", target / BUSY.len() as i64 + 1);
    let rows: Vec<_> = numbers.map(row).collect();
    Ok(site.simulator.put_all(Owner::Company(company), &table, &rows, true)?)
}

/// Makes all changes, evenly over the time. The most memory in MiB.
async fn changes(bench: &Bench) -> anyhow::Result<f64> {
    let pid = bench.daemon.id().context("the daemon runs")?;
    let bursts = CHANGES / BURST;
    let mut timer = tokio::time::interval(DURATION / u32::try_from(bursts)?);
    let mut most = 0.0_f64;
    for burst in 0..bursts {
        timer.tick().await;
        let from = burst / targets() * BURST + 1;
        put(&bench.site, burst % targets(), from..from + BURST)?;
        most = most.max(super::resident(pid)?);
    }
    bench.site.simulator.drain().await;
    Ok(most)
}

/// Reads all of a table again and again. Milliseconds of each time.
async fn report(pool: &PgPool, number: u32, is_over: &Cell<bool>) -> anyhow::Result<Vec<f64>> {
    let sql = format!("{REPORT}{number}");
    let mut times = vec![];
    while !is_over.get() {
        tokio::time::sleep(REPORT_PAUSE).await;
        let started = Instant::now();
        sqlx::query(AssertSqlSafe(sql.clone())).execute(pool).await?;
        times.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(times)
}

/// The longest that a row has waited, in seconds, looked at every second.
async fn oldest(pool: &PgPool, is_over: &Cell<bool>) -> anyhow::Result<f64> {
    let sql =
        "select coalesce(extract(epoch from max(now() - oldest_waiting_since)), 0)::float8 from nxt_mirror.freshness";
    let mut ages = vec![];
    while !is_over.get() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ages.push(sqlx::query_scalar(sql).fetch_one(pool).await?);
    }
    Ok(at(&ages, 1.0))
}
