//! What people look at while the demo runs.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use nxt_simulator::Simulator;
use sqlx::PgPool;

use crate::{
    queue::{
        QueueError,
        activity::{self, Activity, EntryFilter},
        status::tenant_name,
    },
    telemetry::chain,
};

const REFRESH: Duration = Duration::from_secs(1);
/// Lines of activity that are shown each time, and entries among which they are looked for.
const LINES: usize = 4;
const ENTRIES: i64 = 100;

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
            Err(error) => say!("(the sync log cannot be read: {})", chain(&error)),
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

/// The latest changes that the sync log tells of after `seen`, and the number of its last entry.
async fn activity(pool: &PgPool, seen: i64) -> Result<(Vec<String>, i64), QueueError> {
    let entries = activity::latest(pool, &EntryFilter::default(), ENTRIES).await?;
    let last = entries.last().map_or(seen, |entry| entry.id);
    let changes = entries.iter().filter(|entry| entry.id > seen).filter_map(line).collect::<Vec<_>>();
    Ok((changes[changes.len().saturating_sub(LINES)..].to_vec(), last))
}

fn line(entry: &Activity) -> Option<String> {
    let sign = match entry.action.as_str() {
        "inserted" => '+',
        "updated" => '~',
        "deleted" => '-',
        _ => return None,
    };
    let (table, key) = (entry.table_name.as_ref()?, entry.key.as_ref()?);
    Some(format!("         {sign} {table:<24} {:<16} {key}", tenant_name(entry.company_no, entry.customer_no)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DatabaseTime, ShownKey};

    #[test]
    fn changes_are_shown_with_the_key_in_the_table_s_order_and_nothing_else_is() {
        let names = ["order_no".to_owned(), "line_no".to_owned()];
        let mut entry = Activity {
            id: 1,
            at: DatabaseTime::default(),
            company_no: Some(1),
            customer_no: None,
            table_name: Some("OrderLine".to_owned()),
            key: ShownKey::ordered(r#"{"line_no": 1, "order_no": 3}"#, &names),
            action: "updated".to_owned(),
            reason: String::new(),
            notification_id: None,
        };
        let shown = line(&entry).unwrap();
        assert!(shown.contains("~ OrderLine ") && shown.ends_with(r#"{"order_no": 3, "line_no": 1}"#), "{shown}");
        entry.action = "recheck".to_owned();
        assert_eq!(line(&entry), None);
    }
}
