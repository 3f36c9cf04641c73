//! Reading one's own write: waiting for a row, and for a moment.

use std::time::{Duration, Instant};

use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::object;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::app::{COMPANY, TestApp};

/// A question, asked on a connection of its own. Many seconds only end a test that has failed anyway.
async fn ask(pool: &PgPool, question: &str) -> Result<bool, String> {
    let sql = AssertSqlSafe(format!("select {question}"));
    sqlx::query_scalar(sql).fetch_one(pool).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_row_is_waited_for_by_any_spelling_of_its_table_and_key() {
    let app = TestApp::start().await;
    let pool = app.pool.clone();
    // Asked before there is even a table.
    let early = tokio::spawn(async move {
        ask(&pool, "nxt_mirror.wait_for_row('OrderLine', '{\"order_no\": 3, \"line_no\": 1}', 2000001, null, '200 s')")
            .await
    });
    app.put("OrderLine", json!({ "orderNo": 3, "lineNo": 1 }));
    assert_eq!(early.await.unwrap(), Ok(true));
    app.put("Product", json!({ "productNo": "Bolt 7", "description": "one" }));
    for question in [
        "nxt_mirror.wait_for_row('Product', '{\"product_no\": \"bolt 7 \"}', 2000001, null, '200 s')",
        "nxt_mirror.wait_for_row('order_line', '{\"ORDERNO\": 3, \"lineNo\": 1}', 2000001, now() - interval '1 hour', '0 s')",
        "nxt_mirror.wait_for_row('orderLine', '{\"LineNo\": \"1\", \"order_no\": 3}', 2000001, null, '0 s')",
    ] {
        assert_eq!(ask(&app.pool, question).await, Ok(true), "{question}");
    }
    for question in [
        // Too old, another row, another company, no such table, a customer's.
        "nxt_mirror.wait_for_row('Product', '{\"product_no\": \"Bolt 7\"}', 2000001, now() + interval '1 hour', '50 ms')",
        "nxt_mirror.wait_for_row('Product', '{\"product_no\": \" Bolt 7\"}', 2000001, null, '0 s')",
        "nxt_mirror.wait_for_row('Product', '{\"product_no\": \"Bolt 7\"}', 2000002, null, '0 s')",
        "nxt_mirror.wait_for_row('NoSuchTable', '{\"no\": 1}', 2000001, null, '0 s')",
        "nxt_mirror.wait_for_row('Product', '{\"product_no\": \"Bolt 7\"}', null, null, '0 s', 1000001)",
    ] {
        assert_eq!(ask(&app.pool, question).await, Ok(false), "{question}");
    }
    for (question, reason) in [
        (
            "nxt_mirror.wait_for_row('OrderLine', '{\"order_no\": 3}', 2000001, null, '1 s')",
            "has the columns (order_no integer, line_no integer)",
        ),
        (
            "nxt_mirror.wait_for_row('OrderLine', '{\"order_no\": 3, \"line\": 1}', 2000001, null, '1 s')",
            "has the columns",
        ),
        (
            "nxt_mirror.wait_for_row('OrderLine', '{\"order_no\": 3, \"line_no\": 1}', null, null, '1 s')",
            "company_no or customer_no",
        ),
    ] {
        let error = ask(&app.pool, question).await.unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_by_a_line_that_names_table_columns_and_key() {
    let app = TestApp::start().await;
    app.put("OrderLine", json!({ "orderNo": 3, "lineNo": 1 }));
    app.put("Product", json!({ "productNo": "12" }));
    app.settle().await;
    let wait = async |table: &str, key: &str| {
        ask(&app.pool, &format!("nxt_mirror.wait_for_row('{table}', {key}, 2000001, null, '0 s')")).await
    };
    for key in [
        "{}",
        r#"{"order_no": 3}"#,
        r#"{"order_no": 3, "line_no": 1, "more": 1}"#,
        r#"{"order_no": 3, "line": 1}"#,
        r#"{"order_no": 3, "orderNo": 3}"#,
        r#"{"order_no": "three", "line_no": 1}"#,
        r#"{"order_no": "", "line_no": 1}"#,
        r#"{"order_no": null, "line_no": 1}"#,
        r#"{"order_no": true, "line_no": 1}"#,
        r#"{"order_no": [3], "line_no": 1}"#,
        r#"{"order_no": {"a": 3}, "line_no": 1}"#,
        r#"{"order_no": 3.5, "line_no": 1}"#,
        r#"{"order_no": 2147483648, "line_no": 1}"#,
        r#"{"order_no": 9223372036854775808, "line_no": 1}"#,
        r#"{"order_no": 3, "line_no": 1e300}"#,
    ] {
        let error = wait("orderLine", &format!("'{key}'")).await.unwrap_err();
        assert!(
            error.contains("the key of business_nxt.order_line has the columns (order_no integer, line_no integer)"),
            "{error}"
        );
        assert!(error.contains("is given as {"), "{error}");
    }
    for key in ["'[3, 1]'", "'3'", "'\"x\"'", "'null'", "null"] {
        for table in ["OrderLine", "NoSuchTable"] {
            let error = wait(table, key).await.unwrap_err();
            assert!(error.contains(&format!("the key of {table} is to be a JSON object")), "{error}");
            assert!(error.contains(key.trim_matches('\'')), "{error}");
        }
    }
    for key in [r#"{"product_no": null}"#, r#"{"product_no": ["12"]}"#] {
        let error = wait("Product", &format!("'{key}'")).await.unwrap_err();
        assert!(error.contains("(product_no text)") && error.contains(key), "{error}");
    }
    // A number is the text that it is written as.
    assert_eq!(wait("Product", r#"'{"product_no": 12}'"#).await, Ok(true));
    assert_eq!(wait("order_line", r#"'{"order_no": "+03 ", "line_no": 1}'"#).await, Ok(true));
}

#[tokio::test]
async fn who_waits_sees_what_is_committed_meanwhile_and_holds_up_nobody() {
    let app = TestApp::builder().set("NXT_DELETES", "soft").start().await;
    app.put("Order", json!({ "orderNo": 1, "name": "old" }));
    app.settle().await;
    let wait = "nxt_mirror.wait_for_row('Order', '{\"order_no\": 1}', 2000001, now(), '200 s')";
    // In a transaction that has looked before.
    let mut transaction = app.database.pool().await.begin().await.unwrap();
    sqlx::query("select 1 from pg_class").execute(&mut *transaction).await.unwrap();
    let change = async {
        // The row is not new enough before this.
        tokio::time::sleep(Duration::from_millis(100)).await;
        app.simulator.add_column("Order", "lateColumn", "String").unwrap();
        app.put("Order", json!({ "orderNo": 1, "name": "new", "lateColumn": "x" }));
    };
    let sql = AssertSqlSafe(format!("select {wait}"));
    let (is_there, ()) = tokio::join!(sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *transaction), change);
    assert!(is_there.unwrap());
    let name: String = sqlx::query_scalar("select name || late_column from business_nxt.\"order\"")
        .fetch_one(&mut *transaction)
        .await
        .expect("the column was added while somebody waited");
    assert_eq!(name, "newx");
    transaction.rollback().await.unwrap();
    // A transaction that would wait in vain is told so.
    let mut stale = app.pool.begin_with("begin isolation level repeatable read").await.unwrap();
    let sql = AssertSqlSafe(format!("select {wait}"));
    let error = sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *stale).await.unwrap_err().to_string();
    assert!(error.contains("read committed"), "{error}");
    stale.rollback().await.unwrap();
    // A row that is softly deleted is there and never new enough.
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    let deleted = "nxt_mirror.wait_for_row('Order', '{\"order_no\": 1}', 2000001, null, '10 ms')";
    assert_eq!(ask(&app.pool, deleted).await, Ok(false));
}

#[tokio::test]
async fn a_moment_is_waited_for_until_all_that_came_before_it_is_settled() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.simulator.drain().await;
    assert_eq!(ask(&app.pool, "nxt_mirror.wait_until(2000001, now(), '200 s')").await, Ok(true));
    assert_eq!(app.count("select count(*) from business_nxt.\"order\"").await, 1);
    // A row that cannot be fetched holds up its own company's moment alone, and none before it.
    app.simulator.fault(Fault::new(FaultKind::Deny).on(COMPANY, Some("Order")));
    app.put("Order", json!({ "orderNo": 2 }));
    app.simulator.put(nxt_simulator::Owner::Company(2_000_002), "Order", object(json!({ "orderNo": 2 }))).unwrap();
    app.simulator.drain().await;
    assert_eq!(ask(&app.pool, "nxt_mirror.wait_until(2000001, now(), '50 ms')").await, Ok(false));
    assert_eq!(ask(&app.pool, "nxt_mirror.wait_until(2000001, now() - interval '1 hour', '0 s')").await, Ok(true));
    assert_eq!(ask(&app.pool, "nxt_mirror.wait_until(2000002, now(), '200 s')").await, Ok(true));
    app.simulator.clear_faults();
    let began = Instant::now();
    assert_eq!(ask(&app.pool, "nxt_mirror.wait_until(2000001, now() + interval '1 second', '200 s')").await, Ok(true));
    assert!(began.elapsed() >= Duration::from_secs(1), "a moment that is to come is waited for");
    // What is stored and not folded counts, too, of a company that nobody has heard of before.
    let pool = app.pool.clone();
    app.daemon.stop().await;
    let unfolded = "with stream as (insert into nxt_mirror.stream default values returning id)
         insert into nxt_mirror.ledger_block (stream_id, is_company, tenant_no, table_name, row_key, event, changed_at,
                                              deleted_at, changed_by, delivery_id, body)
         select id, '{t}', '{2000001}', '{Order}', '{\"{\\\"orderno\\\":1}\"}', '{UPDATE}', '{null}', '{null}', '{null}',
                '{null}', '{x}' from stream";
    sqlx::raw_sql(unfolded).execute(&pool).await.unwrap();
    assert_eq!(ask(&pool, "nxt_mirror.wait_until(2000001, now(), '50 ms')").await, Ok(false));
    assert_eq!(ask(&pool, "nxt_mirror.wait_until(9, now(), '0 s')").await, Ok(false), "nothing is known of it");
}
