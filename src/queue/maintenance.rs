//! Partitions of the ledger: made ahead of time, dropped when old. Deliveries, sync log, tombstones and dead letters go
//! with them.

use chrono::{Days, NaiveDate};
use sqlx::{AssertSqlSafe, PgPool};

use super::QueueError;

/// Days for which the ledger has partitions in advance.
const DAYS_AHEAD: u64 = 7;
/// Days that the ledger reaches back.
pub const RETENTION_DAYS: u64 = 30;
/// Rows removed by one statement, so that none holds its locks for long.
const DELETE_ROWS_MAX: i64 = 10_000;

/// Makes the partitions that are missing and drops what is older than `retention_days`.
pub async fn run(pool: &PgPool, retention_days: u64) -> Result<(), QueueError> {
    let today: NaiveDate = sqlx::query_scalar("select (clock_timestamp() at time zone 'UTC')::date")
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("ask for the date"))?;
    for ahead in 0..=DAYS_AHEAD {
        make_partition(pool, today + Days::new(ahead)).await?;
    }
    let oldest = today - Days::new(retention_days);
    drop_partitions(pool, oldest).await?;
    let aged = [
        ("delivery", "received_at"),
        ("sync_log", "at"),
        ("tombstone", "received_at"),
        ("dead_letter", "last_at"),
        // What walks left behind that never came to their end.
        ("walk_met", "met_at"),
    ];
    for (table, column) in aged {
        delete_before(pool, table, column, oldest).await?;
    }
    Ok(())
}

fn partition_name(day: NaiveDate) -> String {
    format!("notification_{}", day.format("%Y%m%d"))
}

/// Fails on a day whose notifications already lie in the default partition; they stay there, and are found there.
async fn make_partition(pool: &PgPool, day: NaiveDate) -> Result<(), QueueError> {
    let name = partition_name(day);
    let exists: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(format!("nxt_mirror.{name}"))
        .fetch_one(pool)
        .await
        .map_err(QueueError::on("look for a ledger partition"))?;
    if exists {
        return Ok(());
    }
    let next = day + Days::new(1);
    let sql = format!(
        "create table if not exists nxt_mirror.{name} partition of nxt_mirror.notification
         for values from ('{day} 00:00:00+00') to ('{next} 00:00:00+00')"
    );
    match sqlx::query(AssertSqlSafe(sql)).execute(pool).await {
        Ok(_) => Ok(()),
        // 23514: rows of that day are in the default partition. 42P07: another replica was faster.
        Err(sqlx::Error::Database(error)) if matches!(error.code().as_deref(), Some("23514" | "42P07")) => {
            tracing::warn!(partition = name, %error, "ledger partition not made");
            Ok(())
        }
        Err(error) => Err(QueueError::on("make a ledger partition")(error)),
    }
}

async fn drop_partitions(pool: &PgPool, oldest: NaiveDate) -> Result<(), QueueError> {
    let partitions: Vec<String> = sqlx::query_scalar(
        "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
          where i.inhparent = 'nxt_mirror.notification'::regclass and c.relname ~ '^notification_[0-9]{8}$'",
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("list ledger partitions"))?;
    let limit = partition_name(oldest);
    for name in partitions.into_iter().filter(|name| *name < limit) {
        sqlx::query(AssertSqlSafe(format!("drop table if exists nxt_mirror.{name}")))
            .execute(pool)
            .await
            .map_err(QueueError::on("drop a ledger partition"))?;
        tracing::info!(partition = name, "ledger partition dropped");
    }
    delete_before(pool, "notification_default", "received_at", oldest).await
}

async fn delete_before(pool: &PgPool, table: &str, column: &str, oldest: NaiveDate) -> Result<(), QueueError> {
    let sql = format!(
        "delete from nxt_mirror.{table} where ctid = any(array(
             select ctid from nxt_mirror.{table} where {column} < $1::date at time zone 'UTC' limit $2))"
    );
    loop {
        let deleted = sqlx::query(AssertSqlSafe(sql.clone()))
            .bind(oldest)
            .bind(DELETE_ROWS_MAX)
            .execute(pool)
            .await
            .map_err(QueueError::on("remove what is past its retention"))?
            .rows_affected();
        if i64::try_from(deleted).unwrap_or(i64::MAX) < DELETE_ROWS_MAX {
            return Ok(());
        }
    }
}
