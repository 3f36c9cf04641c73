//! Keys that are not known in full.

use nxt_mirror::config::Role;
use nxt_testkit::object;
use serde_json::json;

use crate::support::app::{COMPANY, TestApp};

/// The key of `Text` without its last column.
const SHORT: &str = "Text=languageNo+textType+textNo";

/// Texts, the second of which has two lines.
fn write_texts(app: &TestApp, notify: bool) {
    let text = |(number, line): (i64, i64)| {
        object(json!({
            "languageNo": 47, "textType": 1, "textNo": number, "lineNo": line, "text": format!("{number}, line {line}"),
        }))
    };
    let rows: Vec<_> = [(1, 1), (2, 1), (2, 2), (3, 1)].into_iter().map(text).collect();
    app.simulator.put_all(COMPANY, "Text", &rows, notify).unwrap();
}

#[tokio::test]
async fn a_walk_that_meets_two_rows_of_one_key_raises_the_alarm_and_writes_neither() {
    let app = TestApp::builder().set("NXT_KEYS", SHORT).set("NXT_TABLES", "Text").start().await;
    write_texts(&app, false);
    let paused = "select count(*) from nxt_mirror.freshness
                   where table_name = 'Text' and company_no = 2000001 and partial and paused_because like '%NXT_KEYS%'";
    app.wait_for("a pause that names the setting", 1, paused).await;
    assert!(app.mirrored("text").await.is_empty());
    for (command, code) in [("backfill", 1), ("verify", 2)] {
        let output = app.command(&[command, "--company", "2000001"]).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{command}: {told}");
        let names_setting = told.contains("NXT_KEYS=\"Text=languageNo+textType+textNo+");
        assert!(names_setting && !told.contains("no access"), "{command}: {told}");
    }
}

/// Pages of two rows, between which the two rows of one key lie.
#[tokio::test]
async fn two_rows_of_one_key_on_two_pages_raise_the_alarm_too() {
    let app = TestApp::builder()
        .role(Role::Receiver)
        .set("NXT_KEYS", SHORT)
        .simulator(|options| options.oddities.page_rows_max = Some(2))
        .start()
        .await;
    write_texts(&app, false);
    let output = app.command(&["backfill", "--table", "Text", "--company", "2000001"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("NXT_KEYS=\"Text="), "{told}");
    assert!(!app.mirrored("text").await.iter().any(|row| row["text_no"] == 2));
}

#[tokio::test]
async fn a_fetch_that_brings_two_rows_of_one_key_is_set_aside_and_the_others_are_mirrored() {
    let quiet = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_WALK_SECONDS", 0);
    let app = quiet.set("NXT_KEYS", SHORT).start().await;
    write_texts(&app, false);
    for number in 1..=3 {
        app.accept(&json!({
            "tableIdentifier": "Text", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
            "primaryKeys": [{ "LanguageNo": 47 }, { "TextType": 1 }, { "TextNo": number }],
            "timestamp": "2026-01-01T00:00:00Z",
        }))
        .await;
    }
    app.wait_for("the texts of one line", 2, "select count(*) from business_nxt.text where text_no <> 2").await;
    app.wait_for("a dead letter", 1, "select count(*) from nxt_mirror.dead_letter where reason like '%one key%'").await;
    assert_eq!(app.mirrored("text").await.len(), 2);
}

#[tokio::test]
async fn a_text_of_several_lines_is_mirrored_line_by_line() {
    let app = TestApp::start().await;
    write_texts(&app, true);
    assert_eq!(app.assert_equal().await, 4);
}
