//! What people look at while the demo runs.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use nxt_simulator::Simulator;
use sqlx::PgPool;

const REFRESH: Duration = Duration::from_secs(1);
/// Lines of activity that are shown each time.
const LINES: i64 = 4;

/// Prints what is happening, once a second, for as long as it is polled.
pub(super) async fn show(pool: &PgPool, simulator: &Simulator) {
    let mut seen = 0_i64;
    let mut timer = tokio::time::interval(REFRESH);
    let started = Instant::now();
    loop {
        timer.tick().await;
        match activity(pool, seen).await {
            Ok((lines, last)) => {
                seen = last.max(seen);
                lines.iter().for_each(|line| say!("{line}"));
            }
            Err(error) => say!("(the sync log cannot be read: {error})"),
        }
        if let Ok(Totals { inserted, updated, deleted, waiting }) = totals(pool).await {
            let api = simulator.counters();
            let webhooks = simulator.sender_counters();
            let clock = started.elapsed().as_secs();
            let line = format!(
                "[{clock:>4} s] webhooks {:>6} | added {inserted:>5}  changed {updated:>5}  removed {deleted:>5} | waiting {waiting:>4} | API requests {:>4}",
                webhooks.accepted, api.graphql_requests
            );
            say!("{}", bold(&line));
        }
    }
}

fn bold(line: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\u{1b}[1m{line}\u{1b}[0m") } else { line.to_owned() }
}

/// The latest entries of the sync log after `seen`, and the number of the last.
async fn activity(pool: &PgPool, seen: i64) -> Result<(Vec<String>, i64), sqlx::Error> {
    let rows = sqlx::query!(
        r#"select id as "id!", action as "action!", table_name as "table_name!", key::text as "key!",
                  coalesce('company ' || company_no, 'customer ' || customer_no) as "tenant!"
             from nxt_mirror.recent_activity
            where id > $1 and action in ('inserted', 'updated', 'deleted') order by id desc limit $2"#,
        seen,
        LINES
    )
    .fetch_all(pool)
    .await?;
    let last = rows.iter().map(|row| row.id).max().unwrap_or(seen);
    let sign = |action: &str| match action {
        "inserted" => '+',
        "deleted" => '-',
        _ => '~',
    };
    let lines = rows
        .iter()
        .rev()
        .map(|row| format!("         {} {:<24} {:<16} {}", sign(&row.action), row.table_name, row.tenant, row.key));
    Ok((lines.collect(), last))
}

/// What the sync log and the queue count.
struct Totals {
    inserted: i64,
    updated: i64,
    deleted: i64,
    waiting: i64,
}

async fn totals(pool: &PgPool) -> Result<Totals, sqlx::Error> {
    sqlx::query_as!(
        Totals,
        r#"select count(*) filter (where action = 'inserted') as "inserted!",
                  count(*) filter (where action = 'updated') as "updated!",
                  count(*) filter (where action = 'deleted') as "deleted!",
                  (select rows from nxt_mirror.waiting) as "waiting!"
             from nxt_mirror.sync_log"#
    )
    .fetch_one(pool)
    .await
}
