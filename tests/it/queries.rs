//! The queries of the documentation, on a trading company's data, and the results that stand beside them.
//!
//! `NXT_WRITE_RESULTS=1 cargo test --test it queries` writes the results anew.

use std::path::PathBuf;

use nxt_testkit::Wait;
use sqlx::{Column, Row, ValueRef, postgres::PgRow};

use crate::support::app::TestApp;

const WAIT: Wait = Wait::seconds(240);
/// Rows of a result that are shown.
const ROWS_MAX: usize = 3;
/// What the company does before the first look, and before the second one, so that something has changed.
const CHANGES: [u32; 2] = [150, 100];

/// A query of the page, and the result that the page shows.
struct Query {
    sql: String,
    result: String,
    /// Whether times, or the order of work, are part of the result, so that only its columns are always the same.
    is_example: bool,
}

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/queries.md")
}

/// What stands in fences of SQL, each followed by a fence of its result.
fn queries(text: &str) -> Vec<Query> {
    let query = |part: &str| {
        let (sql, rest) = part.split_once("```").expect("the query ends");
        let (_, rest) = rest.split_once("```text").expect("a result stands beside the query");
        let (kind, rest) = rest.split_once('\n').expect("the result begins");
        let (result, _) = rest.split_once("```").expect("the result ends");
        Query { sql: sql.to_owned(), result: result.to_owned(), is_example: kind.trim() == "example" }
    };
    text.split("```sql\n").skip(1).map(query).collect()
}

/// Column names, the first rows, and how many there are.
fn shown(rows: &[PgRow]) -> String {
    let names: Vec<String> = rows[0].columns().iter().map(|column| column.name().to_owned()).collect();
    let cell = |row: &PgRow, index: usize| {
        let value = row.try_get_raw(index).expect("the column is there");
        if value.is_null() { String::new() } else { value.as_str().expect("it is text").to_owned() }
    };
    let cells = rows.iter().take(ROWS_MAX).map(|row| (0..names.len()).map(|index| cell(row, index)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(names.clone()).chain(cells).collect();
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text += &format!("{}\n", cells.join(" | ").trim_end());
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
            text += &format!("{}\n", rules.join("-+-"));
        }
    }
    text + &format!("({} row{})\n", rows.len(), if rows.len() == 1 { "" } else { "s" })
}

/// Puts a result into the fence behind its query.
fn write(text: &mut String, sql: &str, result: &str) {
    let behind = |text: &str, from: usize, what: &str| {
        from + text[from..].find(what).expect("the query has a fence for its result") + what.len()
    };
    let fence = behind(text, behind(text, 0, sql), "```text");
    let begin = behind(text, fence, "\n");
    let end = behind(text, begin, "```") - "```".len();
    text.replace_range(begin..end, result);
}

fn column_names(result: &str) -> Vec<&str> {
    result.lines().next().unwrap_or_default().split('|').map(str::trim).collect()
}

#[tokio::test]
async fn every_query_of_the_documentation_has_the_result_that_stands_beside_it() {
    let tables = "Order,OrderLine,OpenCustomerEntry,Product,Associate,StockBalance,GeneralLedgerAccount,\
                  GeneralLedgerTransaction";
    let app = TestApp::builder().set("NXT_TABLES", tables).set("NXT_HISTORY", "*").start().await;
    app.simulator.stock_up().expect("the companies have something to sell");
    let mut trader = app.simulator.trader();
    for changes in CHANGES {
        trader.work(changes);
        app.settle().await;
    }
    let partial = "select count(*) from nxt_mirror.freshness where partial and company_no = 2000001";
    WAIT.for_count("tables to load", &app.pool, 0, partial).await.unwrap_or_else(|late| panic!("{late}"));
    let unnamed = "select 3 - count(name) from business_nxt_model.enum_member
                    where table_name = 'Order' and column_name = 'order_type' and value in (1, 2, 5)";
    WAIT.for_count("names of order types", &app.pool, 0, unnamed).await.unwrap_or_else(|late| panic!("{late}"));
    let mut text = std::fs::read_to_string(page()).expect("the page is there");
    let queries = queries(&text);
    assert_eq!(queries.len(), 12);
    let is_to_write = std::env::var_os("NXT_WRITE_RESULTS").is_some();
    let is_cluster = nxt_testkit::is_cluster().await;
    for Query { sql, result, is_example } in queries {
        // Waiting is a statement of its own there, since it would be sent to the node of the rows.
        if is_cluster && sql.contains("nxt_mirror.wait_until") {
            continue;
        }
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.as_str())).fetch_all(&app.pool).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(!rows.is_empty(), "{sql}");
        let found = shown(&rows);
        if is_to_write {
            write(&mut text, &sql, &found);
        } else if is_example {
            assert_eq!(column_names(&found), column_names(&result), "{sql}");
        } else {
            assert_eq!(found, result, "{sql}\nNXT_WRITE_RESULTS=1 writes the results anew");
        }
    }
    if is_to_write {
        std::fs::write(page(), text).expect("the page is written");
    }
}
