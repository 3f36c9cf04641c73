//! A crash between any two steps of the main path.

use std::os::unix::process::ExitStatusExt;

use futures_util::{StreamExt, stream};
use nxt_mirror::failpoint::{self, Failpoint};
use nxt_simulator::{Options, Owner};
use nxt_testkit::object;
use serde_json::json;

use crate::support::{app::COMPANY, migrated, site};

/// Daemons at the same time.
const AT_ONCE: usize = 4;
/// The signal of `abort`.
const SIGABRT: i32 = 6;
const SILENT_ROWS: i64 = 500;
const ANNOUNCED: i64 = 14;

fn line(number: i64, text: &str) -> serde_json::Map<String, serde_json::Value> {
    object(json!({ "orderNo": number / 10, "lineNo": number % 10, "description": text }))
}

/// Crashes at a point, starts again, and reports what was compared.
async fn crash_at(point: Failpoint) -> String {
    let database = migrated().await;
    let options = Options {
        published_example: false,
        companies: vec![(1_000_001, 2_000_001)],
        requests_per_minute: 100_000,
        ..Options::default()
    };
    let settings = [
        ("NXT_TABLES", "Order,OrderLine"),
        // Pages of 20 rows, so that the orders are cut into two ranges.
        ("NXT_FETCH_ROWS_MAX", "2"),
        ("NXT_SWEEP_SECONDS", "1"),
        ("NXT_WALK_SECONDS", "2"),
        ("NXT_REQUESTS_PER_MINUTE", "6000"),
    ];
    let site = site(options, &database.url(), &settings).await;
    let orders: Vec<_> = (1..=SILENT_ROWS).map(|number| object(json!({ "orderNo": number, "name": "old" }))).collect();
    site.simulator.put_all(COMPANY, "Order", &orders, false).unwrap();
    let mut daemon = site.spawn(&[(failpoint::VARIABLE, point.name())]);
    for number in 0..10 {
        site.simulator.put(COMPANY, "OrderLine", line(number, "first")).unwrap();
    }
    let status = daemon.ended().await;
    assert_eq!(status.signal(), Some(SIGABRT), "{}: ended with {status}", point.name());
    site.simulator.put(COMPANY, "OrderLine", line(1, "second")).unwrap();
    site.simulator.put(Owner::Company(2_000_001), "OrderLine", line(11, "new")).unwrap();
    for number in [2, 3] {
        let key = object(json!({ "orderNo": 0, "lineNo": number }));
        site.simulator.delete(COMPANY, "OrderLine", key).unwrap();
    }
    // Without further walks and sweeps, which would make good what the crash had lost.
    let _daemon = site.spawn(&[("NXT_SWEEP_SECONDS", "3600"), ("NXT_WALK_SECONDS", "3600")]);
    site.simulator.drain().await;
    let unloaded = "select 2 - count(*) from nxt_mirror.walk where last_finished_at is not null";
    site.wait_for_none("tables not loaded", unloaded).await;
    site.settle().await;
    let comparison = site.compare().await;
    assert!(comparison.is_equal(), "{}: {comparison}", point.name());
    assert_eq!(site.simulator.sender_counters().given_up, 0, "{}", point.name());
    let stored = site.count("select count(*) from nxt_mirror.notification").await;
    // What was stored and not answered is sent again, and stored again.
    assert!(stored >= ANNOUNCED, "{}: of {ANNOUNCED} notifications only {stored} are stored", point.name());
    format!("{:<18} crashed, {stored} of {ANNOUNCED} notifications stored, {comparison}", point.name())
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing() {
    let points = stream::iter(Failpoint::ALL.iter().copied());
    let outcomes: Vec<String> = points.map(crash_at).buffered(AT_ONCE).collect().await;
    assert_eq!(outcomes.len(), Failpoint::ALL.len());
    println!("{}", outcomes.join("\n"));
}
