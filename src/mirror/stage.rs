//! Pages of a walk: copied into a staging table, compared with the mirror there, and merged from there.
//!
//! The staging table is a temporary one that ends with its transaction, made anew for each page so that it always has
//! the columns of the mirrored table.

use std::{collections::HashSet, fmt::Write};

use chrono::NaiveDateTime;
use sqlx::{AssertSqlSafe, PgConnection, types::Uuid};

use super::{
    MirrorError, Replica,
    rows::{failed, read_key_list, read_keys},
    statement,
};
use crate::domain::{Row, RowKey, TableSpec, Tenant, Time, Value, settle::Mirrored};

/// A walk whose keys are remembered, so that rows that only the mirror has can be told.
#[derive(Debug, Clone, Copy)]
pub struct WalkId {
    /// Which.
    pub id: Uuid,
    /// When it began, by the database's clock.
    pub started_at: Time,
}

impl WalkId {
    fn seed(self) -> i64 {
        self.started_at.timestamp_micros()
    }
}

impl Replica {
    /// Copies a page into the staging table of this transaction, which may hold one page. Rows are known by their
    /// position from then on.
    pub async fn stage(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        rows: &[Row],
        started_at: Time,
    ) -> Result<(), MirrorError> {
        let failed = || failed("stage rows", table);
        sqlx::query(AssertSqlSafe(statement::create_stage(table))).execute(&mut *connection).await.map_err(failed())?;
        let mut copy = connection.copy_in_raw(&statement::copy_into_stage(table)).await.map_err(failed())?;
        copy.send(copy_text(tenant, rows, started_at).into_bytes()).await.map_err(failed())?;
        copy.finish().await.map_err(failed())?;
        Ok(())
    }

    /// Remembers the keys of the staged page as met by a walk.
    pub async fn note_met(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
        walk: WalkId,
    ) -> Result<(), MirrorError> {
        sqlx::query(AssertSqlSafe(statement::note_met(table)))
            .bind(walk.id)
            .bind(walk.seed())
            .execute(connection)
            .await
            .map_err(failed("note met rows", table))?;
        Ok(())
    }

    /// Positions of staged rows that the mirror lacks or holds otherwise, in order.
    pub async fn staged_differences(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
    ) -> Result<Vec<i32>, MirrorError> {
        sqlx::query_scalar(AssertSqlSafe(statement::staged_differences(table)))
            .fetch_all(connection)
            .await
            .map_err(failed("compare rows", table))
    }

    /// For each of these staged rows, the times of its mirrored row; `None` when that is absent or softly deleted.
    pub async fn staged_known(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
        positions: &[i32],
    ) -> Result<Vec<Option<Mirrored>>, MirrorError> {
        let rows: Vec<(i32, Option<Time>, Time)> = sqlx::query_as(AssertSqlSafe(statement::staged_known(table)))
            .bind(positions)
            .fetch_all(connection)
            .await
            .map_err(failed("read rows", table))?;
        let mut known = vec![None; positions.len()];
        for (position, changed_at, fetched_at) in rows {
            if let Ok(index) = positions.binary_search(&position) {
                known[index] = Some(Mirrored { changed_at, fetched_at });
            }
        }
        Ok(known)
    }

    /// Writes these staged rows. Returns how many were new or different.
    pub async fn merge_staged(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
        positions: &[i32],
    ) -> Result<u64, MirrorError> {
        sqlx::query(AssertSqlSafe(statement::merge_staged(table)))
            .bind(positions)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
            .map_err(failed("write rows", table))
    }

    /// The same, with the keys of the rows that were new or different.
    pub async fn merge_staged_and_tell(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
        positions: &[i32],
    ) -> Result<HashSet<RowKey>, MirrorError> {
        let sql = format!("{} returning {}::text", statement::merge_staged(table), statement::key_output(table));
        let written: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(positions)
            .fetch_all(connection)
            .await
            .map_err(failed("write rows", table))?;
        read_keys(written, table)
    }

    /// Compares the staged rows with their mirrored ones, column by column. For each that differs: its key, and the
    /// columns that do, or `None` when the mirror does not have it.
    pub async fn compare_staged(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
    ) -> Result<Vec<(RowKey, Option<Vec<String>>)>, MirrorError> {
        let found: Vec<(String, Option<Vec<String>>)> = sqlx::query_as(AssertSqlSafe(statement::compare_staged(table)))
            .fetch_all(connection)
            .await
            .map_err(failed("compare rows", table))?;
        let (keys, columns): (Vec<_>, Vec<_>) = found.into_iter().unzip();
        Ok(read_key_list(&keys, table)?.into_iter().zip(columns).collect())
    }

    /// Declares a cursor over the keys of mirrored rows that a walk has not met and that no request since its begin has
    /// brought; read it with [`Replica::next_unmet`] in the same transaction.
    pub async fn declare_unmet(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        walk: WalkId,
    ) -> Result<(), MirrorError> {
        // The planner cannot know how many fingerprints a list holds, and a nested loop over millions would not end.
        sqlx::query("set local enable_nestloop = off")
            .execute(&mut *connection)
            .await
            .map_err(failed("list rows", table))?;
        sqlx::query(AssertSqlSafe(statement::declare_unmet(table)))
            .bind(tenant.number())
            .bind(walk.id)
            .bind(walk.seed())
            .bind(walk.started_at)
            .execute(connection)
            .await
            .map_err(failed("list rows", table))?;
        Ok(())
    }

    /// The next keys of the cursor; none at its end.
    pub async fn next_unmet(
        &self,
        connection: &mut PgConnection,
        table: &TableSpec,
    ) -> Result<Vec<RowKey>, MirrorError> {
        let keys: Vec<String> = sqlx::query_scalar("fetch forward 5000 from nxt_unmet")
            .fetch_all(connection)
            .await
            .map_err(failed("list rows", table))?;
        read_key_list(&keys, table)
    }
}

/// Rows in PostgreSQL's text format for COPY, in the order of [`statement::copy_into_stage`].
fn copy_text(tenant: Tenant, rows: &[Row], started_at: Time) -> String {
    let mut text = String::with_capacity(rows.len() * 256);
    let started_at = started_at.naive_utc();
    for (position, row) in rows.iter().enumerate() {
        _ = write!(text, "{position}\t{}\t", tenant.number());
        match row.changed_at {
            Some(time) => write_time(&mut text, time.naive_utc(), "Z"),
            None => text.push_str("\\N"),
        }
        text.push('\t');
        write_time(&mut text, started_at, "Z");
        for value in &row.values {
            text.push('\t');
            write_value(&mut text, value);
        }
        text.push('\n');
    }
    text
}

fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("\\N"),
        Value::Bool(true) => text.push('t'),
        Value::Bool(false) => text.push('f'),
        Value::Int(number) => _ = write!(text, "{number}"),
        Value::Decimal(digits) => text.push_str(digits),
        Value::Text(value) => write_escaped(text, value),
        Value::TimestampTz(time) => write_time(text, time.naive_utc(), "Z"),
        Value::Timestamp(time) => write_time(text, *time, ""),
        Value::Date(date) => _ = write!(text, "{date}"),
    }
}

fn write_time(text: &mut String, time: NaiveDateTime, zone: &str) {
    _ = write!(text, "{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.6f"));
}

fn write_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_field() {
        let mut text = String::new();
        write_escaped(&mut text, "a\tb\nc\\.d\re\\N");
        assert_eq!(text, "a\\tb\\nc\\\\.d\\re\\\\N");
    }
}
