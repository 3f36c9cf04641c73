//! The story of one row, told alike by command, page and API.

use std::time::Duration;

use nxt_mirror::queue::maintenance;
use nxt_simulator::Owner;
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::{COMPANY, TestApp};

const OTHER: Owner = Owner::Company(2_000_002);

async fn story(app: &TestApp, number: u32, company: Option<&str>) -> Vec<(String, String)> {
    let number = number.to_string();
    let mut arguments = vec!["explain", "Order", &number, "--json"];
    arguments.extend(company.iter().flat_map(|company| ["--company", *company]));
    let output = app.command(&arguments).await;
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
    let events = document["events"].as_array().unwrap().iter();
    events.map(|event| (text(event, "source"), text(event, "what"))).collect()
}

fn sources(story: &[(String, String)]) -> Vec<&str> {
    story.iter().map(|(source, _)| source.as_str()).collect()
}

fn writes(story: &[(String, String)]) -> Vec<&str> {
    let is_write = |what: &&str| what.starts_with("inserted: ") || what.starts_with("updated: ");
    story.iter().map(|(_, what)| what.as_str()).filter(is_write).collect()
}

#[tokio::test]
async fn what_a_load_and_a_sweep_wrote_is_told_of_a_row_and_what_live_work_wrote_once() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_SWEEP_SECONDS", 1).start().await;
    let order = |number: u32, name: &str| object(json!({ "orderNo": number, "name": name }));
    for owner in [COMPANY, OTHER] {
        app.simulator.put_all(owner, "Order", &[order(1, "loaded")], false).unwrap();
    }
    app.wait_for("both rows", 2, "select count(*) from business_nxt.\"order\"").await;
    let loaded = story(&app, 1, Some("2000001")).await;
    assert_eq!(sources(&loaded), ["change"], "{loaded:?}");
    assert!(loaded[0].1.starts_with("inserted: by a load or a sweep"), "{loaded:?}");
    assert_eq!(sources(&story(&app, 1, None).await), ["change", "change"]);

    app.simulator.put_all(COMPANY, "Order", &[order(1, "swept")], false).unwrap();
    app.wait_for("the sweep", 1, "select count(*) from business_nxt.\"order\" where name = 'swept'").await;
    let swept = story(&app, 1, Some("2000001")).await;
    // A sweep may write lines of its own into the sync log; each write is told by one of both.
    let written = writes(&swept);
    assert_eq!(written.len(), 2, "{swept:?}");
    assert!(written[1].starts_with("updated: "), "{swept:?}");

    app.simulator.put(COMPANY, "Order", order(2, "live")).unwrap();
    app.settle().await;
    let live = story(&app, 2, None).await;
    // A sweep may come to the row as well, before or after the worker: one of them finds it as it is.
    assert_eq!(sources(&live)[..2], ["notification", "sync"], "{live:?}");
    assert_eq!(writes(&live).len(), 1, "{live:?}");

    let path = format!("{}/api/rows/Order?company=2000001&orderNo=1", app.daemon.ops);
    let document: Value = app.http.get(path).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["events"].as_array().unwrap().len(), swept.len());
    let page = app.http.get(format!("{}/rows/Order?company=2000001&orderNo=1", app.daemon.ops));
    let page = page.send().await.unwrap().text().await.unwrap();
    assert!(page.contains("Added to the mirror") && page.contains("by a load or a sweep"), "{page}");
}

/// As the source holds texts equal, whatever their case and the blanks behind them.
#[tokio::test]
async fn a_row_is_told_of_whole_whichever_way_its_key_is_spelled() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.simulator.put_all(COMPANY, "Product", &[object(json!({ "productNo": "Ærfugl 1" }))], false).unwrap();
    for (spelled, event) in [("ÆRFUGL 1", "INSERT"), ("ærfugl 1  ", "UPDATE")] {
        app.accept(&json!({
            "tableIdentifier": "Product", "companyNo": 2_000_001, "customerNo": 0, "event": event,
            "primaryKeys": [{ "ProductNo": spelled }], "timestamp": "2026-11-25T08:00:00Z",
        }))
        .await;
        app.settle().await;
    }
    app.simulator.put(COMPANY, "Product", object(json!({ "productNo": "Ærfugl 11" }))).unwrap();
    app.settle().await;
    for spelled in ["Ærfugl 1", "ÆRFUGL 1 ", "ærfugl 1"] {
        let output = app.command(&["explain", "Product", spelled, "--json"]).await;
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let events = document["events"].as_array().unwrap().iter();
        let told: Vec<_> = events.map(|event| event["what"].as_str().unwrap()).collect();
        for what in ["INSERT", "inserted: ", "UPDATE"] {
            assert_eq!(told.iter().filter(|told| told.starts_with(what)).count(), 1, "{spelled}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_living_row_is_told_of_when_no_entry_is_kept_any_more() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    maintenance::run(&app.pool, Duration::ZERO).await.unwrap();
    app.wait_for("no entries", 0, "select count(*) from nxt_mirror.sync_log").await;
    let kept = story(&app, 1, None).await;
    assert_eq!(sources(&kept), ["mirrored"], "{kept:?}");
    assert_eq!(story(&app, 1, Some("2000002")).await, []);
    assert_eq!(story(&app, 2, None).await, []);
}
