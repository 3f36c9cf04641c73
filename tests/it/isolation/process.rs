//! Processes that die or stand still while they hold rows, and how much memory one takes.

use std::time::Duration;

use futures_util::future::try_join_all;
use nxt_simulator::{Fault, FaultKind, Options};
use nxt_testkit::{Daemon, Site, TestDatabase, object};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinSet};

use super::{GREAT_PATIENCE, ORDERS, PRODUCTS, count, eventually, eventually_within, execute, wait_for_strike};
use crate::support::{self, app::COMPANY, migrated};

/// Five seconds are promised. A busy machine may take much longer to start a process and to look.
const SETTLED_MAX: Duration = Duration::from_secs(60);
const ROWS: i64 = 10;

/// A site without walks, so that nothing but live work settles a row.
async fn site(database: &TestDatabase) -> Site {
    let options = Options { published_example: false, ..Options::default() };
    let settings = [("NXT_SWEEP_SECONDS", "0"), ("NXT_WALK_SECONDS", "0")];
    support::site(options, &database.url(), &settings).await
}

/// A daemon that has mirrored some orders.
async fn start(site: &Site) -> Daemon {
    let daemon = site.spawn(&[]);
    ORDERS.change(&site.simulator, COMPANY, ROWS, "at first");
    ORDERS.wait_for(&site.pool, COMPANY, ROWS, "at first").await;
    daemon
}

/// A daemon in the middle of a request that brings its rows.
async fn start_and_ask(site: &Site) -> Daemon {
    let daemon = start(site).await;
    site.simulator.fault(Fault::new(FaultKind::Hang).on(COMPANY, None));
    ORDERS.change(&site.simulator, COMPANY, ROWS, "held");
    site.simulator.drain().await;
    wait_for_strike(&site.simulator, "hang").await;
    daemon
}

async fn wait_for_another_to_settle(site: &Site, text: &str) -> Daemon {
    let another = site.spawn_as("worker");
    let settled = ORDERS.wait_for(&site.pool, COMPANY, ROWS, text);
    tokio::time::timeout(SETTLED_MAX, settled).await.expect("another worker settles what one holds that is gone");
    another
}

/// Demands that what a frozen worker had in its hands does no harm when it goes on.
async fn assert_harmless(site: &Site, frozen: &Daemon) {
    site.wait_for_none("waiting rows", "select sum(backlog)::bigint from nxt_mirror.freshness").await;
    frozen.thaw();
    ORDERS.change(&site.simulator, COMPANY, ROWS, "after the thaw");
    ORDERS.wait_for(&site.pool, COMPANY, ROWS, "after the thaw").await;
    site.settle().await;
    let comparison = site.compare().await;
    assert!(comparison.is_equal(), "{comparison}");
}

/// However many strangers connect, what works can open what it needs.
#[tokio::test]
async fn strangers_who_connect_leave_files_to_what_works() {
    const FILES: usize = 300;
    let database = migrated().await;
    let options = Options { published_example: false, ..Options::default() };
    let settings = [("NXT_SWEEP_SECONDS", "1"), ("NXT_WALK_SECONDS", "0")];
    let site = support::site(options, &database.url(), &settings).await;
    let daemon = site.spawn_with_files(FILES);
    ORDERS.change(&site.simulator, COMPANY, ROWS, "at first");
    ORDERS.wait_for(&site.pool, COMPANY, ROWS, "at first").await;
    let before = daemon.open_files();
    // They come again as often as they are hung up on.
    let mut strangers = JoinSet::new();
    for _ in 0..FILES {
        let address = site.public.clone();
        strangers.spawn(async move {
            while let Ok(mut stranger) = TcpStream::connect(&address).await {
                _ = stranger.read_to_end(&mut vec![]).await;
            }
        });
    }
    eventually("the daemon serves strangers", async || daemon.open_files() > before + 10).await;
    let sessions = "select pg_terminate_backend(pid) from pg_stat_activity
                     where datname = current_database() and application_name like 'nxt-mirror%'";
    for round in 0..3 {
        execute(&site.pool, sessions).await;
        let text = format!("round {round}");
        // Nobody could tell of it.
        ORDERS.change_silently(&site.simulator, COMPANY, ROWS, &text);
        ORDERS.wait_for(&site.pool, COMPANY, ROWS, &text).await;
        let open = daemon.open_files();
        assert!(open < FILES / 2, "{open} of {FILES} files are open");
    }
    assert!(strangers.try_join_next().is_none(), "all still try");
    daemon.kill().await;
}

/// Many senders may come while a daemon is about something else for a moment.
#[tokio::test]
async fn connections_wait_for_a_daemon_that_stands_still() {
    const SENDERS: usize = 400;
    let database = migrated().await;
    let site = site(&database).await;
    let daemon = start(&site).await;
    daemon.freeze();
    let senders = (0..SENDERS).map(|_| TcpStream::connect(&site.public));
    let connected = tokio::time::timeout(SETTLED_MAX, try_join_all(senders)).await;
    assert_eq!(connected.expect("all connect while it stands still").unwrap().len(), SENDERS);
    daemon.thaw();
    ORDERS.change(&site.simulator, COMPANY, ROWS, "after the thaw");
    ORDERS.wait_for(&site.pool, COMPANY, ROWS, "after the thaw").await;
}

#[tokio::test]
async fn rows_that_a_killed_worker_held_are_settled_by_another() {
    let database = migrated().await;
    let site = site(&database).await;
    start_and_ask(&site).await.kill().await;
    site.simulator.clear_faults();
    let _another = wait_for_another_to_settle(&site, "held").await;
}

#[tokio::test]
async fn rows_that_a_worker_holds_that_froze_while_it_asked_are_settled_by_another() {
    let database = migrated().await;
    let site = site(&database).await;
    let frozen = start_and_ask(&site).await;
    frozen.freeze();
    site.simulator.clear_faults();
    let _another = wait_for_another_to_settle(&site, "held").await;
    assert_harmless(&site, &frozen).await;
}

/// Its session goes on holding what it had locked.
#[tokio::test]
async fn rows_that_a_worker_holds_that_froze_while_it_wrote_are_settled_by_another() {
    let database = migrated().await;
    let site = site(&database).await;
    let frozen = start(&site).await;
    let mut user = site.pool.begin().await.unwrap();
    sqlx::query("lock table business_nxt.\"order\" in share mode").execute(&mut *user).await.unwrap();
    ORDERS.change(&site.simulator, COMPANY, ROWS, "held");
    site.simulator.drain().await;
    let waiting = "select count(*) from pg_locks where not granted and relation = 'business_nxt.\"order\"'::regclass";
    eventually("it waits for the table", async || count(&site.pool, waiting).await > 0).await;
    frozen.freeze();
    user.rollback().await.unwrap();
    let _another = wait_for_another_to_settle(&site, "held").await;
    assert_harmless(&site, &frozen).await;
}

const MEGABYTES_MAX: u64 = 250;

/// Puts long rows into the source that no notification has told of.
fn put_long_rows(site: &Site, rows: i64, bytes: usize) {
    let text = "x".repeat(bytes);
    let long = |number| {
        let mut row = PRODUCTS.row(number, "long");
        row.insert("information1".into(), text.clone().into());
        row
    };
    let rows: Vec<_> = (1..=rows).map(long).collect();
    site.simulator.put_all(COMPANY, PRODUCTS.table, &rows, false).unwrap();
}

async fn assert_mirrored_in_little_memory(site: &Site, worker: &Daemon, rows: i64) {
    let all_shown = async || PRODUCTS.shown(&site.pool, COMPANY, "long").await == rows;
    eventually_within(GREAT_PATIENCE, "all long rows are mirrored", all_shown).await;
    site.wait_for_none("waiting rows", "select sum(backlog)::bigint from nxt_mirror.freshness").await;
    let peak = worker.peak_memory();
    assert!(peak <= MEGABYTES_MAX, "{peak} MB for {rows} rows");
}

/// Announces rows to a receiver, then lets a worker find them all waiting.
async fn assert_waiting_rows_take_little_memory(rows: i64, bytes: usize) {
    let database = migrated().await;
    let site = site(&database).await;
    let worker = find_long_rows_waiting(&site, rows, bytes).await;
    assert_mirrored_in_little_memory(&site, &worker, rows).await;
}

async fn find_long_rows_waiting(site: &Site, rows: i64, bytes: usize) -> Daemon {
    put_long_rows(site, rows, bytes);
    let receiver = site.spawn_as("receiver");
    for number in 1..=rows {
        let key = object(json!({ "productNo": number.to_string() }));
        site.simulator.announce(COMPANY, PRODUCTS.table, key).unwrap();
    }
    site.simulator.drain().await;
    receiver.kill().await;
    site.spawn_as("worker")
}

#[tokio::test]
async fn many_long_rows_that_wait_take_little_memory() {
    assert_waiting_rows_take_little_memory(2_000, 100_000).await;
}

#[tokio::test]
async fn very_long_rows_that_wait_take_little_memory() {
    assert_waiting_rows_take_little_memory(150, 1_000_000).await;
}

/// Whoever fetches faster than can be written must not gather what is fetched.
#[tokio::test]
async fn long_rows_of_a_table_that_a_user_locks_take_little_memory() {
    let database = migrated().await;
    let site = site(&database).await;
    let daemon = start(&site).await;
    PRODUCTS.change(&site.simulator, COMPANY, 1, "short");
    PRODUCTS.wait_for(&site.pool, COMPANY, 1, "short").await;
    daemon.kill().await;
    let mut user = site.pool.begin().await.unwrap();
    sqlx::query("lock table business_nxt.product in share mode").execute(&mut *user).await.unwrap();
    let requests = || site.simulator.counters().operations.get("FetchRows").copied().unwrap_or_default();
    let before = requests();
    let worker = find_long_rows_waiting(&site, 2_000, 100_000).await;
    let paused = "select count(*) from nxt_mirror.freshness where paused_until is not null";
    eventually("the table is left alone", async || count(&site.pool, paused).await > 0).await;
    let fetched = requests() - before;
    // As many requests of one target are under way at once.
    assert!(fetched <= 4, "{fetched} requests for rows that cannot be written");
    user.rollback().await.unwrap();
    assert_mirrored_in_little_memory(&site, &worker, 2_000).await;
}

#[tokio::test]
async fn a_walk_over_long_rows_takes_little_memory() {
    let database = migrated().await;
    let options = Options { published_example: false, ..Options::default() };
    let site = support::site(options, &database.url(), &[("NXT_TABLES", "Product")]).await;
    put_long_rows(&site, 2_000, 100_000);
    let worker = site.spawn_as("worker");
    assert_mirrored_in_little_memory(&site, &worker, 2_000).await;
}
