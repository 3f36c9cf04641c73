//! What is left out never reaches the database, in no form and no file of it.

use std::path::Path;

use nxt_simulator::Options;
use nxt_testkit::{SECRET, Scratch, object, sign, webhook_url};
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::{app::COMPANY, app::TestApp, site};

/// Nothing else has this text.
const MARKER: &str = "MarkerThatIsNowhere";
/// And this one is everywhere where nothing is left out, which shows that the search finds what there is.
const KEPT: &str = "MarkerThatIsKept";

/// Whether a text is in any file below a folder.
fn is_below(folder: &Path, text: &str) -> bool {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => is_below(&entry.path(), text),
        Ok(kind) if kind.is_file() => {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        }
        _ => false,
    })
}

#[tokio::test]
async fn what_is_left_out_is_in_no_file_of_the_server() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let url = server.url("postgres").expose_secret().to_owned();
    let options = Options { published_example: false, ..Options::default() };
    let settings = [
        ("NXT_EXCLUDE", "Associate.emailAddress;associate.short_name;Associate.changedByUser;FileArchive"),
        ("NXT_HISTORY", "*"),
        ("NXT_SWEEP_SECONDS", "1"),
    ];
    let site = site(options, &url, &settings).await;
    let daemon = site.spawn(&[]);
    let migrated = "select count(*) - 1 from information_schema.tables where table_schema = 'nxt_mirror' and table_name = 'change'";
    site.wait_for_none("migrations", migrated).await;
    // Nothing may be hidden by compression.
    sqlx::raw_sql(
        "do $$ declare part record; begin
             for part in select attrelid::regclass as own, attname as name from pg_attribute
                          where attrelid in ('nxt_mirror.ledger_block'::regclass, 'nxt_mirror.quarantine'::regclass)
                            and attnum > 0 and attstorage = 'x' loop
                 execute format('alter table %s alter column %I set storage external', part.own, part.name);
             end loop; end $$",
    )
    .execute(&site.pool)
    .await
    .unwrap();
    let associate = |name: &str| {
        object(json!({
            "associateNo": 1, "name": name, "phone": KEPT, "emailAddress": MARKER, "shortName": MARKER,
        }))
    };
    for name in ["first", "second"] {
        site.simulator.put(COMPANY, "Associate", associate(name)).unwrap();
        site.settle().await;
    }
    let http = reqwest::Client::new();
    let post = async |body: String| -> String {
        let request = http.post(webhook_url(&site.public)).header("x-vwd-signature-v1", sign(SECRET, body.as_bytes()));
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        answer.text().await.unwrap()
    };
    // Of a table that is left out, one that is not understood and one that is no JSON, and hints of other shapes.
    let body = |table: &str, event: &str, hints: serde_json::Value| {
        json!({
            "tableIdentifier": table, "customerNo": 1, "companyNo": 2_000_001, "event": event,
            "primaryKeys": [{"AssociateNo": 1}], "timestamp": "2026-01-01T00:00:00Z", "changedByUser": MARKER,
            "changedColumns": hints, "EmailAddress": MARKER,
        })
        .to_string()
    };
    assert_eq!(post(body("FileArchive", "INSERT", json!([{"Name": MARKER}]))).await, r#"{"status":"accepted"}"#);
    assert_eq!(post(body("fileArchive", "UPSERT", json!([{"Name": MARKER}]))).await, r#"{"status":"accepted"}"#);
    let hints = json!([{"emailaddress": MARKER}, {"name": "ShortName", "value": MARKER}, ["EmailAddress", MARKER]]);
    assert_eq!(post(body("Associate", "UPDATE", hints.clone())).await, r#"{"status":"accepted"}"#);
    assert!(post(body("Associate", "UPSERT", hints)).await.contains("quarantined"));
    assert!(post(format!("{{\"emailAddress\": \"{MARKER}\", broken")).await.contains("quarantined"));
    site.settle().await;
    for (count, sql) in [
        (
            0,
            "select count(*) from nxt_mirror.notification where table_name ilike 'filearchive' or changed_by is not null",
        ),
        (2, "select count(*) from nxt_mirror.dead_letter"),
        (1, "select count(*) from nxt_mirror.dead_letter where reason like '%bytes are not kept%' and body = ''"),
        (1, "select count(*) from business_nxt.associate where name = 'second'"),
        (2, "select count(*) from business_nxt_history.associate where _changed_by is null"),
        (
            0,
            "select count(*) from nxt_mirror.change where changed_by is not null
                or changed_columns && array['email_address', 'short_name', 'changed_by_user']",
        ),
        (
            0,
            "select count(*) from information_schema.columns
              where table_schema like 'business_nxt%' and column_name in ('email_address', 'short_name')",
        ),
    ] {
        assert_eq!(site.count(sql).await, count, "{sql}");
    }
    assert!(site.count("select count(*) from nxt_mirror.notification where body like '%MarkerThatIsKept%'").await > 0);
    daemon.kill().await;
    sqlx::raw_sql("checkpoint").execute(&site.pool).await.unwrap();
    site.pool.close().await;
    drop(server);
    assert!(is_below(&scratch.0, KEPT), "the search finds what there is");
    assert!(!is_below(&scratch.0, MARKER), "the marker is in a file of the server");
}

#[tokio::test]
async fn a_key_that_would_be_left_out_is_told_by_name() {
    let app = TestApp::builder().set("NXT_EXCLUDE", "Order.orderNo").start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    let letters = app.dead_letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].contains("orderno") && letters[0].contains("NXT_EXCLUDE"), "{letters:?}");
    // A walk learns of it from the table's description.
    let output = app.command(&["backfill", "--table", "Order", "--company", "2000001"]).await;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && said.contains("NXT_EXCLUDE names Order.orderNo"), "{said}");
}

#[tokio::test]
async fn a_table_that_is_left_out_cannot_be_brought_in_by_name() {
    let app = TestApp::builder().set("NXT_EXCLUDE", "product").start().await;
    app.put("Product", json!({ "productNo": "P-1" }));
    app.simulator.drain().await;
    for command in ["backfill", "verify"] {
        let output = app.command(&[command, "--table", "Product"]).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains("NXT_EXCLUDE names table Product"), "{command}: {said}");
    }
    assert_eq!(app.count("select count(*) where to_regclass('business_nxt.product') is null").await, 1);
}
