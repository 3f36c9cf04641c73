//! API requests a row.

use anyhow::ensure;
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Options, Owner};
use serde_json::{Map, Value, json};

use super::Bench;

const TABLES: u32 = 10;
const COMPANIES: i64 = 20;
const FIRST_COMPANY: i64 = 2_000_001;
/// Rows of all targets together.
const ROWS: i64 = 10_000;

pub(super) async fn measure(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    few_rows(server).await?;
    many_targets(server).await
}

/// Many notifications of few rows.
async fn few_rows(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    let order = |turn: i64| {
        Map::from_iter([("orderNo".to_owned(), json!(turn % 50)), ("name".to_owned(), json!(format!("turn {turn}")))])
    };
    let turns: Vec<_> = (0..5_000).map(order).collect();
    bench.site.simulator.put_all(Owner::Company(FIRST_COMPANY), "Order", &turns, true)?;
    bench.settle().await?;
    report(&bench, "5,000 notifications of 50 rows", 50).await
}

/// Rows of tables that the daemon has never heard of, in many companies, all at once.
async fn many_targets(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let companies = (FIRST_COMPANY..FIRST_COMPANY + COMPANIES).map(|company| (1_000_001, company)).collect();
    let options = Options { companies, extra_tables: TABLES, ..Options::default() };
    let bench = Bench::start_with(server, "all", options).await?;
    let each = ROWS / COMPANIES / i64::from(TABLES);
    let row = |number: i64| {
        Map::from_iter([
            ("rowNo".to_owned(), json!(number)),
            ("name".to_owned(), json!(format!("Row {number}"))),
            ("amount".to_owned(), json!(number as f64 + 0.5)),
            ("text".to_owned(), Value::from("as people write it")),
        ])
    };
    let rows: Vec<_> = (0..each).map(row).collect();
    for company in FIRST_COMPANY..FIRST_COMPANY + COMPANIES {
        for table in 1..=TABLES {
            bench.site.simulator.put_all(Owner::Company(company), &format!("Extra{table}"), &rows, true)?;
        }
    }
    bench.settle().await?;
    report(&bench, &format!("{ROWS} rows of {TABLES} tables in {COMPANIES} companies"), ROWS).await
}

pub(super) async fn report(bench: &Bench, what: &str, rows: i64) -> anyhow::Result<()> {
    // The comparison takes a while, and meanwhile walks go on.
    let counters = bench.site.simulator.counters();
    let comparison = bench.site.compare().await;
    ensure!(comparison.is_equal(), "{comparison}");
    let operations: Vec<String> = counters.operations.iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!(
        "{what:<45} {:>8} API requests, {:.1} a 1,000 rows, {} over a limit ({})",
        counters.graphql_requests,
        counters.graphql_requests as f64 * 1_000.0 / rows as f64,
        counters.rate_violations + counters.in_flight_violations,
        operations.join(", "),
    );
    Ok(())
}
