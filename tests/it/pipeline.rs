//! From a signed notification to a mirrored row.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};

use nxt_mirror::config::Role;
use nxt_simulator::{Fault, FaultKind, Owner};
use nxt_testkit::object;

use crate::support::{
    PROGRAM,
    app::{COMPANY, TestApp},
};

const PUBLISHED: &str = include_str!("../fixtures/order-line-insert.json");

fn delete_of_published(timestamp: &str) -> Value {
    json!({
        "tableIdentifier": "OrderLine", "customerNo": 4801958, "companyNo": 5199768, "event": "DELETE",
        "primaryKeys": [{"OrderNo": 3}, {"LineNo": 1}], "timestamp": timestamp, "changedByUser": "ola.normann",
    })
}

fn published_key() -> serde_json::Map<String, Value> {
    object(json!({ "orderNo": 3, "lineNo": 1 }))
}

const EXAMPLE: Owner = Owner::Company(5_199_768);

#[tokio::test]
async fn the_published_example_becomes_a_row_with_the_columns_of_the_source() {
    let app = TestApp::with_example().await;
    app.accept(&serde_json::from_str(PUBLISHED).unwrap()).await;
    app.settle().await;
    let rows = app.mirrored("order_line").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["description"], "Hello webhook");
    // Neither is in the body: both came over GraphQL.
    assert_eq!((&rows[0]["product_no"], rows[0]["quantity"].to_string()), (&json!("1001"), "5.5".into()));
    assert_eq!((&rows[0]["_company_no"], &rows[0]["order_no"]), (&json!(5_199_768), &json!(3)));
    assert_eq!(rows[0]["_changed_at"], "2025-02-06T21:15:28.366+00:00");
    let log = app.count("select count(*) from nxt_mirror.recent_activity where what like 'row added%'").await;
    assert_eq!(log, 1);
}

#[tokio::test]
async fn a_delete_removes_the_row_without_asking_the_source() {
    let app = TestApp::with_example().await;
    app.accept(&serde_json::from_str(PUBLISHED).unwrap()).await;
    app.settle().await;
    app.simulator.delete_silently(EXAMPLE, "OrderLine", published_key()).unwrap();
    let requests = app.row_requests();
    assert!(requests > 0, "the row was asked for");
    let now = (Utc::now() + TimeDelta::seconds(1)).to_rfc3339();
    app.accept(&delete_of_published(&now)).await;
    app.settle().await;
    assert!(app.mirrored("order_line").await.is_empty());
    assert_eq!(app.row_requests(), requests);
}

#[tokio::test]
async fn a_late_delete_does_not_remove_a_row_that_was_made_again() {
    let app = TestApp::with_example().await;
    app.accept(&serde_json::from_str(PUBLISHED).unwrap()).await;
    app.settle().await;
    let deleted_at = Utc::now().to_rfc3339();
    app.simulator.delete_silently(EXAMPLE, "OrderLine", published_key()).unwrap();
    let again = object(json!({ "orderNo": 3, "lineNo": 1, "description": "Made again" }));
    app.simulator.put(EXAMPLE, "OrderLine", again).unwrap();
    app.settle().await;
    app.accept(&delete_of_published(&deleted_at)).await;
    app.settle().await;
    let rows = app.mirrored("order_line").await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["description"], "Made again");
    assert_eq!(app.count("select count(*) from nxt_mirror.sync_log where action = 'stale'").await, 1);
}

#[tokio::test]
async fn a_delete_and_a_new_row_are_told_apart_in_either_order_of_delivery() {
    for late_delete in [false, true] {
        let app = TestApp::with_example().await;
        app.simulator.set_knobs(|knobs| knobs.url = None);
        app.simulator.delete(EXAMPLE, "OrderLine", published_key()).unwrap();
        let deleted_at = Utc::now().to_rfc3339();
        app.simulator.put(EXAMPLE, "OrderLine", published_key()).unwrap();
        let mut insert: Value = serde_json::from_str(PUBLISHED).unwrap();
        insert["changedColumns"] =
            json!([{ "ChangedTimestamp": Utc::now().format("%Y%m%d%H%M%S%3f").to_string().parse::<i64>().unwrap() }]);
        let mut bodies = [delete_of_published(&deleted_at), insert];
        if late_delete {
            bodies.reverse();
        }
        for body in &bodies {
            app.accept(body).await;
        }
        app.settle().await;
        assert_eq!(app.mirrored("order_line").await.len(), 1, "late delete: {late_delete}");
    }
}

#[tokio::test]
async fn many_notifications_of_few_rows_cost_few_requests() {
    let app = TestApp::start().await;
    for turn in 0..600 {
        let row = json!({ "orderNo": turn % 20, "name": format!("turn {turn}") });
        app.put("Order", row);
    }
    assert_eq!(app.assert_equal().await, 20);
    assert!(app.row_requests() <= 14, "{:?}", app.simulator.counters());
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 600);
}

#[tokio::test]
async fn rows_of_several_tables_and_companies_travel_together() {
    let app = TestApp::start().await;
    app.simulator.stock_up().unwrap();
    for (owner, table) in app.simulator.tables() {
        let keys = app.simulator.key_columns(&table).unwrap();
        for row in app.simulator.rows(owner, &table).unwrap() {
            let key = row.into_iter().filter(|(name, _)| keys.contains(name)).collect();
            app.simulator.announce(owner, &table, key).unwrap();
        }
    }
    let rows = app.assert_equal().await;
    assert!(rows > 250, "{rows}");
    let counters = app.simulator.counters();
    assert_eq!((counters.rate_violations, counters.in_flight_violations), (0, 0));
    let users = app.mirrored("user").await;
    assert_eq!(users[0]["_customer_no"], 1_000_001);
}

#[tokio::test]
async fn a_row_that_did_not_change_is_not_written_again() {
    let app = TestApp::with_example().await;
    app.accept(&serde_json::from_str(PUBLISHED).unwrap()).await;
    app.settle().await;
    let version = "select xmin::text::bigint from business_nxt.order_line";
    let before = app.count(version).await;
    app.accept(&serde_json::from_str(PUBLISHED).unwrap()).await;
    app.settle().await;
    assert_eq!(app.count(version).await, before);
    assert_eq!(app.count("select count(*) from nxt_mirror.sync_log where action = 'unchanged'").await, 1);
}

#[tokio::test]
async fn soft_deletes_keep_the_row_and_a_new_one_revives_it() {
    let app = TestApp::builder().set("NXT_DELETES", "soft").start().await;
    let row = object(json!({ "orderNo": 7, "name": "Sigurd" }));
    app.simulator.put(COMPANY, "Order", row.clone()).unwrap();
    app.settle().await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 7 }))).unwrap();
    app.settle().await;
    assert_eq!(app.count("select count(*) from business_nxt.\"order\" where _deleted_at is not null").await, 1);
    app.simulator.put(COMPANY, "Order", row).unwrap();
    app.assert_equal().await;
    assert_eq!(app.count("select count(*) from business_nxt.\"order\" where _deleted_at is null").await, 1);
}

#[tokio::test]
async fn string_keys_follow_the_source_s_comparison() {
    let app = TestApp::start().await;
    app.put("Product", json!({ "productNo": "Ærø 1", "description": "a" }));
    app.settle().await;
    let other_spelling = |event: &str| {
        json!({
            "tableIdentifier": "Product", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": event,
            "primaryKeys": [{"ProductNo": "ÆRØ 1  "}], "timestamp": Utc::now().to_rfc3339(),
        })
    };
    app.accept(&other_spelling("UPDATE")).await;
    app.settle().await;
    let rows = app.mirrored("product").await;
    assert_eq!((rows.len(), &rows[0]["product_no"]), (1, &json!("Ærø 1")));
    // Only the case of the key changes: the source still has one row.
    app.put("Product", json!({ "productNo": "ÆRØ 1", "description": "b" }));
    app.settle().await;
    assert_eq!(app.mirrored("product").await.len(), 1);
    app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": "ærø 1" }))).unwrap();
    app.accept(&other_spelling("DELETE")).await;
    app.settle().await;
    assert!(app.mirrored("product").await.is_empty());
}

#[tokio::test]
async fn a_table_whose_description_tells_no_key_is_mirrored_by_the_key_of_its_notification() {
    let app = TestApp::start().await;
    let row = object(json!({ "freeInformation1No": 5, "text1": "free" }));
    app.simulator.put(COMPANY, "FreeInformation1", row).unwrap();
    app.assert_equal().await;
    assert_eq!(app.mirrored("free_information1").await[0]["text1"], "free");
}

#[tokio::test]
async fn unknown_tables_and_foreign_keys_end_in_the_dead_letters() {
    let app = TestApp::start().await;
    let body = |table: &str, key: Value| {
        json!({
            "tableIdentifier": table, "customerNo": 1, "companyNo": 2_000_001, "event": "INSERT",
            "primaryKeys": [key], "timestamp": "2026-01-01T00:00:00Z",
        })
    };
    app.accept(&body("Unicorn", json!({ "HornNo": 1 }))).await;
    app.accept(&body("Order", json!({ "HornNo": 1 }))).await;
    app.accept(&body("Order", json!({ "OrderNo": "many" }))).await;
    app.settle().await;
    let unicorn = "select count(*) from nxt_mirror.TABLE where table_name = 'Unicorn' and key = '{\"horn_no\": 1}'";
    for table in ["dead_letter", "recent_activity"] {
        let sql = sqlx::AssertSqlSafe(unicorn.replace("TABLE", table));
        assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&app.pool).await.unwrap(), 1, "{table}");
    }
    let reasons = app.dead_letters().await.join("\n");
    assert!(reasons.contains("no company table Unicorn"), "{reasons}");
    assert!(reasons.contains("the key columns are (hornno), but table Order has (orderNo)"), "{reasons}");
    assert!(reasons.contains("many"), "{reasons}");
    assert_eq!(app.dead_letters().await.len(), 3);
}

#[tokio::test]
async fn rows_outside_the_chosen_tables_and_companies_are_left_alone() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_COMPANIES", "2000001").start().await;
    for (company, table) in [(2_000_001, "Order"), (2_000_001, "Batch"), (2_000_002, "Order")] {
        let key = if table == "Order" { "orderNo" } else { "batchNo" };
        app.simulator.put(Owner::Company(company), table, object(json!({ key: 1 }))).unwrap();
    }
    app.settle().await;
    assert_eq!(app.mirrored("order").await.len(), 1);
    assert_eq!(app.count("select count(*) from nxt_mirror.sync_log where action = 'ignored'").await, 2);
    // By the names that were sent, although no mirrored table tells them.
    let named = "select count(*) from nxt_mirror.recent_activity
                  where action = 'ignored' and key = jsonb_build_object(
                        case table_name when 'Batch' then 'batch_no' else 'order_no' end, 1)";
    assert_eq!(app.count(named).await, 2);
}

#[tokio::test]
async fn what_a_receiver_stores_another_process_mirrors() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    app.put("Order", json!({ "orderNo": 1, "name": "Ragnhild" }));
    app.simulator.drain().await;
    assert_eq!(app.count("select rows from nxt_mirror.waiting").await, 1);
    let worker = app.another(Role::Worker).await;
    app.assert_equal().await;
    worker.stop().await;
}

/// Targets that a worker works on.
const HELD: &str = "select count(*) from nxt_mirror.target join nxt_mirror.worker on worker.id = target.worker_id";

#[tokio::test]
async fn what_a_killed_daemon_had_stored_and_claimed_is_done_by_another() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    app.simulator.fault(Fault { millis: 60_000, ..Fault::new(FaultKind::Slow).times(1) });
    for number in 1..=5 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.simulator.drain().await;
    let mut killed = std::process::Command::new(PROGRAM)
        .args(["serve", "--role", "worker"])
        .envs(app.environment())
        .env("NXT_OPS_LISTEN", "127.0.0.1:0")
        .spawn()
        .unwrap();
    app.wait_for("claimed targets", 1, HELD).await;
    app.wait_until("the slow request is under way", |app| app.simulator.counters().faults.contains_key("slow")).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let other = app.another(Role::Worker).await;
    assert_eq!(app.assert_equal().await, 5);
    other.stop().await;
}

#[tokio::test]
async fn a_daemon_that_stops_leaves_nothing_claimed() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    app.simulator.fault(Fault { millis: 3_000, ..Fault::new(FaultKind::Slow) });
    for number in 1..=5 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.simulator.drain().await;
    let worker = app.another(Role::Worker).await;
    app.wait_for("claimed targets", 1, HELD).await;
    worker.stop().await;
    assert_eq!(app.count(HELD).await, 0);
}
