//! `subscriptions` tells what Business NXT sends notifications of, and what it does not.

use nxt_simulator::{Fault, FaultKind, Owner};
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::TestApp;

const CUSTOMER: Owner = Owner::Customer(1_000_001);

fn subscription(target: i64, company: i64, table: i64) -> Value {
    json!({ "webhookTarget": target, "companyNo": company, "tableNo": table })
}

fn unsubscribe(app: &TestApp, company: i64, table: i64) {
    let key = object(subscription(1, company, table));
    app.simulator.delete_silently(CUSTOMER, "WebhookSubscription", key).unwrap();
}

fn put(app: &TestApp, table: &str, row: Value) {
    app.simulator.put_all(CUSTOMER, table, &[object(row)], false).unwrap();
}

/// Exit code and lines.
async fn told(app: &TestApp, arguments: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = app.command(&[&["subscriptions"], arguments].concat()).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), text.lines().map(str::to_owned).collect())
}

/// Exit code and (company, table, state) of each object.
async fn told_in_json(app: &TestApp, arguments: &[&str]) -> (Option<i32>, Vec<(Value, Value, Value)>) {
    let output = app.command(&[&["subscriptions", "--json"], arguments].concat()).await;
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a JSON list");
    let entry = |entry: Value| (entry["company_no"].clone(), entry["table"].clone(), entry["state"].clone());
    (output.status.code(), list.into_iter().map(entry).collect())
}

#[tokio::test]
async fn what_is_subscribed_is_ok_and_what_is_not_is_told_with_the_numbers_to_type_in() {
    let app = TestApp::start().await;
    let asked = ["--table", "Order", "--table", "order_line", "--company", "2000001"];
    let (code, lines) = told(&app, &asked).await;
    assert_eq!((code, lines.len()), (Some(0), 2), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("ok")), "{lines:?}");

    unsubscribe(&app, 2_000_001, 128);
    let (code, lines) = told(&app, &asked).await;
    assert_eq!(code, Some(1), "{lines:?}");
    assert!(lines[0].starts_with("ok") && lines[0].contains("Order"), "{lines:?}");
    assert!(lines[1].starts_with("missing") && lines[1].contains("OrderLine"), "{lines:?}");
    assert!(lines[1].contains("company 2000001 and table 128"), "{lines:?}");

    // Somebody else's target is of no use.
    put(&app, "WebhookTarget", json!({ "lineNo": 2, "userName": "isv_other" }));
    put(&app, "WebhookSubscription", subscription(2, 2_000_001, 128));
    assert_eq!(told(&app, &asked).await.0, Some(1));
    put(&app, "WebhookTarget", json!({ "lineNo": 2, "userName": "ISV_simulated" }));
    assert_eq!(told(&app, &asked).await.0, Some(0));
}

#[tokio::test]
async fn a_filter_is_told_with_what_it_keeps_back() {
    let app = TestApp::start().await;
    let asked = ["--table", "Order", "--company", "2000001"];
    let mut filtered = subscription(1, 2_000_001, 127);
    for (column, value, word) in [
        ("filter", json!(4), "DELETE"),
        ("filter", json!(8), "own user"),
        ("jqFilter", json!("$[?@.event == 'INSERT']"), "JSONPath"),
    ] {
        filtered["filter"] = json!(0);
        filtered[column] = value;
        put(&app, "WebhookSubscription", filtered.clone());
        let (code, lines) = told(&app, &asked).await;
        assert_eq!(code, Some(1), "{lines:?}");
        assert!(lines[0].starts_with("filtered") && lines[0].contains(word), "{lines:?}");
        let list = (Some(1), vec![(json!(2_000_001), json!("Order"), json!("filtered"))]);
        assert_eq!(told_in_json(&app, &asked).await, list);
    }
}

#[tokio::test]
async fn a_setup_that_cannot_be_read_is_neither_right_nor_wrong() {
    let app = TestApp::start().await;
    app.simulator.fault(Fault {
        owner: Some(CUSTOMER),
        table: Some("WebhookSubscription".into()),
        ..Fault::new(FaultKind::Deny)
    });
    let asked = ["--table", "Order", "--company", "2000001"];
    let (code, lines) = told(&app, &asked).await;
    assert_eq!(code, Some(2), "{lines:?}");
    assert!(lines[0].starts_with("unreadable"), "{lines:?}");
    app.simulator.clear_faults();
    app.simulator.hide_column("WebhookSubscription", "tableNo").unwrap();
    let list = (Some(2), vec![(json!(2_000_001), json!("Order"), json!("unreadable"))]);
    assert_eq!(told_in_json(&app, &asked).await, list);
    // Nor is a company that the service does not see, or a table that nobody has.
    assert_eq!(told(&app, &["--table", "Order", "--company", "77"]).await.0, Some(2));
    app.simulator.add_column("WebhookSubscription", "tableNo", "Int").unwrap();
    let asked = ["--table", "Nothing", "--table", "Order", "--company", "2000001"];
    let line = |table: &str, state: &str| (json!(2_000_001), json!(table), json!(state));
    let lines = vec![line("Nothing", "unreadable"), line("Order", "ok")];
    assert_eq!(told_in_json(&app, &asked).await, (Some(2), lines), "the others are told all the same");
}

#[tokio::test]
async fn without_names_it_is_about_what_is_mirrored_and_the_doctor_tells_the_same() {
    let app = TestApp::start().await;
    assert_eq!(told(&app, &[]).await.0, Some(2), "nothing is mirrored yet");
    app.put("Order", json!({ "orderNo": 1 }));
    app.simulator.put(CUSTOMER, "User", object(json!({ "userName": "kari" }))).unwrap();
    app.settle().await;
    let expected = vec![(json!(2_000_001), json!("Order"), json!("ok")), (Value::Null, json!("User"), json!("ok"))];
    assert_eq!(told_in_json(&app, &[]).await, (Some(0), expected));

    unsubscribe(&app, 2_000_001, 127);
    let examined = app.command(&["doctor"]).await;
    let text = String::from_utf8_lossy(&examined.stdout).into_owned();
    let is_told = text.lines().any(|line| line.starts_with("PROBLEM") && line.contains("and table 127"));
    assert!(is_told && !examined.status.success(), "{text}");
    // What is not subscribed is not sent.
    app.put("Order", json!({ "orderNo": 2 }));
    app.simulator.drain().await;
    assert_eq!(app.simulator.sender_counters().sent, 2);
}
