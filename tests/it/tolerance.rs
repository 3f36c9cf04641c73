//! Odd forms of what is right, from the API, its token endpoint and its notifications: each costs its own row at most.

use std::process::Output;

use nxt_simulator::{Fault, FaultKind, OddValue, RetryAfter};
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::{COMPANY, TestApp};

const AWAY: &str = "select count(*) from nxt_mirror.api_budget where away_since is not null";

/// A daemon that does nothing but live work.
async fn live() -> TestApp {
    TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_WALK_SECONDS", 0).start().await
}

/// The next request is refused, so that a new token is asked for.
fn end_tokens(app: &TestApp) {
    app.simulator.fault(Fault::new(FaultKind::Unauthorized).times(1));
}

fn odd(table: &str, key: Value, column: &str, json: &str) -> OddValue {
    OddValue { table: table.into(), key: object(key), column: column.into(), json: json.into() }
}

async fn on_products(app: &TestApp, arguments: &[&str]) -> Output {
    let output = app.command(&[arguments, &["--table", "Product", "--company", "2000001"]].concat()).await;
    assert!(output.status.code().is_some(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test]
async fn a_token_whose_lifetime_is_told_in_no_usable_form_is_used() {
    let app = live().await;
    app.put("Order", json!({ "orderNo": 1, "name": "as usual" }));
    app.assert_equal().await;
    let forms = [
        "\"3600\"",
        "3600.0",
        "-1",
        "0",
        "null",
        "",
        "9007199254740992",
        "1e400",
        "{\"$serde_json::private::Number\":\"x\"}",
    ];
    for (turn, form) in forms.into_iter().enumerate() {
        app.simulator.set_oddities(|odd| odd.expires_in = Some(form.into()));
        let before = app.simulator.counters().token_requests;
        end_tokens(&app);
        app.put("Order", json!({ "orderNo": 1, "name": format!("turn {turn}") }));
        app.assert_equal().await;
        assert_eq!(app.simulator.counters().token_requests - before, 1, "{form}");
        assert_eq!(app.count(AWAY).await, 0, "{form}");
    }
}

#[tokio::test]
async fn without_a_token_the_reason_says_what_was_wrong() {
    let app = live().await;
    for (answer, reason) in [
        ("<html>maintenance</html>", "is HTML or XML"),
        (r#"{"token_type":"Bearer"}"#, "has no access_token"),
        (r#"{"error":"invalid_scope","error_description":"no"}"#, "invalid_scope (no)"),
    ] {
        app.simulator.set_oddities(|odd| odd.token_answer = Some(answer.into()));
        end_tokens(&app);
        app.put("Order", json!({ "orderNo": 1, "name": answer }));
        let told = "select away_reason from nxt_mirror.api_budget where away_since is not null";
        app.wait_for("an outage", 1, AWAY).await;
        let told: String = sqlx::query_scalar(told).fetch_one(&app.pool).await.unwrap();
        assert!(told.contains(reason), "{told}");
        app.simulator.set_oddities(|odd| odd.token_answer = None);
        app.assert_equal().await;
        app.wait_for("the end of the outage", 0, AWAY).await;
    }
}

#[tokio::test]
async fn a_byte_order_mark_says_nothing_wherever_it_stands() {
    let app = live().await;
    app.simulator.set_oddities(|odd| odd.byte_order_mark = true);
    app.simulator.set_knobs(|knobs| knobs.byte_order_mark = true);
    end_tokens(&app);
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number, "name": "marked" }));
    }
    assert_eq!(app.assert_equal().await, 3);
    assert!(app.dead_letters().await.is_empty());
    let keys = "select count(*) from nxt_mirror.notification where key ->> 'order_no' in ('1', '2', '3')";
    assert_eq!(app.count(keys).await, 3);
    assert_eq!(app.count(AWAY).await, 0);
}

#[tokio::test]
async fn a_body_that_jsonb_refuses_is_read_and_shown() {
    let app = live().await;
    app.put("Order", json!({ "orderNo": 1, "name": "there" }));
    app.assert_equal().await;
    let hints = [
        r#""\u0000 \ud800""#,
        r#"[{"Name":"\ud800"},{"Amount":1e999999}]"#,
        r#"[{"\u0000":{"$serde_json::private::Number":"x"}}]"#,
    ];
    for hint in hints {
        let body = format!(
            r#"{{"tableIdentifier":"Order","customerNo":1000001,"companyNo":2000001,"event":"UPDATE",
                "primaryKeys":[{{"OrderNo":1}}],"timestamp":"2026-01-01T00:00:00Z","changedColumns":{hint},
                "changedByUser":{hint}}}"#
        );
        let answer = app.post(body).await;
        assert_eq!(answer.text().await.unwrap(), r#"{"status":"accepted"}"#, "{hint}");
    }
    app.settle().await;
    let keys = r#"select count(*) from nxt_mirror.notification where key = '{"order_no": 1}'"#;
    assert_eq!(app.count(keys).await, 1 + hints.len() as i64);
}

#[tokio::test]
async fn nothing_is_sent_before_the_time_that_a_refusal_tells_in_any_form() {
    let app = live().await;
    app.put("Order", json!({ "orderNo": 1, "name": "at first" }));
    app.assert_equal().await;
    // What is under way when another request is refused cannot know.
    let named = "select count(*) from nxt_mirror.explanation
                  where answered_at is not null and not exists (select from nxt_mirror.met_value)
                    and not exists (select from nxt_mirror.unnamed_value where attempts = 0)";
    app.wait_for("names, which are asked for beside", 1, named).await;
    for (turn, form) in [RetryAfter::Date, RetryAfter::Fraction, RetryAfter::Seconds].into_iter().enumerate() {
        app.simulator.set_oddities(|odd| odd.retry_after = form);
        app.simulator.fault(Fault { millis: 2_500, ..Fault::new(FaultKind::TooManyRetryAfter).times(1) });
        let put = |number| app.put("Order", json!({ "orderNo": number, "name": format!("turn {turn}") }));
        sqlx::query("update nxt_mirror.api_budget set paused_until = '-infinity'").execute(&app.pool).await.unwrap();
        put(1);
        let noted = "select count(*) from nxt_mirror.api_budget where paused_until > '-infinity'";
        app.wait_for("the refusal", 1, noted).await;
        (2..=3).for_each(put);
        app.assert_equal().await;
    }
    let counters = app.simulator.counters();
    assert_eq!(counters.faults["too_many_retry_after"], 3);
    assert_eq!(counters.early_requests, 0);
}

#[tokio::test]
async fn an_encoding_is_understood_where_it_is_offered_and_named_where_it_is_not() {
    let app = live().await;
    app.simulator.set_oddities(|odd| odd.gzip = true);
    app.put("Order", json!({ "orderNo": 1, "name": "compressed" }));
    app.assert_equal().await;
    assert!(app.simulator.counters().compressed > 0);
    app.simulator.set_oddities(|odd| odd.encoding = Some("br".into()));
    app.put("Order", json!({ "orderNo": 1, "name": "not offered" }));
    app.wait_for("an outage", 1, AWAY).await;
    let told: String =
        sqlx::query_scalar("select away_reason from nxt_mirror.api_budget").fetch_one(&app.pool).await.unwrap();
    assert!(told.contains("encoded as \"br\""), "{told}");
    app.simulator.set_oddities(|odd| odd.encoding = None);
    app.assert_equal().await;
}

#[tokio::test]
async fn values_in_odd_forms_are_what_they_mean() {
    let app = live().await;
    app.simulator.set_oddities(|own| {
        let order = |number, column, json| odd("Order", json!({ "orderNo": number }), column, json);
        own.values = vec![
            order(1, "approved", "1"),
            order(2, "approved", "\"False\""),
            order(1, "employeeNo", "12.0"),
            order(2, "employeeNo", "\"1.2e1\""),
            order(1, "orderSumNetDomestic", "\"12.50\""),
            order(2, "orderSumNetDomestic", "1.25e1"),
            order(1, "name", r#""half \ud800 and \u0000""#),
            order(2, "name", r#"{"$serde_json::private::Number":"12"}"#),
            odd("StockBalance", json!({ "productNo": "x", "warehouseNo": 1 }), "countedAt", "\"\""),
            odd("StockBalance", json!({ "productNo": "x", "warehouseNo": 2 }), "countedAt", "\"0001-01-01T00:00:00\""),
            odd("TaxCode", json!({ "taxCode": "1" }), "validFrom", "\"0001-01-01T00:00:00Z\""),
            odd("TaxCode", json!({ "taxCode": "1" }), "changedTimestamp", "\"\""),
            odd(
                "RetailQueueChange",
                json!({ "queueChangeNo": 9_007_199_254_740_993_i64 }),
                "queueChangeNo",
                "\"9007199254740993\"",
            ),
        ];
    });
    for number in 1..=2 {
        app.put("Order", json!({ "orderNo": number }));
        app.put("StockBalance", json!({ "productNo": "x", "warehouseNo": number, "countedAt": "2026-01-01T00:00:00" }));
    }
    app.put("TaxCode", json!({ "taxCode": "1" }));
    app.put("RetailQueueChange", json!({ "queueChangeNo": 9_007_199_254_740_993_i64 }));
    app.settle().await;
    assert_eq!(app.mirrored("retail_queue_change").await[0]["queue_change_no"], json!(9_007_199_254_740_993_i64));
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
    let orders = app.mirrored("order").await;
    let column = |name: &str| orders.iter().map(|order| order[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("approved"), [json!(true), json!(false)]);
    assert_eq!(column("employee_no"), [json!(12), json!(12)]);
    assert_eq!(
        column("name"),
        [json!("half \u{fffd} and \u{fffd}"), json!("{\"$serde_json::private::Number\":\"12\"}")]
    );
    let sums: Vec<bool> = sqlx::query_scalar("select order_sum_net_domestic = 12.5 from business_nxt.\"order\"")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    assert_eq!(sums, [true, true]);
    assert!(app.mirrored("stock_balance").await.iter().all(|row| row["counted_at"].is_null()));
    let tax_code = &app.mirrored("tax_code").await[0];
    assert!(tax_code["valid_from"].is_null() && tax_code["_changed_at"].is_null(), "{tax_code:?}");
    let output =
        app.command(&["verify", "--json", "--table", "Order", "--table", "TaxCode", "--company", "2000001"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn a_value_that_has_no_place_costs_its_row_alone_and_verify_names_it() {
    let app = live().await;
    let bad = [
        ("employeeNo", "1e100000"),
        ("employeeNo", "2147483648"),
        ("employeeNo", "1.5"),
        ("orderSumNetDomestic", "1e100000"),
        ("approved", r#"{"$serde_json::private::Number":"1"}"#),
        ("changedTimestamp", "\"infinity\""),
    ];
    app.simulator.set_oddities(|own| {
        let values = bad.iter().enumerate();
        own.values =
            values.map(|(at, (column, json))| odd("Order", json!({ "orderNo": at + 1 }), column, json)).collect();
    });
    for number in 1..=12 {
        app.put("Order", json!({ "orderNo": number, "name": "there" }));
    }
    app.settle().await;
    assert_eq!(app.mirrored("order").await.len(), 12 - bad.len());
    assert_eq!(app.dead_letters().await.len(), bad.len());
    let verify = ["verify", "--table", "Order", "--company", "2000001"];
    let output = app.command(&[&verify[..], &["--json"]].concat()).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["equal"]), (Some(2), &json!(false)), "{document}");
    let table = &document["tables"][0];
    assert_eq!((&table["rows_compared"], &table["unreadable"]), (&json!(12 - bad.len()), &json!(bad.len())));
    let named: Vec<&Value> = table["unreadable_rows"].as_array().unwrap().iter().map(|row| &row["key"]).collect();
    assert_eq!(
        named,
        (1..=bad.len()).map(|number| json!({ "order_no": number })).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    let text = String::from_utf8(app.command(&verify).await.stdout).unwrap();
    assert!(
        text.contains("6 rows could not be compared") && text.contains("{\"order_no\": 4}: column orderSumNet"),
        "{text}"
    );
    // A difference among the others counts more.
    sqlx::query("update business_nxt.\"order\" set name = 'damaged' where order_no = 9")
        .execute(&app.pool)
        .await
        .unwrap();
    assert_eq!(app.command(&verify).await.status.code(), Some(1));
}

/// Keys of every look, no two of them equal by the source's comparison.
const KEYS: [&str; 16] =
    ["", "a\0b", "axb", "'", "\"", "\\", "%", "_", "[x]", "12", "12.0", "007", "Æø", "\t", "{}", "null"];

async fn assert_products(app: &TestApp, count: usize) {
    app.settle().await;
    assert_eq!(app.mirrored("product").await.len(), count);
}

#[tokio::test]
async fn what_notifications_bring_in_they_take_out_whatever_its_key() {
    let app = live().await;
    // A key of blanks alone is not taken from a notification, but from walks.
    for key in &KEYS[1..] {
        app.put("Product", json!({ "productNo": key, "description": key }));
    }
    assert_products(&app, KEYS.len() - 1).await;
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
    app.simulator.put_all(COMPANY, "Product", &[object(json!({ "productNo": "" }))], false).unwrap();
    assert!(on_products(&app, &["backfill"]).await.status.success());
    assert_products(&app, KEYS.len()).await;
    // Damage is mended, and nothing else.
    sqlx::query("update business_nxt.product set description = 'damaged'").execute(&app.pool).await.unwrap();
    let output = on_products(&app, &["verify", "--repair"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    for key in &KEYS[1..] {
        app.simulator.delete(COMPANY, "Product", object(json!({ "productNo": key }))).unwrap();
    }
    assert_products(&app, 1).await;
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
    app.simulator.delete(COMPANY, "Product", object(json!({ "productNo": "" }))).unwrap();
    app.wait_for("the quarantined body", 1, "select count(*) from nxt_mirror.dead_letter where kind = 'body'").await;
    assert!(on_products(&app, &["backfill"]).await.status.success());
    assert_products(&app, 0).await;
}

#[tokio::test]
async fn a_deletion_finds_its_row_however_its_key_is_spelled() {
    let app = live().await;
    app.put("Order", json!({ "orderNo": 5 }));
    app.put("Product", json!({ "productNo": "Ærø 12" }));
    app.put("Product", json!({ "productNo": "12" }));
    app.assert_equal().await;
    for (table, column, mirrored, told) in [
        ("Order", "orderNo", json!(5), json!(" 5 ")),
        ("Product", "productNo", json!("Ærø 12"), json!("ÆRØ 12  ")),
        ("Product", "productNo", json!("12"), json!(12)),
    ] {
        app.simulator.delete_silently(COMPANY, table, object(json!({ column: mirrored }))).unwrap();
        app.accept(&json!({
            "tableIdentifier": table, "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "DELETE",
            "primaryKeys": [{ column: told }], "timestamp": "2126-01-01T00:00:00Z",
        }))
        .await;
    }
    app.settle().await;
    assert!(app.mirrored("order").await.is_empty() && app.mirrored("product").await.is_empty());
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
}

#[tokio::test]
async fn what_a_walk_brings_in_a_walk_and_a_repair_take_out_whatever_its_key() {
    let app = TestApp::builder()
        .set("NXT_SWEEP_SECONDS", 0)
        .set("NXT_WALK_SECONDS", 0)
        .set("NXT_FETCH_ROWS_MAX", 1)
        .start()
        .await;
    let rows: Vec<_> = KEYS.iter().map(|key| object(json!({ "productNo": key, "description": key }))).collect();
    for taking_out in ["backfill", "verify"] {
        app.simulator.put_all(COMPANY, "Product", &rows, false).unwrap();
        assert!(on_products(&app, &["backfill"]).await.status.success());
        assert_products(&app, KEYS.len()).await;
        assert_eq!(on_products(&app, &["verify"]).await.status.code(), Some(0));
        for key in KEYS {
            app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": key }))).unwrap();
        }
        let repair: &[&str] = if taking_out == "verify" { &["verify", "--repair"] } else { &["backfill"] };
        let output = on_products(&app, repair).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_products(&app, 0).await;
    }
}

#[tokio::test]
async fn rows_that_no_key_can_name_cost_themselves_alone() {
    let app = live().await;
    let long = "x".repeat(3_000);
    for key in ["a", "b", "c", &long] {
        app.simulator.put_all(COMPANY, "Product", &[object(json!({ "productNo": key }))], false).unwrap();
    }
    app.simulator.set_oddities(|own| {
        own.values = vec![odd("Product", json!({ "productNo": "b" }), "productNo", "null")];
    });
    let output = on_products(&app, &["backfill"]).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_products(&app, 2).await;
    assert!(told.contains("key column productNo has no value"), "{told}");
    let letters = app.dead_letters().await;
    assert!(matches!(&letters[..], [reason] if reason.contains("longer than 2000 bytes")), "{letters:?}");
    let shown = "select count(*) from nxt_mirror.dead_letter where key ->> 'product_no' like 'xxx%(3000 bytes, %'";
    assert_eq!(app.count(shown).await, 1);
    let output = on_products(&app, &["verify", "--json"]).await;
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &document["tables"][0]["unreadable"]), (Some(2), &json!(2)), "{document}");
}

#[tokio::test]
async fn columns_of_postgresql_s_names_or_of_one_name_are_mirrored_apart() {
    let mut app = live().await;
    app.put("Order", json!({ "orderNo": 1, "employeeNo": 5 }));
    app.assert_equal().await;
    for (column, scalar) in [("xmin", "Int"), ("ctid", "String"), ("employee_No", "Int")] {
        app.simulator.add_column("Order", column, scalar).unwrap();
    }
    app.put("Order", json!({ "orderNo": 1, "employeeNo": 6, "xmin": 7, "ctid": "there" }));
    app.settle().await;
    let order = app.mirrored("order").await.remove(0);
    assert_eq!((&order["employee_no"], &order["xmin_"], &order["ctid_"]), (&json!(6), &json!(7), &json!("there")));
    let apart = order.keys().filter(|name| name.starts_with("employee_no_")).count();
    assert_eq!(apart, 1, "{order:?}");
    let next = app.another(nxt_mirror::config::Role::All).await;
    let url = next.webhook_url();
    app.simulator.set_knobs(|knobs| knobs.url = Some(url));
    std::mem::replace(&mut app.daemon, next).stop().await;
    app.put("Order", json!({ "orderNo": 1, "employeeNo": 8, "xmin": 9 }));
    app.settle().await;
    let after = app.mirrored("order").await.remove(0);
    assert_eq!((&after["employee_no"], &after["xmin_"], after.len()), (&json!(8), &json!(9), order.len()));
    assert_eq!(app.command(&["verify", "--table", "Order", "--company", "2000001"]).await.status.code(), Some(0));
}
