//! Random histories under random faults, with everything killed now and then: in the end the mirror equals the source,
//! and no reader has seen it go back.
//!
//! A seed decides what happens; the machine decides when, so that a seed that failed is likely, not sure, to fail again.
//! `NXT_SEEDS=200 NXT_STEPS=400 cargo test --test it convergence::long -- --ignored --nocapture` runs as many as wanted,
//! from `NXT_SEED` on, `NXT_AT_ONCE` at the same time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_simulator::{Clock, Fault, FaultKind, Options, Owner};
use nxt_testkit::{Daemon, Scratch, Site, object};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::sync::CancellationToken;

use crate::support::site;

const OWNERS: [Owner; 2] = [Owner::Company(2_000_001), Owner::Company(2_000_002)];
const PRODUCTS: [&str; 8] = ["A", "Bolt x", "bø", "Ærlig", "10", "9", "z'z", "Ω"];
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

/// Which row: owner, table, key as text.
type RowId = (Owner, &'static str, String);

/// What happened at the source: each version of a row is the number of the change.
#[derive(Default)]
struct History {
    changes: i64,
    deletes: HashMap<RowId, Vec<i64>>,
}

/// What a run came to.
#[derive(Debug, Default)]
struct Tally {
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

/// A row to change, its key and the column that holds the version.
fn pick(random: &mut StdRng) -> (RowId, Map<String, Value>, &'static str) {
    let owner = OWNERS[random.random_range(0..2)];
    match random.random_range(0..3) {
        0 => {
            let number = random.random_range(1..15);
            ((owner, "Order", format!("[{number}]")), object(json!({ "orderNo": number })), "name")
        }
        1 => {
            let (order, line) = (random.random_range(1..4), random.random_range(1..5));
            let key = object(json!({ "orderNo": order, "lineNo": line }));
            ((owner, "OrderLine", format!("[{order}, {line}]")), key, "description")
        }
        _ => {
            let product = PRODUCTS[random.random_range(0..PRODUCTS.len())];
            let id = (owner, "Product", format!("[{}]", json!(product)));
            (id, object(json!({ "productNo": product })), "description")
        }
    }
}

/// The server of a run, which can be killed and comes back at the same address.
struct Server {
    folder: Scratch,
    running: Option<EmbeddedPostgres>,
}

impl Server {
    async fn start() -> Self {
        let folder = Scratch::new();
        // Durable: what it has committed must outlive it.
        let running = Some(EmbeddedPostgres::start(EmbeddedOptions::new(&folder.0)).await.expect("the server starts"));
        Self { folder, running }
    }

    fn url(&self) -> String {
        self.running.as_ref().expect("the server runs").url("nxt_mirror").expose_secret().to_owned()
    }

    async fn kill(&mut self) {
        let running = self.running.take().expect("the server runs");
        let pid = i32::try_from(running.server_pid().expect("the server runs")).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("ours to kill");
        drop(running);
        for _ in 0..100 {
            // Its children need a moment to notice.
            match EmbeddedPostgres::start(EmbeddedOptions::new(&self.folder.0)).await {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("the server does not come back");
    }
}

async fn run(seed: u64, steps: u32) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let clock = Clock::ahead_by(AHEAD[random.random_range(0..AHEAD.len())]);
    let options = Options {
        clock,
        published_example: false,
        companies: vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002)],
        requests_per_minute: 100_000,
        seed,
        ..Options::default()
    };
    let settings = [
        ("NXT_TABLES", "Order,OrderLine,Product"),
        ("NXT_FETCH_ROWS_MAX", "6"),
        ("NXT_SWEEP_SECONDS", "1"),
        ("NXT_WALK_SECONDS", "2"),
        ("NXT_REQUESTS_PER_MINUTE", "100000"),
    ];
    let site = site(options, &server.url(), &settings).await;
    site.simulator.set_knobs(|knobs| {
        knobs.duplicate = 0.2;
        knobs.loss = 0.1;
        knobs.delay_ms_max = 300;
        knobs.wrong_signature = 0.05;
        knobs.old_payload = random.random_bool(0.5);
        knobs.stamp_ahead_seconds = AHEAD[random.random_range(0..AHEAD.len())];
    });
    let history = Arc::new(Mutex::new(History::default()));
    let done = CancellationToken::new();
    let reader = tokio::spawn(watch(site.pool.clone(), Arc::clone(&history), done.clone()));
    let mut daemon = site.spawn(&[]);
    let mut tally = Tally::default();
    // However busy the machine is, the daemon has begun before anything happens to it.
    site.wait_for_none("a first walk", "select 1 - least(count(*), 1) from nxt_mirror.walk").await;
    for _ in 0..steps {
        daemon = step(&mut random, &site, &mut server, daemon, &history, &mut tally).await;
        if !daemon.is_running() {
            // One that starts while the server is away gives up, and whoever supervises it starts it again.
            tally.restarts += 1;
            daemon = site.spawn(&[]);
        }
    }
    assert!(tally.restarts <= tally.server_kills, "seed {seed}: the daemon ended by itself: {tally:?}");
    strike_once(&mut random, &site, &history).await;
    quieten(&site).await;
    site.simulator.drain().await;
    let quiet: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&site.pool).await.expect("the database answers");
    wait_for_walks(&site, quiet).await;
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
    server.running.take().expect("the server runs").stop().await.expect("the server stops");
    tally
}

/// One random thing happens.
async fn step(
    random: &mut StdRng,
    site: &Site,
    server: &mut Server,
    daemon: Daemon,
    history: &Mutex<History>,
    tally: &mut Tally,
) -> Daemon {
    // So that there is time for what was begun to be interrupted.
    tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
    match random.random_range(0..100) {
        0..70 => change(random, site, history),
        70..80 => {
            let kind = FAULTS[random.random_range(0..FAULTS.len())];
            let mut fault = Fault { millis: 200, after: random.random_range(0..3), ..Fault::new(kind) };
            // A gateway that does not say how long to wait is left alone for ten seconds each time.
            fault = fault.times(if kind == FaultKind::TooMany { 1 } else { random.random_range(1..5) });
            if random.random_bool(0.3) {
                fault = fault.on(OWNERS[random.random_range(0..2)], None);
            }
            site.simulator.fault(fault);
        }
        80..84 => site.simulator.set_read_lag(Duration::from_millis(random.random_range(0..1_200))),
        84..85 => match random.random_range(0..3) {
            0 => site.simulator.hide_column("Order", "employeeNo").expect("a column can be hidden"),
            1 => site.simulator.add_column("Order", "employeeNo", "Int").expect("a column can come back"),
            _ => site.simulator.add_column("Order", "addedColumn", "Int").expect("a column can be added"),
        },
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

fn change(random: &mut StdRng, site: &Site, history: &Mutex<History>) {
    let (id, mut row, version_column) = pick(random);
    let (owner, table) = (id.0, id.1);
    let mut history = history.lock().unwrap();
    history.changes += 1;
    let version = history.changes;
    if random.random_bool(0.35) && site.simulator.delete(owner, table, row.clone()).is_ok() {
        history.deletes.entry(id).or_default().push(version);
        return;
    }
    row.insert(version_column.to_owned(), json!(version.to_string()));
    if table == "Order" {
        row.insert("employeeNo".to_owned(), json!(version));
    }
    if random.random_ratio(1, 8) {
        // As rows that nobody has touched for years.
        row.insert("changedTimestamp".to_owned(), Value::Null);
    }
    site.simulator.put(owner, table, row).expect("a row can be put");
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
}

/// A walk of every table that began in the quiet has come to its end.
async fn wait_for_walks(site: &Site, quiet: chrono::DateTime<chrono::Utc>) {
    // A walk that has failed twice is left alone for two minutes.
    for _ in 0..3_000 {
        let sql = "select count(*) from nxt_mirror.walk
                    where started_at > $1 and finished_at is not null";
        let walked: Result<i64, _> = sqlx::query_scalar(sql).bind(quiet).fetch_one(&site.pool).await;
        if matches!(walked, Ok(6)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not every table was walked");
}

/// Reads all rows again and again: no version may be followed by an older one, and a row may only go when the source
/// has deleted that version or a later one. Returns how often it has read.
async fn watch(pool: PgPool, history: Arc<Mutex<History>>, done: CancellationToken) -> u64 {
    let tables = [
        ("Order", "\"order\"", "order_no", "name"),
        ("OrderLine", "order_line", "order_no, line_no", "description"),
        ("Product", "product", "product_no", "description"),
    ];
    let mut last: HashMap<RowId, i64> = HashMap::new();
    let mut reads = 0;
    while !done.is_cancelled() {
        for (table, sql_name, key, version) in tables {
            let sql =
                format!("select _company_no, json_build_array({key})::text, {version} from business_nxt.{sql_name}");
            let rows: Vec<(i64, String, Option<String>)> =
                match sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&pool).await {
                    Ok(rows) => rows,
                    // Not made yet, or the server is away.
                    Err(_) => continue,
                };
            reads += 1;
            let now: HashMap<RowId, i64> = rows
                .into_iter()
                .map(|(company, key, version)| {
                    let version = version.and_then(|version| version.parse().ok()).unwrap_or(0);
                    ((Owner::Company(company), table, key), version)
                })
                .collect();
            for (id, seen) in last.iter().filter(|(id, _)| id.1 == table) {
                match now.get(id) {
                    Some(version) => assert!(version >= seen, "{id:?} went back from {seen} to {version}"),
                    None => {
                        let history = history.lock().unwrap();
                        let deletes = history.deletes.get(id).cloned().unwrap_or_default();
                        assert!(deletes.iter().any(|at| at > seen), "{id:?} of version {seen} vanished: {deletes:?}");
                    }
                }
            }
            last.retain(|id, _| id.1 != table);
            last.extend(now);
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    reads
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
        (seed, run(seed, steps).await)
    };
    let mut runs = stream::iter(first..first + seeds).map(run_one).buffer_unordered(at_once);
    let (mut total, mut done) = (Tally::default(), 0);
    while let Some((seed, tally)) = runs.next().await {
        println!("seed {seed}: {tally:?}");
        total.add(tally);
        done += 1;
    }
    assert_eq!(done, seeds);
    assert!(total.rows > 0, "nothing was compared");
    println!("{done} seeds, all equal: {total:?}");
}
