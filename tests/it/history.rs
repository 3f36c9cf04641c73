//! The versions of mirrored rows.

use chrono::{DateTime, Utc};
use nxt_testkit::object;
use serde_json::json;
use sqlx::{AssertSqlSafe, FromRow, PgPool};

use crate::support::app::{COMPANY, TestApp};

/// A version, as far as these tests look.
#[derive(Debug, FromRow)]
struct Version {
    name: Option<String>,
    changed_by: Option<String>,
    is_first: bool,
    names_name: bool,
    is_open: bool,
    follows_at_once: bool,
}

async fn versions(pool: &PgPool) -> Vec<Version> {
    sqlx::query_as(
        "select name, _changed_by as changed_by, _changed_columns is null as is_first,
                coalesce('name' = any(_changed_columns), false) as names_name, _valid_to is null as is_open,
                coalesce(lag(_valid_to) over (order by _valid_from) = _valid_from, false) as follows_at_once
           from business_nxt_history.\"order\" where order_no = 1 order by _valid_from",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// What holds of every history: no two versions of a key at one moment, an open one for each living row and no other, and
/// both equal. `columns` are those of the mirrored table, the key first.
pub async fn assert_sound(pool: &PgPool, table: &str, key: &[&str], others: &[&str]) {
    let (columns, key) = ([&["_company_no"], key, others].concat().join(", "), key.join(", "));
    let unequal = format!(
        "select count(*) from (
             (select {columns} from business_nxt.{table} where _deleted_at is null
              except all select {columns} from business_nxt_history.{table} where _valid_to is null)
             union all
             (select {columns} from business_nxt_history.{table} where _valid_to is null
              except all select {columns} from business_nxt.{table} where _deleted_at is null)) as different"
    );
    let overlapping = format!(
        "select count(*) from (
             select _valid_from, lag(coalesce(_valid_to, 'infinity')) over (
                        partition by _company_no, {key} order by _valid_from, coalesce(_valid_to, 'infinity')) as before
               from business_nxt_history.{table}) as version
          where before > _valid_from"
    );
    for (what, sql) in [("rows and open versions", unequal), ("overlaps", overlapping)] {
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await.unwrap();
        assert_eq!(count, 0, "{what} of {table}");
    }
}

#[tokio::test]
async fn each_life_of_a_row_is_kept_version_by_version() {
    let app = TestApp::builder().set("NXT_HISTORY", "order").start().await;
    let put = async |name: &str| {
        app.put("Order", json!({ "orderNo": 1, "name": name }));
        app.settle().await;
    };
    put("first").await;
    put("second").await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    assert_sound(&app.pool, "\"order\"", &["order_no"], &["name"]).await;
    put("third").await;
    app.put("Product", json!({ "productNo": "1" }));
    app.simulator.announce(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    let found = versions(&app.pool).await;
    let [first, second, third] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(
        [&first.name, &second.name, &third.name].map(|name| name.as_deref().unwrap()),
        ["first", "second", "third"]
    );
    assert_eq!(found.iter().map(|version| version.is_open).collect::<Vec<_>>(), [false, false, true]);
    // A life begins with no version before it, and has no gap.
    assert_eq!(found.iter().map(|version| version.is_first).collect::<Vec<_>>(), [true, false, true]);
    assert!(second.names_name && second.follows_at_once, "{found:#?}");
    assert!(found.iter().all(|version| version.changed_by.as_deref() == Some("kari.nordmann")));
    let dated = "select count(*) from business_nxt_history.\"order\" where _valid_from = changed_timestamp";
    assert_eq!(app.count(dated).await, 3);
    // Each moment has its rows.
    for name in ["first", "second", "third"] {
        let moment = format!("select _valid_from from business_nxt_history.\"order\" where name = '{name}'");
        let past = format!("name = '{name}' and order_no = 1");
        assert_eq!(rows_of_then(&app.pool, moment, &past).await, 1, "{name}");
    }
    assert_eq!(app.count("select count(*) from business_nxt_history.order_as_of('2001-01-01')").await, 0);
    let last = "select max(_valid_to) from business_nxt_history.\"order\"".to_owned();
    assert_eq!(rows_of_then(&app.pool, last, "true").await, 0, "nothing lives between two lives");
    assert_eq!(
        app.count(
            "select count(*) from pg_class where relnamespace = 'business_nxt_history'::regnamespace and relkind = 'r'"
        )
        .await,
        1
    );
    // A new column, and a table that somebody dropped.
    app.simulator.add_column("Order", "lateColumn", "String").unwrap();
    app.put("Order", json!({ "orderNo": 1, "lateColumn": "late" }));
    app.settle().await;
    assert_sound(&app.pool, "\"order\"", &["order_no"], &["name", "late_column"]).await;
    sqlx::raw_sql("drop table business_nxt_history.\"order\" cascade").execute(&app.pool).await.unwrap();
    app.put("Order", json!({ "orderNo": 2, "name": "after" }));
    app.settle().await;
    app.wait_for("the history begun anew", 2, "select count(*) from business_nxt_history.order_as_of(now())").await;
    assert_sound(&app.pool, "\"order\"", &["order_no"], &["name", "late_column"]).await;
    assert_eq!(app.dead_letters().await, [""; 0]);
}

/// How many such rows there were at a moment that is asked for first.
async fn rows_of_then(pool: &PgPool, moment: String, condition: &str) -> i64 {
    let moment: DateTime<Utc> = sqlx::query_scalar(AssertSqlSafe(moment)).fetch_one(pool).await.unwrap();
    let rows = format!("select count(*) from business_nxt_history.order_as_of($1) where {condition}");
    sqlx::query_scalar(AssertSqlSafe(rows)).bind(moment).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_history_that_is_turned_on_begins_with_the_rows_that_are_there() {
    let mut app = TestApp::builder().set("NXT_TABLES", "OrderLine").set("NXT_DELETES", "soft").start().await;
    let line =
        |number: i64, text: &str| object(json!({ "orderNo": number / 50, "lineNo": number % 50, "description": text }));
    let lines: Vec<_> = (0..2_300).map(|number| line(number, "old")).collect();
    app.simulator.put_all(COMPANY, "OrderLine", &lines, false).unwrap();
    app.wait_for("lines", 2_300, "select count(*) from business_nxt.order_line").await;
    app.set("NXT_HISTORY", "*");
    app.restart(async |_| {}).await;
    let begun =
        "select count(*) from nxt_mirror.history as history join nxt_mirror.target as target on target.id = target_id
                  where table_name = 'OrderLine' and tenant_no = 2000001";
    app.wait_for("the history to begin", 1, begun).await;
    assert_sound(&app.pool, "order_line", &["order_no", "line_no"], &["description"]).await;
    let first = "select count(*) from business_nxt_history.order_line where _changed_columns is null
                    and _valid_from = changed_timestamp and _changed_by = 'kari.nordmann'";
    assert_eq!(app.count(first).await, 2_300);
    // While it is off, rows change and go; turned on again, it knows of both.
    app.set("NXT_HISTORY", "Order");
    app.restart(async |_| {}).await;
    app.wait_for("the history to end", 0, begun).await;
    app.simulator.put(COMPANY, "OrderLine", line(7, "new")).unwrap();
    app.simulator.delete(COMPANY, "OrderLine", object(json!({ "orderNo": 0, "lineNo": 8 }))).unwrap();
    app.settle().await;
    app.set("NXT_HISTORY", "OrderLine");
    app.set("NXT_HISTORY_DAYS", 3);
    app.restart(async |pool| {
        // The version of a row that went long ago, and of one that went the other day.
        let old = "insert into business_nxt_history.order_line (_company_no, order_no, line_no, _valid_from, _valid_to)
                   select 2000001, 99, days, now() - interval '10 days', now() - interval '1 day' * days
                     from unnest(array[2, 4]) as days";
        sqlx::raw_sql(old).execute(pool).await.unwrap();
    })
    .await;
    app.wait_for("the history to begin again", 1, begun).await;
    assert_sound(&app.pool, "order_line", &["order_no", "line_no"], &["description"]).await;
    let of_row = "select count(*) from business_nxt_history.order_line where order_no = 0 and line_no in (7, 8)";
    assert_eq!(app.count(of_row).await, 3);
    let kept = "select count(*) from business_nxt_history.order_line where order_no = 99";
    app.wait_for("the old version to go", 1, kept).await;
}
