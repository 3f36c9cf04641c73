//! Columns that notifications announced, and those that mirrored tables have gained. The former become visible together
//! with the rows whose notifications announced them, the latter with the description that has them.

use std::collections::HashMap;

use sqlx::PgPool;

use super::QueueError;
use crate::domain::{
    TableLevel, TableName, Tenant,
    json::{Json, without_mark},
};

/// Blocks that are searched for a notification of a table.
const BLOCKS_MAX: i64 = 10_000;

/// Columns of a table that were announced, as received.
pub async fn announced_columns(pool: &PgPool, table: &TableName) -> Result<Vec<String>, QueueError> {
    sqlx::query_scalar!(
        r#"select column_name from nxt_mirror.announced_column
            where lower(table_name) = lower($1 collate "C") order by column_name"#,
        table.as_str()
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("read announced columns"))
}

/// How many columns of each of these tables were announced, by the table's name in lower case; none of a
/// table that is not among them. A number that grew tells of new ones.
pub async fn announced_counts(pool: &PgPool, tables: &[&str]) -> Result<HashMap<String, i64>, QueueError> {
    let counts = sqlx::query!(
        r#"select lower(table_name) as "table_name!", count(*) as "columns!" from nxt_mirror.announced_column
            where lower(table_name) = any(array(select lower(name collate "C") from unnest($1::text[]) as name))
            group by lower(table_name)"#,
        tables as _
    )
    .fetch_all(pool)
    .await
    .map_err(QueueError::on("count announced columns"))?;
    Ok(counts.into_iter().map(|count| (count.table_name, count.columns)).collect())
}

/// Key columns of a table in the order of a recent notification, to tell a key that nothing else tells.
pub async fn announced_key(
    pool: &PgPool,
    table: &TableName,
    tenant: Tenant,
) -> Result<Option<Vec<String>>, QueueError> {
    let body: Option<String> = sqlx::query_scalar!(
        r#"select entry.body as "body!"
             from (select is_company, table_name, body from nxt_mirror.ledger_block order by id desc limit $3) as block,
                  unnest(block.is_company, block.table_name, block.body) as entry (is_company, table_name, body)
            where lower(entry.table_name) = lower($1 collate "C") and entry.is_company = $2
            limit 1"#,
        table.as_str(),
        tenant.level() == TableLevel::Company,
        BLOCKS_MAX
    )
    .fetch_optional(pool)
    .await
    .map_err(QueueError::on("read the latest notification"))?;
    Ok(body.as_deref().and_then(key_order))
}

/// The column names of a stored body's `primaryKeys`.
fn key_order(body: &str) -> Option<Vec<String>> {
    let body = std::str::from_utf8(without_mark(body.as_bytes())).ok()?;
    let entries = Json::parse(body).ok()?.members()?.get("primaryKeys")?.items()?;
    Some(entries.into_iter().filter_map(Json::members).flatten().map(|(name, _)| name.into_owned()).collect())
}
