//! Columns of the customer's own, which are not in the typed schema.

use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::{Builder, COMPANY, TestApp};

/// Identifier, type in the settings, scalar at the source, type in the mirror.
const COLUMNS: [(&str, &str, &str, &str); 7] = [
    ("MyDme_level", "integer", "Long", "my_dme_level bigint"),
    ("MyDme_score", "decimal", "Decimal", "my_dme_score numeric"),
    ("MyDme_approvedBy", "string", "String", "my_dme_approved_by text"),
    ("MyDme_urgent", "boolean", "Boolean", "my_dme_urgent boolean"),
    ("MyDme_dueOn", "date", "Date", "my_dme_due_on date"),
    ("MyDme_openFrom", "time", "Time", "my_dme_open_from time without time zone"),
    ("MyDme_seenAt", "timestamp", "DateTime", "my_dme_seen_at timestamp without time zone"),
];

fn setting() -> String {
    COLUMNS.map(|(name, kind, _, _)| format!("Order.{name}={kind}")).join(";")
}

/// Without sweeps, so that what is found is found by what the test calls for.
fn quiet() -> Builder {
    TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_WALK_SECONDS", 0)
}

fn extend(app: &TestApp) {
    for (name, _, scalar, _) in COLUMNS {
        app.simulator.add_extension_column("Order", name, scalar).unwrap();
    }
}

fn order(number: i64) -> Value {
    json!({
        "orderNo": number, "name": "an order", "MyDme_level": 9_007_199_254_740_993_i64, "MyDme_score": 12.5,
        "MyDme_approvedBy": "Kåre", "MyDme_urgent": true, "MyDme_dueOn": "2026-12-01", "MyDme_openFrom": "08:30:00",
        "MyDme_seenAt": "2026-11-25T08:30:00.123456",
    })
}

fn put_silently(app: &TestApp, order: Value) {
    app.simulator.put_all(COMPANY, "Order", &[object(order)], false).unwrap();
}

async fn verify(app: &TestApp, option: &[&str]) -> (Option<i32>, String) {
    let output = app.command(&[&["verify", "--table", "Order"], option].concat()).await;
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn columns_of_the_customer_s_own_are_mirrored_live_walked_and_compared() {
    let app = quiet().set("NXT_EXTENSION_COLUMNS", setting()).start().await;
    extend(&app);
    app.put("Order", order(1));
    app.assert_equal().await;
    let types: Vec<String> = sqlx::query_scalar(
        "select attname || ' ' || format_type(atttypid, atttypmod) from pg_attribute
          where attrelid = 'business_nxt.\"order\"'::regclass and attname like 'my_dme%' order by attnum",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    assert_eq!(types, COLUMNS.map(|(_, _, _, mirrored)| mirrored));

    put_silently(&app, order(2));
    put_silently(&app, json!({ "orderNo": 3, "name": "without any of them" }));
    let loaded = app.command(&["backfill", "--company", "2000001", "--table", "Order"]).await;
    assert!(loaded.status.success(), "{loaded:?}");
    assert_eq!(app.assert_equal().await, 3);
    assert_eq!(verify(&app, &["--company", "2000001"]).await.0, Some(0));

    put_silently(&app, json!({ "orderNo": 2, "MyDme_score": 13, "MyDme_openFrom": "09:00:00" }));
    let (code, found) = verify(&app, &["--company", "2000001"]).await;
    assert!(code == Some(1) && found.contains("my_dme_score") && found.contains("my_dme_open_from"), "{found}");
    assert_eq!(verify(&app, &["--company", "2000001", "--repair"]).await.0, Some(0));
    app.assert_equal().await;
}

#[tokio::test]
async fn a_column_that_the_settings_name_for_a_table_with_rows_is_filled() {
    let mut app = quiet().set("NXT_WALK_SECONDS", 86_400).set("NXT_TABLES", "Order").start().await;
    extend(&app);
    for number in 1..=3 {
        app.put("Order", order(number));
    }
    app.wait_for("orders", 3, "select count(*) from business_nxt.\"order\"").await;
    app.settle().await;
    // Nothing else is to be done with the table for a day.
    app.wait_for("the first loads", 3, "select count(*) from nxt_mirror.freshness where not partial").await;
    app.set("NXT_EXTENSION_COLUMNS", setting());
    app.restart(async |_| {}).await;
    let filled = "select count(*) from information_schema.columns
                   where table_schema = 'business_nxt' and table_name = 'order' and column_name like 'my_dme%'";
    app.wait_for("the columns", 7, filled).await;
    app.wait_for("their values", 3, "select count(*) from business_nxt.\"order\" where my_dme_score = 12.5").await;
    app.assert_equal().await;
}

/// A notification may name a column that the settings do not.
#[tokio::test]
async fn a_column_of_the_customer_s_own_that_is_announced_and_not_wanted_costs_little() {
    let app = quiet().start().await;
    app.put("Order", json!({ "orderNo": 1, "name": "plain" }));
    app.assert_equal().await;
    app.simulator.add_extension_column("Order", "MyDme_score", "Decimal").unwrap();
    let before = app.row_requests();
    for number in 1..=10 {
        app.put("Order", json!({ "orderNo": 1, "name": format!("name {number}"), "MyDme_score": number }));
        app.settle().await;
    }
    let requests = app.row_requests() - before;
    assert!(requests <= 10 + 5, "{requests} requests for 10 changes");
    assert!(app.dead_letters().await.is_empty());
    let names = app.mirrored("order").await;
    assert_eq!((names.len(), &names[0]["name"]), (1, &json!("name 10")));
}
