//! What happens to one row, table, company or process, and does not happen to the others.
//!
//! The obstacle is still there while the tests look at the others: none of them measures time.

mod database;
mod process;
mod source;

use std::time::Duration;

use nxt_simulator::{Owner, Simulator};
use nxt_testkit::{Wait, object};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgPool};

/// How long a state may be waited for. Long, because it only ends a test that has failed anyway.
const PATIENCE: Duration = Duration::from_secs(240);
/// The same for hundreds of megabytes.
const GREAT_PATIENCE: Duration = Duration::from_secs(400);

/// Rows of a table, numbered, with a text that says which change they are of.
struct Rows {
    table: &'static str,
    key: &'static str,
    text: &'static str,
    mirrored: &'static str,
    mirrored_text: &'static str,
}

const ORDERS: Rows =
    Rows { table: "Order", key: "orderNo", text: "name", mirrored: "business_nxt.\"order\"", mirrored_text: "name" };
const PRODUCTS: Rows = Rows {
    table: "Product",
    key: "productNo",
    text: "description",
    mirrored: "business_nxt.product",
    mirrored_text: "description",
};

impl Rows {
    fn row(&self, number: i64, text: &str) -> Map<String, Value> {
        let key = if self.table == "Product" { json!(number.to_string()) } else { json!(number) };
        object(json!({ (self.key): key, (self.text): text }))
    }

    fn rows(&self, rows: i64, text: &str) -> Vec<Map<String, Value>> {
        (1..=rows).map(|number| self.row(number, text)).collect()
    }

    /// Changes the first rows of a company and announces them.
    fn change(&self, simulator: &Simulator, owner: Owner, rows: i64, text: &str) {
        simulator.put_all(owner, self.table, &self.rows(rows, text), true).expect("the source knows the table");
    }

    /// The same, but every notification is lost.
    fn change_silently(&self, simulator: &Simulator, owner: Owner, rows: i64, text: &str) {
        simulator.put_all(owner, self.table, &self.rows(rows, text), false).expect("the source knows the table");
    }

    /// How many rows of the company the mirror shows with this text; none while it has no such table.
    async fn shown(&self, pool: &PgPool, owner: Owner, text: &str) -> i64 {
        let (Owner::Company(company) | Owner::Customer(company)) = owner;
        let Self { mirrored, mirrored_text, .. } = self;
        let sql = format!("select count(*) from {mirrored} where _company_no = $1 and {mirrored_text} = $2");
        let count = sqlx::query_scalar(AssertSqlSafe(sql)).bind(company).bind(text).fetch_one(pool).await;
        count.unwrap_or_default()
    }

    /// Waits until the mirror shows so many rows of the company with this text.
    async fn wait_for(&self, pool: &PgPool, owner: Owner, rows: i64, text: &str) {
        let what = format!("{rows} rows of {} of {owner:?} that say {text:?}", self.table);
        eventually(&what, async || self.shown(pool, owner, text).await == rows).await;
    }
}

/// Waits until something holds.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    eventually_within(PATIENCE, what, holds).await;
}

async fn eventually_within(patience: Duration, what: &str, holds: impl AsyncFn() -> bool) {
    Wait::seconds(patience.as_secs()).for_true(what, holds).await.unwrap_or_else(|late| panic!("{late}"));
}

/// Waits until every notification is answered, and demands that none was refused.
async fn assert_all_accepted(simulator: &Simulator) {
    let drained = tokio::time::timeout(PATIENCE, simulator.drain()).await;
    let sent = simulator.sender_counters();
    assert!(drained.is_ok() && sent.failed == 0 && sent.given_up == 0, "{sent:?}");
}

/// Waits until a fault has struck.
async fn wait_for_strike(simulator: &Simulator, fault: &str) {
    eventually(fault, async || simulator.counters().faults.contains_key(fault)).await;
}

async fn execute(pool: &PgPool, sql: &str) {
    crate::support::cluster::execute_each(&mut pool.acquire().await.unwrap(), sql).await;
}

/// A count, 0 while it cannot be had.
async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap_or_default()
}
