//! The operators' pages in a real browser.

use std::time::Duration;

use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::object;
use serde_json::json;

use super::{TOKEN, driver::Driver, start};
use crate::support::app::COMPANY;

/// The narrowest that people use.
const PHONE: u32 = 360;
const HOSTILE: &str = "<img src=x onerror=alert(1)> & Söner";

/// Needs Debian's `chromium` and `chromium-driver`. Where they are missing it says so, and tests nothing.
#[tokio::test]
async fn a_person_sees_changes_come_and_brings_a_dead_letter_back_by_a_click() {
    // First, since it sets up TLS for every client of this process.
    let app = start().await;
    let Some(browser) = Driver::start().await else {
        eprintln!("SKIPPED: the pages were not tried in a browser, since chromium and chromedriver are not installed");
        return;
    };
    let poison = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: poison, ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.settle().await;
    app.simulator.clear_faults();
    // A name that somebody typed; it is not asked for again within the hour.
    let named = "select count(*) from business_nxt_model.company where company_no = 2000001";
    app.wait_for("the name of the company", 1, named).await;
    sqlx::query("update business_nxt_model.company set name = $1").bind(HOSTILE).execute(&app.pool).await.unwrap();

    let ops = &app.daemon.ops;
    browser.open(&format!("{ops}/")).await;
    assert!(browser.address().await.ends_with("/login"));
    browser
        .run(&format!("document.getElementById('token').value = '{TOKEN}'; document.forms[0].requestSubmit();"))
        .await;
    browser.wait_for("the overview", "return document.getElementById('state')?.textContent === 'degraded'").await;

    // A change appears at the top of the list, and the page is still the one that was loaded.
    browser.run("window.isTheSame = true").await;
    app.put("Product", json!({ "productNo": "seen live" }));
    let first = "return window.isTheSame
        && document.querySelector('#activity li').textContent.includes('seen live')";
    browser.wait_for("the change", first).await;
    let name = format!(
        "return document.querySelector('#activity li .tenant').textContent === 'company 2000001 ' + {}
             && !document.querySelector('main img')",
        json!(HOSTILE)
    );
    browser.wait_for("the name of its company", &name).await;
    browser
        .wait_for("its table", "return window.isTheSame && !!document.querySelector('#targets a[href*=Product]')")
        .await;

    for path in
        ["/", "/activity", "/dead-letters", "/tables/Order?company=2000001", "/rows/Order?company=2000001&orderNo=1"]
    {
        browser.resize(PHONE, 844).await;
        browser.open(&format!("{ops}{path}")).await;
        let overhang = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
        assert!(overhang.as_i64().is_some_and(|pixels| pixels <= 0), "{path} is {overhang} pixels too wide");
    }
    browser.resize(1280, 900).await;

    browser.open(&format!("{ops}/dead-letters")).await;
    browser.click("#letters button[data-yes=Retry]").await;
    browser.wait_for("the question", "return document.getElementById('ask').open").await;
    browser.click("#ask-yes").await;
    browser.wait_for("the letter to go", "return !document.querySelector('#letters li')").await;
    app.wait_for("the row", 3, "select count(*) from business_nxt.\"order\"").await;

    browser.open(&format!("{ops}/")).await;
    browser.click(".logout button").await;
    browser.wait_for("the form", "return location.pathname === '/login'").await;

    assert_eq!(browser.console_errors().await, Vec::<String>::new());
    let strangers: Vec<String> =
        browser.requests().await.into_iter().filter(|address| !address.starts_with(ops.as_str())).collect();
    assert_eq!(strangers, Vec::<String>::new());
    browser.stop().await;
    tokio::time::timeout(Duration::from_secs(60), app.daemon.stop()).await.expect("streams do not keep the daemon");
}
