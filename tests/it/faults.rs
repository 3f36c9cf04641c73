//! What goes wrong at the API, and what the mirror makes of it.

use std::time::Duration;

use nxt_simulator::{Fault, FaultKind, Owner};
use nxt_testkit::object;
use serde_json::json;

use crate::support::app::{COMPANY, TestApp};

fn orders(app: &TestApp, owner: Owner, count: i64) {
    for number in 1..=count {
        let row = object(json!({ "orderNo": number, "name": format!("Order {number}") }));
        app.simulator.put(owner, "Order", row).unwrap();
    }
}

#[tokio::test]
async fn every_passing_fault_ends_in_an_equal_mirror() {
    for kind in [
        FaultKind::Unauthorized,
        FaultKind::TooManyRetryAfter,
        FaultKind::InProgress,
        FaultKind::ServerError,
        FaultKind::Unavailable,
        FaultKind::Dropped,
        FaultKind::Truncated,
        FaultKind::Html,
        FaultKind::PartialError,
        FaultKind::WrongShape,
        FaultKind::TokenAway,
    ] {
        let app = TestApp::start().await;
        app.simulator.fault(Fault::new(kind).times(2));
        orders(&app, COMPANY, 20);
        assert_eq!(app.assert_equal().await, 20, "{kind:?}");
        assert!(app.dead_letters().await.is_empty(), "{kind:?}");
        assert_eq!(app.simulator.counters().faults.values().sum::<u64>(), 2, "{kind:?} struck");
    }
}

#[tokio::test]
async fn a_wrong_answer_is_never_taken_for_a_missing_row() {
    for kind in [FaultKind::WrongShape, FaultKind::Html, FaultKind::Truncated, FaultKind::PartialError] {
        let app = TestApp::start().await;
        orders(&app, COMPANY, 5);
        app.assert_equal().await;
        app.simulator.fault(Fault::new(kind).times(3));
        // Not announced as a change, so that a row that is missing would be believed at once.
        for number in 1..=5 {
            app.simulator.announce(COMPANY, "Order", object(json!({ "orderNo": number }))).unwrap();
        }
        app.assert_equal().await;
        assert_eq!(app.count("select count(*) from nxt_mirror.sync_log where action = 'deleted'").await, 0, "{kind:?}");
    }
}

#[tokio::test]
async fn one_poisoned_row_is_set_aside_and_the_others_are_mirrored() {
    for kind in [FaultKind::PoisonPart, FaultKind::PoisonWhole] {
        let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 16).start().await;
        let key = object(json!({ "orderNo": 13 }));
        app.simulator.fault(Fault { key: key.clone(), ..Fault::new(kind).on(COMPANY, Some("Order")) });
        orders(&app, COMPANY, 30);
        app.settle().await;
        assert_eq!(app.mirrored("order").await.len(), 29, "{kind:?}");
        let letters: Vec<String> =
            sqlx::query_scalar("select key::text from nxt_mirror.dead_letter").fetch_all(&app.pool).await.unwrap();
        assert_eq!(letters, [r#"{"order_no": 13}"#], "{kind:?}");
        // Those beside it never failed: they are told apart within the claim that met the culprit.
        let innocent =
            "select count(*) from nxt_mirror.sync_log where action = 'failed' and key <> '{\"order_no\": 13}'";
        assert_eq!(app.count(innocent).await, 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_company_without_access_does_not_hold_up_another() {
    let app = TestApp::start().await;
    let denied = Owner::Company(2_000_002);
    app.simulator.fault(Fault::new(FaultKind::Deny).on(denied, None));
    orders(&app, denied, 10);
    orders(&app, COMPANY, 10);
    app.wait_for("rows of the other company", 10, "select count(*) from nxt_mirror.sync_log where action = 'inserted'")
        .await;
    app.settle().await;
    let letters = app.dead_letters().await;
    assert_eq!(letters.len(), 10);
    assert!(letters[0].contains("VismaNetCompanyId"), "{letters:?}");
}

/// Requests that touch the company fail as a whole, as if any row of theirs were poisoned.
#[tokio::test]
async fn a_company_that_is_down_costs_little_harms_none_and_comes_back_by_itself() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 16).start().await;
    let down = Owner::Company(2_000_002);
    app.simulator.fault(Fault::new(FaultKind::TenantDown).on(down, None));
    orders(&app, down, 40);
    orders(&app, COMPANY, 40);
    app.simulator.put(down, "Product", object(json!({ "productNo": "A" }))).unwrap();
    app.settle().await;
    assert_eq!(app.mirrored("order").await.len(), 40);
    assert_eq!(app.dead_letters().await.len(), 41);
    // One by one they would have been 41 requests and their probes, each several times.
    let requests = app.simulator.counters().graphql_requests;
    assert!(requests < 120, "{requests} requests");
    app.simulator.clear_faults();
    // One row of a table that can be read brings back those of that table; the other table is probed now and then.
    app.simulator.put(down, "Order", object(json!({ "orderNo": 41 }))).unwrap();
    app.wait_for("the rows of both companies", 81, "select count(*) from business_nxt.\"order\"").await;
    app.wait_for("the other table", 1, "select count(*) from business_nxt.product").await;
    assert_eq!(app.assert_equal().await, 82);
    assert!(app.dead_letters().await.is_empty());
}

/// The table answers a question that no row does, but not one of its rows can be read, as with a column that is broken.
#[tokio::test]
async fn a_table_whose_every_row_fails_is_not_searched_for_a_culprit() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 200).start().await;
    app.simulator.fault(Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")));
    let rows: Vec<_> = (1..=200).map(|number| object(json!({ "orderNo": number }))).collect();
    app.simulator.put_all(COMPANY, "Order", &rows, true).unwrap();
    app.put("Product", json!({ "productNo": "A" }));
    app.settle().await;
    assert_eq!(app.mirrored("product").await.len(), 1);
    assert_eq!(app.dead_letters().await.len(), 200);
    let requests = app.simulator.counters().graphql_requests;
    assert!(requests < 500, "{requests} requests");
    app.simulator.clear_faults();
    app.put("Order", json!({ "orderNo": 201 }));
    app.wait_for("all orders", 201, "select count(*) from business_nxt.\"order\"").await;
    assert_eq!(app.assert_equal().await, 202);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_column_that_vanishes_is_kept_and_does_not_stop_the_table() {
    let app = TestApp::start().await;
    orders(&app, COMPANY, 1);
    app.settle().await;
    app.simulator.hide_column("Order", "employeeNo").unwrap();
    orders(&app, COMPANY, 2);
    app.assert_equal().await;
    assert!(app.mirrored("order").await[0].contains_key("employee_no"));
    let note: String =
        sqlx::query_scalar("select note from nxt_mirror.mirrored_table").fetch_one(&app.pool).await.unwrap();
    assert!(note.contains("employee_no"), "{note}");
}

#[tokio::test]
async fn reads_that_lag_end_in_the_newest_row() {
    let app = TestApp::start().await;
    app.simulator.set_read_lag(Duration::from_millis(1_500));
    orders(&app, COMPANY, 3);
    app.put("Order", json!({ "orderNo": 1, "name": "newest" }));
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 3 }))).unwrap();
    assert_eq!(app.assert_equal().await, 2);
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let app = TestApp::builder().simulator(|options| options.token_seconds = 1).start().await;
    orders(&app, COMPANY, 1);
    app.settle().await;
    app.simulator.fault(Fault::new(FaultKind::Unauthorized).times(1));
    orders(&app, COMPANY, 2);
    app.assert_equal().await;
    assert!(app.simulator.counters().token_requests >= 2);
}

#[tokio::test]
async fn the_budget_grants_no_more_than_its_slots_and_its_places() {
    let app = TestApp::start().await;
    app.daemon.stop().await;
    sqlx::query("update nxt_mirror.api_slot set free_at = '-infinity'").execute(&app.pool).await.unwrap();
    let grant = "select count((nxt_mirror.grant_request($1, $2, false, 0, 0, $3, '75 s')).granted_slot) from generate_series(1, 10)";
    let granted = async |slots: i32, places: i32, tenant: &str| -> i64 {
        let query = sqlx::query_scalar(grant).bind(slots).bind(places).bind(vec![tenant.to_owned()]);
        query.fetch_one(&app.pool).await.unwrap()
    };
    assert_eq!(granted(600, 3, "company 1").await, 3);
    assert_eq!(granted(600, 3, "company 2").await, 3);
    // Six slots are taken: four more make ten.
    assert_eq!(granted(10, 60, "company 3").await, 4);
    assert_eq!(granted(10, 60, "company 4").await, 0);
}

#[tokio::test]
async fn walks_have_their_floor_and_live_work_its_share() {
    let app = TestApp::start().await;
    // The daemon has made its slots, and takes none of them now.
    app.daemon.stop().await;
    // Twenty slots, of which walks leave six to live work, and live work three to walks.
    let grant = "select count((nxt_mirror.grant_request(20, 60, $1, 6, 3, '{}', '75 s')).granted_slot)
                   from generate_series(1, 30)";
    let granted = async |is_background: bool| -> i64 {
        sqlx::query_scalar(grant).bind(is_background).fetch_one(&app.pool).await.unwrap()
    };
    sqlx::query("update nxt_mirror.api_slot set free_at = '-infinity', background = false")
        .execute(&app.pool)
        .await
        .unwrap();
    assert_eq!(granted(true).await, 14, "walks leave live work its share");
    assert_eq!(granted(false).await, 6);
    sqlx::query("update nxt_mirror.api_slot set free_at = '-infinity', background = false")
        .execute(&app.pool)
        .await
        .unwrap();
    // Walks have just asked, so live work leaves them their floor.
    assert_eq!(granted(false).await, 17);
    assert_eq!(granted(true).await, 3);
    sqlx::query("update nxt_mirror.api_slot set free_at = '-infinity', background = false")
        .execute(&app.pool)
        .await
        .unwrap();
    sqlx::query("update nxt_mirror.api_budget set background_wanted_until = '-infinity'")
        .execute(&app.pool)
        .await
        .unwrap();
    assert_eq!(granted(false).await, 20, "nobody else wants any");
}
