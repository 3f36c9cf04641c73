//! Random histories under random faults, over two dialects of the API, with people at work in the database and
//! everything killed now and then: in the end the mirror equals the source, and no reader has seen it go back.
//!
//! A seed decides what happens; the machine decides when, so that a seed that failed is likely, not sure, to fail again.
//! `NXT_SEEDS=200 NXT_STEPS=400 cargo test --test it convergence::long -- --ignored --nocapture` runs as many as wanted,
//! from `NXT_SEED` on, `NXT_AT_ONCE` at the same time.

mod history;
mod people;
mod reader;
mod server;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream};
use nxt_simulator::{Clock, Fault, FaultKind, Oddities, Options, Owner, Wording};
use nxt_testkit::{Daemon, Site, object};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use self::{
    history::{CUSTOMER, History, OWNERS, TABLES, change, session},
    people::People,
    reader::watch,
    server::Server,
};
use crate::support::site;

const FAULTS: [FaultKind; 14] = [
    FaultKind::Unauthorized,
    FaultKind::TooMany,
    FaultKind::TooManyRetryAfter,
    FaultKind::InProgress,
    FaultKind::ServerError,
    FaultKind::Unavailable,
    FaultKind::Dropped,
    FaultKind::Truncated,
    FaultKind::Html,
    FaultKind::Slow,
    FaultKind::PartialError,
    FaultKind::WrongShape,
    FaultKind::TokenAway,
    FaultKind::Deny,
];
/// Seconds by which a clock may be ahead: mostly none.
const AHEAD: [i64; 5] = [0, 0, 0, 3_600, -3_600];

/// Seconds between two walks of a table, and for as long does the description hold by which one goes.
const WALK_SECONDS: &str = "2";

/// How descriptions may tell the key.
const WORDINGS: [Wording; 4] = [Wording::Of2022, Wording::Numbered, Wording::Plain, Wording::Silent];

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
    second_dialect: u32,
    changes: i64,
    daemon_kills: u32,
    server_kills: u32,
    restarts: u32,
    faults: BTreeMap<String, u64>,
    reads: u64,
    rows: usize,
    values: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.second_dialect += other.second_dialect;
        self.changes += other.changes;
        self.daemon_kills += other.daemon_kills;
        self.server_kills += other.server_kills;
        self.restarts += other.restarts;
        self.reads += other.reads;
        self.rows += other.rows;
        self.values += other.values;
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

/// How the API speaks in a run.
fn dialect(random: &mut StdRng, tally: &mut Tally) -> Oddities {
    let wording = WORDINGS[random.random_range(0..WORDINGS.len())];
    if random.random_bool(0.5) {
        tally.second_dialect += 1;
        Oddities::second_dialect(wording)
    } else {
        Oddities { wording, ..Oddities::default() }
    }
}

/// The source and the database of a run, its clocks and its notifications as the seed has them.
async fn begin(seed: u64, random: &mut StdRng, server: &Server, tally: &mut Tally) -> Site {
    let options = Options {
        clock: Clock::ahead_by(AHEAD[random.random_range(0..AHEAD.len())]),
        published_example: false,
        companies: vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002)],
        requests_per_minute: 100_000,
        oddities: dialect(random, tally),
        seed,
        ..Options::default()
    };
    let tables = TABLES.map(|table| table.name).join(",");
    let settings = [
        ("NXT_TABLES", tables.as_str()),
        ("NXT_KEYS", "RetailQueueChange=queueChangeNo"),
        ("NXT_EXTENSION_COLUMNS", "Order.MyDme_score=decimal"),
        ("NXT_FETCH_ROWS_MAX", "6"),
        ("NXT_SWEEP_SECONDS", "1"),
        ("NXT_WALK_SECONDS", WALK_SECONDS),
        ("NXT_REQUESTS_PER_MINUTE", "6000"),
    ];
    let site = site(options, &server.url(), &settings).await;
    site.simulator.add_extension_column("Order", "MyDme_score", "Decimal").expect("a column can be added");
    site.simulator.set_knobs(|knobs| {
        knobs.duplicate = 0.2;
        knobs.loss = 0.1;
        knobs.delay_ms_max = 300;
        knobs.wrong_signature = 0.05;
        knobs.old_payload = random.random_bool(0.5);
        knobs.loose_keys = random.random_bool(0.5);
        knobs.stamp_ahead_seconds = AHEAD[random.random_range(0..AHEAD.len())];
    });
    people::prepare(&site.pool).await;
    site
}

async fn run(seed: u64, steps: u32) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let mut server = Server::start().await;
    let site = begin(seed, &mut random, &server, &mut tally).await;
    let history = Arc::new(Mutex::new(History::default()));
    let done = CancellationToken::new();
    let reader = tokio::spawn(watch(site.pool.clone(), Arc::clone(&history), done.clone()));
    let mut people = People::default();
    let mut daemon = site.spawn(&[]);
    // However busy the machine is, the daemon has begun before anything happens to it.
    site.wait_for_none("a first walk", "select 1 - least(count(*), 1) from nxt_mirror.walk").await;
    for _ in 0..steps {
        daemon = step(&mut random, &site, &mut server, daemon, &history, &mut people, &mut tally).await;
        if !daemon.is_running() {
            // One that starts while the server is away gives up, and whoever supervises it starts it again.
            tally.restarts += 1;
            daemon = site.spawn(&[]);
        }
    }
    assert!(tally.restarts <= tally.server_kills, "seed {seed}: the daemon ended by itself: {tally:?}");
    strike_once(&mut random, &site, &history).await;
    people.go_home(&site.pool).await;
    quieten(&site).await;
    site.simulator.drain().await;
    wait_for_walks(seed, &site).await;
    site.settle().await;
    // A column that came a moment ago, or that somebody met while a table was walked, is filled by the next walk.
    wait_for_walks(seed, &site).await;
    site.settle().await;
    let comparison = site.compare().await;
    assert!(comparison.is_equal(), "seed {seed}: {comparison}");
    done.cancel();
    tally.reads = reader.await.unwrap_or_else(|panic| panic!("seed {seed}: {panic}"));
    daemon.kill().await;
    tally.changes = history.lock().unwrap().changes;
    tally.faults = site.simulator.counters().faults;
    (tally.rows, tally.values) = (comparison.rows, comparison.values);
    site.pool.close().await;
    server.stop().await;
    tally
}

/// One random thing happens.
async fn step(
    random: &mut StdRng,
    site: &Site,
    server: &mut Server,
    daemon: Daemon,
    history: &Mutex<History>,
    people: &mut People,
    tally: &mut Tally,
) -> Daemon {
    // So that there is time for what was begun to be interrupted.
    tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
    match random.random_range(0..100) {
        0..60 => change(random, site, history),
        60..64 => session(random, site, history),
        64..72 => site.simulator.fault(fault(random)),
        72..76 => site.simulator.set_read_lag(Duration::from_millis(random.random_range(0..1_200))),
        76..79 => change_model(random, site),
        79..80 => filter_a_subscription(random, site),
        80..85 => people.work(random, site),
        85..88 => {
            daemon.kill().await;
            tally.daemon_kills += 1;
            return site.spawn(&[]);
        }
        88..89 => {
            server.kill().await;
            tally.server_kills += 1;
        }
        _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await,
    }
    daemon
}

fn fault(random: &mut StdRng) -> Fault {
    let kind = FAULTS[random.random_range(0..FAULTS.len())];
    let fault = Fault { millis: 200, after: random.random_range(0..3), ..Fault::new(kind) };
    // A gateway that does not say how long to wait is left alone for ten seconds each time.
    let is_throttling = matches!(kind, FaultKind::TooMany | FaultKind::TooManyRetryAfter);
    let fault = fault.times(if is_throttling { 1 } else { random.random_range(1..5) });
    if random.random_bool(0.3) { fault.on(OWNERS[random.random_range(0..2)], None) } else { fault }
}

/// Columns come, go and come back, and so does a table.
fn change_model(random: &mut StdRng, site: &Site) {
    match random.random_range(0..5) {
        0 => site.simulator.hide_column("Order", "employeeNo"),
        1 => site.simulator.add_column("Order", "employeeNo", "Int"),
        2 => site.simulator.add_column("Order", "addedColumn", "Int"),
        3 => site.simulator.hide_table("OrderLine", true),
        _ => site.simulator.hide_table("OrderLine", false),
    }
    .expect("the model can change");
}

/// Somebody keeps some events of a table back, or lets them through again.
fn filter_a_subscription(random: &mut StdRng, site: &Site) {
    let table = &TABLES[random.random_range(0..TABLES.len())];
    filter(site, table.number, random.random_range(0..8));
}

fn filter(site: &Site, table: i64, bits: i64) {
    for owner in OWNERS {
        let Owner::Company(company) = owner else { continue };
        let row = json!({ "webhookTarget": 1, "companyNo": company, "tableNo": table, "filter": bits });
        site.simulator.put(CUSTOMER, "WebhookSubscription", object(row)).expect("a subscription can be changed");
    }
}

/// At least one fault strikes, even where the machine was too slow for any of the random ones.
async fn strike_once(random: &mut StdRng, site: &Site, history: &Mutex<History>) {
    site.simulator.fault(Fault::new(FaultKind::ServerError).times(1));
    for _ in 0..1_200 {
        if !site.simulator.counters().faults.is_empty() {
            return;
        }
        change(random, site, history);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no fault strikes");
}

async fn quieten(site: &Site) {
    site.simulator.clear_faults();
    site.simulator.set_read_lag(Duration::ZERO);
    site.simulator.set_knobs(|knobs| {
        knobs.loss = 0.0;
        knobs.wrong_signature = 0.0;
    });
    site.simulator.hide_table("OrderLine", false).expect("the model can change");
    for table in TABLES {
        filter(site, table.number, 0);
    }
}

/// A walk of every table has come to its end that began when no description was older than this moment.
async fn wait_for_walks(seed: u64, site: &Site) {
    let sql = "select clock_timestamp() + $1::integer * interval '1 second'";
    let described: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(sql)
        .bind(WALK_SECONDS.parse::<i32>().expect("a number"))
        .fetch_one(&site.pool)
        .await
        .expect("the database answers");
    // A walk that has failed again and again is left alone for up to 16 minutes.
    for _ in 0..12_000 {
        let sql = "select count(*) from nxt_mirror.walk
                    where started_at > $1 and finished_at is not null";
        let walked: Result<i64, _> = sqlx::query_scalar(sql).bind(described).fetch_one(&site.pool).await;
        if walked.is_ok_and(|walked| walked == i64::try_from(TABLES.len() * OWNERS.len()).expect("few")) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("seed {seed}: not every table was walked\n{}", state(&site.pool).await);
}

/// Where each target is, for whoever looks for the reason.
async fn state(pool: &PgPool) -> String {
    let sql =
        "select concat_ws(' ', fresh.company_no, fresh.table_name, fresh.state, fresh.backlog, fresh.paused_until,
                                fresh.paused_because, walk.started_at, walk.finished_at, walk.note, clock_timestamp())
                 from nxt_mirror.freshness fresh
                 left join nxt_mirror.target using (table_name)
                 left join nxt_mirror.walk on walk.target_id = target.id
                where target.tenant_no = fresh.company_no";
    let targets: Result<Vec<String>, _> = sqlx::query_scalar(sql).fetch_all(pool).await;
    targets.map_or_else(|error| error.to_string(), |targets| targets.join("\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short() {
    let tally = run(1, 250).await;
    println!("seed 1: {tally:?}");
    let happened = tally.daemon_kills > 0 && tally.server_kills > 0 && !tally.faults.is_empty();
    assert!(happened && tally.reads > 0, "nothing was tried: {tally:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as wanted: see the module's documentation"]
async fn long() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (first, seeds, steps) = (number("NXT_SEED", 1), number("NXT_SEEDS", 20), number("NXT_STEPS", 400));
    let steps = u32::try_from(steps).expect("fewer steps");
    let at_once = usize::try_from(number("NXT_AT_ONCE", 4)).expect("fewer at once");
    let run_one = async |seed| {
        println!("seed {seed}");
        // The other seeds go on when one fails; what it failed of is printed as it fails.
        (seed, AssertUnwindSafe(run(seed, steps)).catch_unwind().await)
    };
    let mut runs = stream::iter(first..first + seeds).map(run_one).buffer_unordered(at_once);
    let (mut total, mut failed) = (Tally::default(), vec![]);
    while let Some((seed, ended)) = runs.next().await {
        match ended {
            Ok(tally) => {
                println!("seed {seed}: {tally:?}");
                total.add(tally);
            }
            Err(_) => failed.push(seed),
        }
    }
    assert!(total.rows > 0, "nothing was compared");
    println!("{seeds} seeds: {total:?}");
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
