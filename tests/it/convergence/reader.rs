//! Somebody who reads the mirror all the time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use nxt_simulator::Owner;
use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::sync::CancellationToken;

use super::history::{History, RowId, TABLES, Table};

/// A row as it was read.
#[derive(Debug, Clone, Copy)]
struct Read {
    version: i64,
    /// A row without a change time has no order but that of the requests that brought it.
    has_time: bool,
}

/// Reads all rows again and again: no version may be followed by an older one, and a row may only go when the source
/// has deleted that version or a later one. Returns how often it has read.
pub async fn watch(pool: PgPool, history: Arc<Mutex<History>>, done: CancellationToken) -> u64 {
    let mut last: HashMap<RowId, Read> = HashMap::new();
    let mut reads = 0;
    while !done.is_cancelled() {
        for Table { name: table, sql_name, sql_key, sql_version, .. } in TABLES {
            // Keys that differ in case and trailing blanks are one at the source.
            let sql = format!(
                "select _company_no, lower(rtrim(concat_ws('/', {sql_key}))), {sql_version}::text, _changed_at is not null
                   from business_nxt.{sql_name}"
            );
            let rows: Vec<(i64, String, Option<String>, bool)> =
                match sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&pool).await {
                    Ok(rows) => rows,
                    // Not made yet, or the server is away.
                    Err(_) => continue,
                };
            reads += 1;
            let now: HashMap<RowId, Read> = rows
                .into_iter()
                .map(|(company, key, version, has_time)| {
                    let version = version.and_then(|version| version.parse().ok()).unwrap_or(0);
                    ((Owner::Company(company), table, key), Read { version, has_time })
                })
                .collect();
            for (id, seen) in last.iter().filter(|(id, _)| id.1 == table) {
                if let Some(problem) = problem(&history, id, *seen, now.get(id).copied()) {
                    panic!("{problem}\n{}", story(&pool, id).await);
                }
            }
            last.retain(|id, _| id.1 != table);
            last.extend(now);
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    reads
}

/// What is wrong with a row that was read at one version and then at another, or not at all.
fn problem(history: &Mutex<History>, id: &RowId, seen: Read, now: Option<Read>) -> Option<String> {
    let Read { version: seen, has_time } = seen;
    match now {
        Some(Read { version, .. }) => {
            (has_time && version < seen).then(|| format!("{id:?} went back from {seen} to {version}"))
        }
        None => {
            let history = history.lock().unwrap();
            let deletes = history.deletes.get(id).cloned().unwrap_or_default();
            let is_deleted = deletes.iter().any(|at| *at > seen);
            (!is_deleted).then(|| format!("{id:?} of version {seen} vanished: {deletes:?}"))
        }
    }
}

/// The latest entries of the sync log about rows of the table, for whoever looks for the reason.
async fn story(pool: &PgPool, id: &RowId) -> String {
    let sql =
        "select concat_ws(' ', log.at, log.key, log.action, log.reason, log.notification_id, log.source_changed_at,
                                log.fetch_started_at)
                 from nxt_mirror.sync_log log join nxt_mirror.target target on target.id = log.target_id
                where target.table_name = $1 order by log.id desc limit 60";
    let entries: Result<Vec<String>, _> = sqlx::query_scalar(sql).bind(id.1).fetch_all(pool).await;
    entries.map_or_else(|error| error.to_string(), |entries| entries.join("\n"))
}
