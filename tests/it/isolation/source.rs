//! Obstacles at the API: companies, tables and rows that answer late, never, or with an error.

use std::time::{Duration, Instant};

use nxt_simulator::{Fault, FaultKind, Owner};
use nxt_testkit::object;
use serde_json::{Value, json};

use super::{GREAT_PATIENCE, ORDERS, PRODUCTS, assert_all_accepted, count, eventually, wait_for_strike};
use crate::support::app::{COMPANY, TestApp};

const OTHER: Owner = Owner::Company(2_000_002);

fn company(index: i64) -> Owner {
    Owner::Company(2_000_000 + index)
}

async fn with_companies(count: i64) -> TestApp {
    let companies = (1..=count).map(|index| (1_000_001, 2_000_000 + index)).collect();
    let app = TestApp::builder().simulator(|options| options.companies = companies).start().await;
    for index in 1..=count {
        ORDERS.change(&app.simulator, company(index), 3, "at first");
    }
    app.assert_equal().await;
    app
}

#[tokio::test]
async fn ten_slow_companies_do_not_make_a_healthy_one_slow() {
    let app = with_companies(12).await;
    let slow = || (3..=12).map(company);
    for owner in slow() {
        app.simulator.fault(Fault { millis: 30_000, ..Fault::new(FaultKind::Slow).on(owner, None) });
    }
    for owner in slow() {
        ORDERS.change(&app.simulator, owner, 3, "slow");
    }
    // The first ones travel before anybody can know who is slow, the others while all ten are asked.
    for round in 0..5 {
        let text = format!("round {round}");
        for owner in [company(1), company(2)] {
            ORDERS.change(&app.simulator, owner, 3, &text);
            ORDERS.wait_for(&app.pool, owner, 3, &text).await;
        }
    }
    for owner in slow() {
        assert_eq!(ORDERS.shown(&app.pool, owner, "slow").await, 0, "{owner:?} has not answered yet");
    }
    app.simulator.clear_faults();
    app.assert_equal().await;
}

/// Does something, and demands that it is done before even the first request that hangs is given up.
async fn while_requests_hang(done: impl Future<Output = ()>) {
    // The API ends a request after 59 s, and who asks waits about as long.
    let in_time = tokio::time::timeout(Duration::from_secs(50), done).await;
    in_time.expect("nobody waits for those who hang");
}

#[tokio::test]
async fn companies_that_hang_take_no_place_that_a_healthy_one_needs() {
    let app = with_companies(12).await;
    for owner in (3..=12).map(company) {
        app.simulator.fault(Fault::new(FaultKind::Hang).on(owner, None));
    }
    let rounds = async {
        for round in 0..5 {
            let text = format!("round {round}");
            // Each time more of their rows wait.
            for owner in (3..=12).map(company) {
                ORDERS.change(&app.simulator, owner, 3 + round, "hangs");
            }
            for owner in [company(1), company(2)] {
                ORDERS.change(&app.simulator, owner, 3, &text);
            }
            for owner in [company(1), company(2)] {
                ORDERS.wait_for(&app.pool, owner, 3, &text).await;
            }
        }
    };
    while_requests_hang(rounds).await;
    wait_for_strike(&app.simulator, "hang").await;
    app.simulator.clear_faults();
    app.assert_equal().await;
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_lost_notification_is_healed_while_another_company_hangs() {
    let app = TestApp::builder()
        .set("NXT_TABLES", "Order")
        .set("NXT_SWEEP_SECONDS", 5)
        .simulator(|options| options.companies = vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002)])
        .start()
        .await;
    for owner in [COMPANY, OTHER] {
        ORDERS.change(&app.simulator, owner, 3, "at first");
    }
    app.assert_equal().await;
    let walked = "select count(*) from nxt_mirror.freshness where not partial";
    eventually("both are walked", async || count(&app.pool, walked).await == 2).await;
    app.simulator.fault(Fault::new(FaultKind::Hang).on(OTHER, None));
    ORDERS.change(&app.simulator, OTHER, 3, "hangs");
    wait_for_strike(&app.simulator, "hang").await;
    // A sweep that hangs is under way, too, before the second of these changes.
    for text in ["lost", "lost again", "lost once more"] {
        ORDERS.change_silently(&app.simulator, COMPANY, 2, text);
        ORDERS.wait_for(&app.pool, COMPANY, 2, text).await;
    }
    assert_eq!(ORDERS.shown(&app.pool, OTHER, "hangs").await, 0, "the other company still hangs");
    app.simulator.clear_faults();
    app.assert_equal().await;
}

fn unknown_table(number: i64) -> Value {
    json!({
        "tableIdentifier": format!("Unknown{number}"), "customerNo": 1_000_001, "companyNo": 2_000_001,
        "event": "UPDATE", "primaryKeys": [{ "UnknownNo": number }], "timestamp": "2026-01-01T00:00:00Z",
    })
}

#[tokio::test]
async fn a_description_that_does_not_come_and_unknown_tables_hold_up_no_known_table() {
    let app = TestApp::start().await;
    ORDERS.change(&app.simulator, COMPANY, 3, "at first");
    app.assert_equal().await;
    let hanging = Fault::new(FaultKind::HangDescription);
    app.simulator.fault(Fault { table: Some("Product".into()), ..hanging });
    let rounds = async {
        for round in 0..4 {
            let text = format!("round {round}");
            PRODUCTS.change(&app.simulator, COMPANY, 1 + round, &text);
            for number in 1..=10 {
                app.accept(&unknown_table(round * 10 + number)).await;
            }
            for owner in [COMPANY, OTHER] {
                ORDERS.change(&app.simulator, owner, 3, &text);
                ORDERS.wait_for(&app.pool, owner, 3, &text).await;
            }
        }
    };
    while_requests_hang(rounds).await;
    wait_for_strike(&app.simulator, "hang_description").await;
    assert_eq!(PRODUCTS.shown(&app.pool, COMPANY, "round 3").await, 0, "it is not described yet");
    assert_all_accepted(&app.simulator).await;
    app.simulator.clear_faults();
    app.assert_equal().await;
    let reasons = app.dead_letters().await;
    assert!(reasons.len() == 40 && reasons.iter().all(|reason| reason.contains("Unknown")), "{reasons:?}");
}

/// Requests of one change of a row that can be read, beside those that were set aside.
const FEW_REQUESTS: u64 = 10;

/// Changes the row that can be read. Returns how many requests were sent meanwhile.
async fn requests_of_a_change(app: &TestApp, text: &str) -> u64 {
    let before = app.simulator.counters().graphql_requests;
    ORDERS.change(&app.simulator, COMPANY, 1, text);
    ORDERS.wait_for(&app.pool, COMPANY, 1, text).await;
    app.simulator.counters().graphql_requests - before
}

/// What cannot be read is asked for no more, although the row that can be read goes on changing, which is a success of
/// its table each time, and frees some of what was set aside because of the table.
async fn wait_until_bad_rows_cost_nothing(app: &TestApp, rows: i64) {
    let letters = "select count(*) from nxt_mirror.dead_row where not of_target";
    let mut changes = 0..;
    let mut next = async || requests_of_a_change(app, &format!("change {}", changes.next().expect("no end"))).await;
    let deadline = Instant::now() + GREAT_PATIENCE;
    while count(&app.pool, letters).await < rows {
        assert!(Instant::now() < deadline, "each bad row is set aside as its own fault");
        next().await;
    }
    for _ in 0..5 {
        let requests = next().await;
        assert!(requests <= FEW_REQUESTS, "{requests} requests for a change");
    }
}

/// Many rows fail for good, alone or with the request they are part of, and one among them can be read.
async fn assert_good_row_found(kind: FaultKind, rows: i64) {
    let app = TestApp::start().await;
    ORDERS.change(&app.simulator, COMPANY, 1, "good");
    app.assert_equal().await;
    let key = object(json!({ "employeeNo": 13 }));
    app.simulator.fault(Fault { key, ..Fault::new(kind).on(COMPANY, Some("Order")) });
    let mut all: Vec<_> =
        (2..=1 + rows).map(|number| object(json!({ "orderNo": number, "employeeNo": 13, "name": "bad" }))).collect();
    all.insert(all.len() / 2, ORDERS.row(5_000, "good among bad"));
    app.simulator.put_all(COMPANY, "Order", &all, true).unwrap();
    PRODUCTS.change(&app.simulator, COMPANY, 3, "beside");
    ORDERS.change(&app.simulator, OTHER, 3, "beside");
    assert_all_accepted(&app.simulator).await;
    ORDERS.wait_for(&app.pool, OTHER, 3, "beside").await;
    PRODUCTS.wait_for(&app.pool, COMPANY, 3, "beside").await;
    ORDERS.wait_for(&app.pool, COMPANY, 1, "good among bad").await;
    wait_until_bad_rows_cost_nothing(&app, rows).await;
    assert_eq!(ORDERS.shown(&app.pool, COMPANY, "bad").await, 0, "they still fail");
    app.simulator.clear_faults();
    assert!(app.command(&["backfill", "--table", "Order", "--company", "2000001"]).await.status.success());
    app.assert_equal().await;
}

#[tokio::test]
async fn one_good_row_is_found_among_two_thousand_that_fail_their_part() {
    assert_good_row_found(FaultKind::PoisonPart, 2_000).await;
}

/// Each of them needs a request of its own.
#[tokio::test]
async fn one_good_row_is_found_among_many_that_fail_the_whole_request() {
    assert_good_row_found(FaultKind::PoisonWhole, 40).await;
}
