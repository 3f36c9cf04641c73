//! The queries of the documentation, on a trading company's data.

use std::path::Path;

use nxt_testkit::Wait;
use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;

const WAIT: Wait = Wait::seconds(240);

/// What stands in fences of SQL.
fn queries() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/queries.md");
    let text = std::fs::read_to_string(path).expect("the page is there");
    text.split("```sql\n").skip(1).filter_map(|part| Some(part.split_once("```")?.0.to_owned())).collect()
}

#[tokio::test]
async fn every_query_of_the_documentation_has_rows_to_tell() {
    let tables = "Order,OrderLine,OpenCustomerEntry,Product,Associate,StockBalance,GeneralLedgerAccount,\
                  GeneralLedgerTransaction";
    let app = TestApp::builder().set("NXT_TABLES", tables).set("NXT_HISTORY", "*").start().await;
    app.simulator.stock_up().expect("the companies have something to sell");
    let closed = CancellationToken::new();
    let work = app.simulator.trade(50.0, closed.clone());
    let traded = "select greatest(0, 40 - count(*)) from nxt_mirror.change \
                  where company_no = 2000001 and table_name = 'OrderLine' and action = 'update'";
    WAIT.for_count("lines that change", &app.pool, 0, traded).await.unwrap_or_else(|late| panic!("{late}"));
    closed.cancel();
    work.await.expect("the company closes");
    app.settle().await;
    let partial = "select count(*) from nxt_mirror.freshness where partial and company_no = 2000001";
    WAIT.for_count("tables to load", &app.pool, 0, partial).await.unwrap_or_else(|late| panic!("{late}"));
    let queries = queries();
    assert_eq!(queries.len(), 12);
    let is_cluster = nxt_testkit::is_cluster().await;
    for query in queries {
        // Waiting is a statement of its own there, since it would be sent to the node of the rows.
        if is_cluster && query.contains("nxt_mirror.wait_until") {
            continue;
        }
        let rows = sqlx::query(AssertSqlSafe(query.as_str())).fetch_all(&app.pool).await;
        let rows = rows.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert!(!rows.is_empty(), "{query}");
    }
}
