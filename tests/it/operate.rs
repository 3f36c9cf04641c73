//! What operators ask and do.

use nxt_mirror::simulator::{Fault, FaultKind};
use serde_json::{Value, json};

use crate::support::{
    app::{COMPANY, TestApp},
    object,
};

async fn json_of(app: &TestApp, arguments: &[&str]) -> Value {
    let output = app.command(arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_row_that_was_set_aside_finds_its_way_back() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 4).start().await;
    let key = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: key.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.simulator.put(COMPANY, "Order", object(json!({ "orderNo": number }))).unwrap();
    }
    app.settle().await;
    let letters = json_of(&app, &["dead-letters", "list", "--json"]).await;
    assert_eq!(letters[0]["row_key"], r#"{"orderno":2}"#);
    let lines = app.command(&["dead-letters", "list"]).await.stdout;
    assert_eq!(String::from_utf8_lossy(&lines).lines().count(), 1);
    let id = letters[0]["id"].to_string();
    let shown = json_of(&app, &["dead-letters", "show", &id, "--json"]).await;
    assert!(shown["reason"].as_str().unwrap().contains("unexpected failure"), "{shown}");
    app.simulator.clear_faults();
    assert_eq!(json_of(&app, &["dead-letters", "retry", &id, "--json"]).await["rows"], 1);
    assert_eq!(app.assert_equal().await, 3);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_body_that_is_still_not_understood_stays_until_it_is_dropped() {
    let app = TestApp::start().await;
    app.post("not json").await;
    let retried = app.command(&["dead-letters", "retry", "--all", "--json"]).await;
    assert!(!retried.status.success());
    assert_eq!(app.dead_letters().await.len(), 1);
    let refused = app.command(&["dead-letters", "drop", "999"]).await;
    assert!(!refused.status.success());
    assert_eq!(json_of(&app, &["dead-letters", "drop", "--all", "--json"]).await["dropped"], 1);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_replay_mends_rows_from_the_ledger_and_explain_tells_their_story() {
    let app = TestApp::start().await;
    for number in 1..=4 {
        app.simulator.put(COMPANY, "Order", object(json!({ "orderNo": number, "name": "right" }))).unwrap();
    }
    app.settle().await;
    sqlx::query("update business_nxt.\"order\" set name = 'damaged'").execute(&app.pool).await.unwrap();
    let replayed = json_of(
        &app,
        &["replay", "--since", "2020-01-01T00:00:00Z", "--table", "Order", "--company", "2000001", "--json"],
    );
    assert_eq!(replayed.await["rows"], 4);
    assert_eq!(app.assert_equal().await, 4);
    let story = json_of(&app, &["explain", "Order", "3", "--json"]).await;
    let sources: Vec<_> =
        story["events"].as_array().unwrap().iter().map(|event| event["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["notification", "sync", "sync"], "{story}");
    let wrong = app.command(&["explain", "Order", "3", "4"]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("orderNo"));
}

#[tokio::test]
async fn the_status_tells_backlog_and_each_table() {
    let app = TestApp::start().await;
    app.simulator.put(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    let status = json_of(&app, &["status", "--json"]).await;
    assert_eq!((&status["backlog_rows"], &status["lag_seconds"]), (&json!(0), &json!(0)));
    assert!(status["api_requests_last_minute"].as_i64().unwrap() > 0);
    let table = &status["tables"][0];
    assert_eq!((&table["table_name"], &table["rows"], &table["partial"]), (&json!("Order"), &json!(1), &json!(true)));
    assert!(app.command(&["status"]).await.status.success());
}

#[tokio::test]
async fn the_doctor_finds_a_wrong_time_zone_and_nothing_where_all_is_well() {
    for (zone, healthy) in [("UTC", true), ("Asia/Tokyo", false)] {
        let app = TestApp::builder().set("NXT_SOURCE_TIMEZONE", zone).start().await;
        app.simulator.put(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
        app.settle().await;
        let output = app.command(&["doctor"]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), healthy, "{text}");
        assert_eq!(text.contains("NXT_SOURCE_TIMEZONE"), !healthy, "{text}");
    }
}

#[tokio::test]
async fn a_missing_setting_is_one_line_and_an_exit_code() {
    let app = TestApp::start().await;
    for (arguments, variable) in
        [(vec!["serve"], "NXT_WEBHOOK_SECRETS"), (vec!["serve", "--role", "worker"], "NXT_CLIENT_ID")]
    {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_nxt-mirror")).args(&arguments).env_clear().output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(errors.lines().count() == 1 && errors.contains(variable), "{errors}");
    }
    let health = app.command(&["healthcheck"]).await;
    assert!(!health.status.success());
}
