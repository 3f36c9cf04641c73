//! From a change at the source to the mirror.

use std::time::{Duration, Instant};

use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Fault, FaultKind, Options, Owner};
use nxt_testkit::Site;
use serde_json::{Map, json};
use sqlx::{AssertSqlSafe, PgPool};

use super::{Bench, figures::at};

const COMPANIES: [i64; 3] = [2_000_001, 2_000_002, 5_199_768];
/// Tables with a key `rowNo` and a text `name`.
const TABLES: u32 = 5;
/// Requests a minute that the daemon may send.
const BUDGET: f64 = 600.0;
/// When a change counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream of changes, some of which are watched until the mirror shows them.
#[derive(Clone, Copy)]
struct Stream<'a> {
    /// Tables of companies that change in turn, each with its key's and its mirrored table's and key's names.
    targets: &'a [Target],
    /// Rows of each that change in turn.
    rows: i64,
    /// Time between two changes.
    gap: Duration,
    /// How many are made for one that is watched.
    watched: i64,
    /// How often it is looked for.
    poll: Duration,
}

#[derive(Clone)]
struct Target {
    company: i64,
    table: String,
    key: &'static str,
    /// The mirrored table and its key.
    sql_table: String,
    sql_key: &'static str,
}

impl Target {
    fn order() -> Self {
        Self {
            company: COMPANIES[0],
            table: "Order".into(),
            key: "orderNo",
            sql_table: "order".into(),
            sql_key: "order_no",
        }
    }

    fn extra(company: i64, number: u32) -> Self {
        Self {
            company,
            table: format!("Extra{number}"),
            key: "rowNo",
            sql_table: format!("extra{number}"),
            sql_key: "row_no",
        }
    }

    fn change(&self, site: &Site, number: i64, name: &str) -> anyhow::Result<()> {
        let row = Map::from_iter([(self.key.to_owned(), json!(number)), ("name".to_owned(), json!(name))]);
        Ok(site.simulator.put_all(Owner::Company(self.company), &self.table, &[row], true)?)
    }

    /// Milliseconds until the mirror shows it.
    async fn shown(self, pool: PgPool, number: i64, name: String, poll: Duration) -> Result<f64, sqlx::Error> {
        let since = Instant::now();
        let sql = format!(
            "select name = $3 from business_nxt.\"{}\" where _company_no = $1 and {} = $2",
            self.sql_table, self.sql_key
        );
        while since.elapsed() < PATIENCE {
            let shown: Option<bool> = sqlx::query_scalar(AssertSqlSafe(sql.clone()))
                .bind(self.company)
                .bind(number)
                .bind(&name)
                .fetch_optional(&pool)
                .await?;
            if shown == Some(true) {
                return Ok(since.elapsed().as_secs_f64() * 1_000.0);
            }
            tokio::time::sleep(poll).await;
        }
        Ok(f64::INFINITY)
    }
}

pub(super) async fn measure(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    one_at_a_time(server).await?;
    many(server).await
}

/// One change after the other, of an API that answers at once.
async fn one_at_a_time(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    let targets = [Target::order()];
    let (gap, poll) = (Duration::from_millis(50), Duration::from_millis(3));
    let stream = Stream { targets: &targets, rows: 1_000, gap, watched: 1, poll };
    run(&bench, stream, "one change every 50 ms, the API at once").await
}

/// 200 changes a second of five tables in three companies, of an API that takes 30 to 60 ms.
async fn many(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let options = Options { extra_tables: TABLES, ..Options::default() };
    let bench = Bench::start_with(server, "all", options).await?;
    // The first that strikes is taken, so a third of the answers take each time.
    for (millis, probability) in [(30, 1.0 / 3.0), (45, 0.5), (60, 1.0)] {
        bench.site.simulator.fault(Fault { millis, probability, ..Fault::new(FaultKind::Slow) });
    }
    let company = |company| (1..=TABLES).map(move |number| Target::extra(company, number));
    let targets: Vec<Target> = COMPANIES.into_iter().flat_map(company).collect();
    let (gap, poll) = (Duration::from_millis(5), Duration::from_millis(10));
    let stream = Stream { targets: &targets, rows: 2_000, gap, watched: 20, poll };
    run(&bench, stream, "200 changes/s, the API after 30 to 60 ms").await
}

/// A minute of it, once the tables are made and the pace is found.
async fn run(bench: &Bench, stream: Stream<'_>, what: &str) -> anyhow::Result<()> {
    for target in stream.targets {
        target.change(&bench.site, 0, "first")?;
    }
    bench.settle().await?;
    stream.watch(&bench.site, Duration::from_secs(10)).await?;
    let (before, started) = (bench.site.simulator.counters(), Instant::now());
    let latencies = stream.watch(&bench.site, Duration::from_secs(60)).await?;
    let (after, minutes) = (bench.site.simulator.counters(), started.elapsed().as_secs_f64() / 60.0);
    let requests = (after.graphql_requests - before.graphql_requests) as f64 / minutes;
    print(what, &latencies);
    println!(
        "its API requests                              {requests:>8.0} a minute, {:.2} of what is allowed, {} over a limit",
        requests / BUDGET,
        after.rate_violations + after.in_flight_violations
    );
    bench.settle().await
}

impl Stream<'_> {
    /// Milliseconds of those that are watched.
    async fn watch(self, site: &Site, duration: Duration) -> anyhow::Result<Vec<f64>> {
        let until = Instant::now() + duration;
        let mut timer = tokio::time::interval(self.gap);
        let mut watched = tokio::task::JoinSet::new();
        let mut turn: i64 = 0;
        while Instant::now() < until {
            timer.tick().await;
            turn += 1;
            let target = &self.targets[usize::try_from(turn)? % self.targets.len()];
            let number = turn * 7_919 % self.rows + 1;
            let name = format!("live {turn} {until:?}");
            target.change(site, number, &name)?;
            if turn % self.watched == 0 {
                watched.spawn(target.clone().shown(site.pool.clone(), number, name, self.poll));
            }
        }
        let mut latencies = vec![];
        while let Some(latency) = watched.join_next().await {
            latencies.push(latency??);
        }
        Ok(latencies)
    }
}

/// 200 orders of one company a second.
pub(super) async fn of_orders(bench: &Bench, duration: Duration) -> anyhow::Result<Vec<f64>> {
    let targets = [Target::order()];
    let (gap, poll) = (Duration::from_millis(5), Duration::from_millis(20));
    let stream = Stream { targets: &targets, rows: 40_000, gap, watched: 20, poll };
    stream.watch(&bench.site, duration).await
}

/// Rows of one table of a company, each changed when the one before it was on its way for a while.
pub(super) async fn one_by_one(site: &Site, company: i64, duration: Duration) -> anyhow::Result<Vec<f64>> {
    let targets = [Target::extra(company, 1)];
    let (gap, poll) = (Duration::from_millis(50), Duration::from_millis(3));
    Stream { targets: &targets, rows: 1_000, gap, watched: 1, poll }.watch(site, duration).await
}

pub(super) fn print(what: &str, latencies: &[f64]) {
    println!(
        "{what:<45}  median {:>5.0} ms, 95 of 100 in {:>5.0} ms, all {} in {:.0} ms",
        at(latencies, 0.5),
        at(latencies, 0.95),
        latencies.len(),
        at(latencies, 1.0)
    );
}
