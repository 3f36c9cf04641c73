//! Whether people who see, hear or point differently can use the pages: axe-core looks at each in a real browser.

use std::path::PathBuf;

use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::object;
use serde_json::{Value, json};

use super::{TOKEN, driver::Driver, start};
use crate::support::app::{COMPANY, TestApp};

const PAGES: [&str; 5] =
    ["/", "/activity", "/dead-letters", "/tables/Order?company=2000001", "/rows/Order?company=2000001&orderNo=1"];
/// How a page can be looked at: the width in pixels, of a screen and of the narrowest phone that people use, and the
/// colours that are preferred.
const LOOKS: [(u32, &str); 4] = [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")];
/// What fails the test; the rest is taste, or depends on what a page is for.
const IMPACTS: &str = "['serious', 'critical']";

/// axe-core, as npm has it: where `NXT_TEST_AXE` says, or where `.ci/run` installs it.
fn axe() -> Option<String> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/axe/node_modules/axe-core/axe.min.js");
    let path = std::env::var_os("NXT_TEST_AXE").map_or_else(|| PathBuf::from(installed), PathBuf::from);
    std::fs::read_to_string(path).ok()
}

/// What it finds in the page that is open.
async fn faults(browser: &Driver, axe: &str) -> Vec<String> {
    let script = format!(
        "{axe};
         return window.axe.run(document).then(found => found.passes.length === 0 ? ['it looked at nothing']
             : found.violations.filter(fault => {IMPACTS}.includes(fault.impact))
             .map(fault => fault.id + ': ' + fault.nodes.map(node => node.html + ' ' + node.failureSummary).join('; ')));"
    );
    let found = browser.run(&script).await;
    found.as_array().expect("a list").iter().map(Value::to_string).collect()
}

/// What it finds in the page that is open, looked at in one of these ways.
async fn looked_at(browser: &Driver, axe: &str, page: &str, (width, scheme): (u32, &str)) -> Vec<String> {
    let found = faults(browser, axe).await;
    found.into_iter().map(|fault| format!("{page} at {width} {scheme}: {fault}")).collect()
}

async fn look_as(browser: &Driver, (width, scheme): (u32, &str)) {
    browser.resize(width, 900).await;
    browser.prefer(scheme).await;
}

/// A row that is mirrored, one that was set aside, and a body that was not understood.
async fn fill(app: &TestApp) {
    let poison = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: poison, ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.post("not json").await;
    app.settle().await;
}

/// Needs Debian's `chromium` and `chromium-driver`, and axe-core. Where one is missing it says so, and tests nothing.
#[tokio::test]
async fn no_page_shuts_anybody_out_in_light_or_dark_on_a_screen_or_a_phone() {
    // First, since it sets up TLS for every client of this process.
    let app = start().await;
    // No browser is started that nobody would stop.
    let Some(axe) = axe() else {
        return eprintln!("SKIPPED: the pages were not looked at by axe-core, which is not installed");
    };
    let Some(browser) = Driver::start().await else {
        return eprintln!("SKIPPED: the pages were not looked at by axe-core, since no browser is installed");
    };
    fill(&app).await;
    let ops = &app.daemon.ops;
    let mut found = vec![];
    // The proof that it finds something where there is something.
    browser
        .open("data:text/html,<title>x</title><img src='x'><p style='color:%23ccc;background:%23fff'>pale</p>")
        .await;
    let bad = faults(&browser, &axe).await.join(" ");
    assert!(bad.contains("image-alt") && bad.contains("color-contrast"), "{bad}");
    for look in LOOKS {
        look_as(&browser, look).await;
        browser.open(&format!("{ops}/login")).await;
        found.extend(looked_at(&browser, &axe, "/login", look).await);
    }
    browser
        .run(&format!("document.getElementById('token').value = '{TOKEN}'; document.forms[0].requestSubmit();"))
        .await;
    browser.wait_for("the overview", "return !!document.getElementById('state')").await;
    for look in LOOKS {
        look_as(&browser, look).await;
        for path in PAGES {
            browser.open(&format!("{ops}{path}")).await;
            found.extend(looked_at(&browser, &axe, path, look).await);
        }
        browser.open(&format!("{ops}/dead-letters")).await;
        browser.click("#letters button[data-yes=Retry]").await;
        browser.wait_for("the question", "return document.getElementById('ask').open").await;
        found.extend(looked_at(&browser, &axe, "the question", look).await);
    }
    browser.stop().await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}
