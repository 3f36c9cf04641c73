//! What the damage of one row, table or company costs the others, and a flood of deletions.

use std::time::{Duration, Instant};

use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Fault, FaultKind, Owner};
use serde_json::{Map, json};

use super::{Bench, latency};

const COMPANY: Owner = Owner::Company(2_000_001);
const OTHER: Owner = Owner::Company(2_000_002);
const FLOOD: i64 = 100_000;

fn order(number: i64) -> Map<String, serde_json::Value> {
    Map::from_iter([("orderNo".to_owned(), json!(number)), ("name".to_owned(), json!("x"))])
}

pub(super) async fn poison(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    let stock: Vec<_> = (1..=40_200).map(order).collect();
    bench.site.simulator.put_all(COMPANY, "Order", &stock, false)?;
    // The mirrored table is made with its first row.
    bench.site.simulator.put_all(COMPANY, "Order", &[order(1)], true)?;
    bench.settle().await?;
    let alone = latency::of_orders(&bench, Duration::from_secs(20)).await?;
    // Rows that fail their part, rows that fail the whole request, a company without access, and one that is slow.
    for (from, kind) in [(40_001, FaultKind::PoisonPart), (40_011, FaultKind::PoisonWhole)] {
        for number in from..from + 5 {
            let key = Map::from_iter([("orderNo".to_owned(), json!(number))]);
            bench.site.simulator.fault(Fault { key, ..Fault::new(kind).on(COMPANY, Some("Order")) });
        }
    }
    bench.site.simulator.fault(Fault { millis: 8_000, ..Fault::new(FaultKind::Slow).on(OTHER, None) });
    bench.site.simulator.fault(Fault::new(FaultKind::Deny).on(Owner::Company(5_199_768), None));
    let poisoned: Vec<_> = (40_001..=40_020).map(order).collect();
    bench.site.simulator.put_all(COMPANY, "Order", &poisoned, true)?;
    bench.site.simulator.put_all(OTHER, "Order", &poisoned, true)?;
    bench.site.simulator.put_all(Owner::Company(5_199_768), "Order", &poisoned, true)?;
    let beside = latency::of_orders(&bench, Duration::from_secs(40)).await?;
    latency::print("latency of a change at 200 changes/s, alone", &alone);
    latency::print("beside poison, a slow and a denied company", &beside);
    let letters: Vec<(String, i64)> =
        sqlx::query_as("select 'company ' || company_no, count(*) from nxt_mirror.dead_letter group by 1 order by 1")
            .fetch_all(&bench.site.pool)
            .await?;
    println!("dead letters then: {letters:?}");
    Ok(())
}

pub(super) async fn flood(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    // Changed long ago, so that each deletion is certain by its timestamp.
    let row = |number: i64| {
        let mut row = order(number);
        row.insert("changedTimestamp".into(), json!("2026-01-01T00:00:00"));
        row
    };
    bench.site.simulator.put_all(COMPANY, "Order", &(1..=FLOOD).map(row).collect::<Vec<_>>(), false)?;
    let load = ["backfill", "--table", "Order", "--company", "2000001"];
    let status = super::command(&bench.site, &load).status().await?;
    anyhow::ensure!(status.success(), "the load failed");
    let before = bench.site.simulator.counters().graphql_requests;
    let started = Instant::now();
    for number in 1..=FLOOD {
        bench.site.simulator.delete(COMPANY, "Order", Map::from_iter([("orderNo".to_owned(), json!(number))]))?;
    }
    let (mut most, mut settling) = (0.0_f64, Box::pin(bench.settle()));
    loop {
        tokio::select! {
            settled = &mut settling => { settled?; break }
            () = tokio::time::sleep(Duration::from_millis(100)) => most = most.max(bench.resident()?),
        }
    }
    let behind: f64 = sqlx::query_scalar(
        "select extract(epoch from (select max(at) from nxt_mirror.sync_log)
                                    - (select max(received_at) from nxt_mirror.ledger_block))::float8",
    )
    .fetch_one(&bench.site.pool)
    .await?;
    let left: i64 =
        sqlx::query_scalar("select count(*) from business_nxt.\"order\"").fetch_one(&bench.site.pool).await?;
    println!(
        "100,000 rows deleted at once                   {:>8.1} s until all were gone ({left} left), {behind:.1} s behind the last notification, {} API requests, {most:.0} MiB at most",
        started.elapsed().as_secs_f64(),
        bench.site.simulator.counters().graphql_requests - before,
    );
    Ok(())
}
