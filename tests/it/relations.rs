//! Relations as foreign keys that nothing enforces, on a server that has them.

use nxt_testkit::object;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::app::{COMPANY, TestApp};

/// Whether this server can have keys that are not enforced. Says so where it cannot.
async fn has_them(app: &TestApp) -> bool {
    let version = app.count("select current_setting('server_version_num')::bigint").await;
    if version < 180_000 {
        eprintln!(
            "SKIPPED: foreign keys that are not enforced need PostgreSQL 18, and this server is {}; name a newer one by \
             NXT_TEST_DATABASE_URL to test them",
            version / 10_000
        );
    }
    version >= 180_000
}

/// The foreign keys between mirrored tables, as the server tells them.
async fn foreign_keys(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
          where contype = 'f' and connamespace = 'business_nxt'::regnamespace order by conname",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn execute(app: &TestApp, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&app.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

const OURS: &str = "business_nxt.order_line order_line_order_no_order_relation FOREIGN KEY (_company_no, order_no) \
                    REFERENCES business_nxt.\"order\"(_company_no, order_no) NOT ENFORCED";
/// How many of ours there are.
const COUNT: &str =
    "select count(*) from pg_constraint where contype = 'f' and conname = 'order_line_order_no_order_relation'
                        and obj_description(oid, 'pg_constraint') like '%Kept by nxt-mirror.'";

/// Lines, their order, and somebody to whom it does not lead by a key.
async fn with_relations() -> TestApp {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1, "customerNo": 5 }));
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 1 }));
    app.put("Associate", json!({ "associateNo": 1, "customerNo": 5 }));
    app.settle().await;
    app.wait_for("relations", 2, "select count(*) from business_nxt_model.relation").await;
    app
}

#[tokio::test]
async fn a_relation_to_a_key_is_a_foreign_key_that_stops_no_row_and_no_change_of_a_table() {
    let app = with_relations().await;
    if !has_them(&app).await {
        return;
    }
    app.wait_for("the foreign key", 1, COUNT).await;
    assert_eq!(foreign_keys(&app.pool).await, [OURS]);
    // A line before its order, and one whose order goes.
    app.put("OrderLine", json!({ "orderNo": 7, "lineNo": 1 }));
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    app.assert_equal().await;
    // Keys widen, one side after the other.
    for table in ["OrderLine", "Order"] {
        app.simulator.change_type(table, "orderNo", "Long").unwrap();
        // What a notification announces has the table described anew.
        app.simulator.add_column(table, "priority", "Int").unwrap();
        app.put("Order", json!({ "orderNo": 9 }));
        app.put("OrderLine", json!({ "orderNo": 9, "lineNo": 1 }));
        let mut row = json!({ "orderNo": 10, "priority": 1 });
        if table == "OrderLine" {
            row["lineNo"] = json!(1);
        }
        app.put(table, row);
        app.settle().await;
    }
    let wide = "select count(*) from information_schema.columns where table_schema = 'business_nxt'
                   and table_name in ('order', 'order_line') and column_name = 'order_no' and data_type = 'bigint'";
    app.wait_for("wide keys", 2, wide).await;
    app.settle().await;
    assert_eq!(foreign_keys(&app.pool).await, [OURS], "it has come along");
    app.assert_equal().await;
}

#[tokio::test]
async fn foreign_keys_come_back_with_their_table_and_those_of_others_are_left_alone() {
    let app = with_relations().await;
    if !has_them(&app).await {
        return;
    }
    app.wait_for("the foreign key", 1, COUNT).await;
    // One of ours that no relation calls for, and one that somebody else made.
    for name in ["old", "theirs"] {
        let key = "foreign key (_company_no, line_no) references business_nxt.\"order\" not enforced";
        execute(&app, &format!("alter table business_nxt.order_line add constraint {name} {key}")).await;
    }
    let copy = "do $$ begin execute format('comment on constraint old on business_nxt.order_line is %L',
                    (select obj_description(oid, 'pg_constraint') from pg_constraint
                      where conname = 'order_line_order_no_order_relation')); end $$";
    execute(&app, copy).await;
    execute(&app, "alter table business_nxt.order_line rename to order_line_of_old").await;
    app.put("OrderLine", json!({ "orderNo": 2, "lineNo": 1 }));
    app.settle().await;
    let made =
        "select count(*) from pg_constraint where conrelid = to_regclass('business_nxt.order_line') and contype = 'f'";
    app.wait_for("the foreign key of the new table", 1, made).await;
    app.wait_for("the old ones to go", 0, "select count(*) from pg_constraint where conname = 'old'").await;
    assert_eq!(app.count("select count(*) from pg_constraint where conname = 'theirs'").await, 1);
    execute(&app, "drop table business_nxt.\"order\" cascade").await;
    assert!(!foreign_keys(&app.pool).await.contains(&OURS.to_owned()));
    app.put("Order", json!({ "orderNo": 2 }));
    app.settle().await;
    let again =
        "select count(*) from pg_constraint where conrelid = to_regclass('business_nxt.order_line') and contype = 'f'
                    and confrelid = to_regclass('business_nxt.\"order\"')";
    app.wait_for("the foreign key to the new table", 1, again).await;
}

/// Somebody at one of the tables keeps its foreign key waiting, and no row.
#[tokio::test]
async fn a_foreign_key_waits_for_a_lock_and_rows_do_not() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    if !has_them(&app).await {
        return;
    }
    let mut open = app.pool.begin().await.unwrap();
    sqlx::raw_sql("update business_nxt.\"order\" set name = name").execute(&mut *open).await.unwrap();
    for number in 1..20 {
        app.put("OrderLine", json!({ "orderNo": 1, "lineNo": number }));
    }
    app.wait_for("the lines", 19, "select count(*) from business_nxt.order_line").await;
    app.wait_for("the relation", 1, "select count(*) from business_nxt_model.relation").await;
    assert_eq!(app.count(COUNT).await, 0);
    open.rollback().await.unwrap();
    // As at every start, what is missing is made.
    let mut app = app;
    app.restart(async |_| {}).await;
    app.wait_for("the foreign key", 1, COUNT).await;
}
