//! Reading and writing mirrored rows, inside the transaction that settles them.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};
use sqlx::{AssertSqlSafe, PgConnection};

use super::{MirrorError, Replica, statement};
use crate::{
    config::Deletes,
    domain::{KeyValue, Row, RowKey, TableSpec, Tenant, Time, settle::Mirrored},
};

/// A row to write.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The row.
    pub row: &'a Row,
    /// Start of the request that brought it.
    pub started_at: Time,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
}

/// A row to remove.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Its key.
    pub key: RowKey,
    /// When the source deleted it.
    pub deleted_at: Time,
}

impl Replica {
    /// Keeps everybody else who writes this table of this tenant waiting until the transaction ends, so that what is
    /// read here still holds when it is written. Take locks in the order of tenants, then of tables.
    pub async fn lock(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
    ) -> Result<(), MirrorError> {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("nxt-mirror {tenant} {}", table.sql_name))
            .execute(connection)
            .await
            .map_err(failed("lock the rows", table))?;
        Ok(())
    }

    /// For each key, the times of its mirrored row; `None` when it is absent or softly deleted.
    pub async fn known(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Mirrored>>, MirrorError> {
        let rows: Vec<(i64, Option<Time>, Time)> = sqlx::query_as(AssertSqlSafe(statement::known(table)))
            .bind(tenant.number())
            .bind(keys_json(table, keys.iter().map(|key| (key, None))))
            .fetch_all(connection)
            .await
            .map_err(failed("read rows", table))?;
        let mut known = vec![None; keys.len()];
        for (position, changed_at, fetched_at) in rows {
            if let Some(place) = usize::try_from(position).ok().and_then(|index| known.get_mut(index)) {
                *place = Some(Mirrored { changed_at, fetched_at });
            }
        }
        Ok(known)
    }

    /// Writes rows of one table; no key may come twice. Returns the keys of those that were new or different: a row
    /// that is already as fetched is not written again.
    pub async fn upsert(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        rows: &[Fetched<'_>],
    ) -> Result<HashSet<RowKey>, MirrorError> {
        if rows.is_empty() {
            return Ok(HashSet::new());
        }
        let rows: Vec<Json> = rows.iter().map(|fetched| row_json(tenant, table, fetched)).collect();
        let written: Vec<String> = sqlx::query_scalar(AssertSqlSafe(statement::upsert(table)))
            .bind(Json::Array(rows).to_string())
            .fetch_all(connection)
            .await
            .map_err(failed("write rows", table))?;
        read_keys(written, table)
    }

    /// Removes rows of one table, or marks them deleted. Returns the keys of those that were there.
    pub async fn delete(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        removals: &[Removal],
    ) -> Result<HashSet<RowKey>, MirrorError> {
        if removals.is_empty() {
            return Ok(HashSet::new());
        }
        let sql = match self.deletes() {
            Deletes::Hard => statement::delete(table),
            Deletes::Soft => statement::soft_delete(table),
        };
        let keys = removals.iter().map(|removal| (&removal.key, Some(removal.deleted_at)));
        let removed: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(tenant.number())
            .bind(keys_json(table, keys))
            .fetch_all(connection)
            .await
            .map_err(failed("remove rows", table))?;
        read_keys(removed, table)
    }

    /// Keys of mirrored rows that the source may hold equal to one of these although they are spelled otherwise.
    pub async fn other_spellings(
        &self,
        connection: &mut PgConnection,
        tenant: Tenant,
        table: &TableSpec,
        keys: &[RowKey],
    ) -> Result<HashSet<RowKey>, MirrorError> {
        if keys.is_empty() || !statement::has_text_key(table) {
            return Ok(HashSet::new());
        }
        let found: Vec<String> = sqlx::query_scalar(AssertSqlSafe(statement::other_spellings(table)))
            .bind(tenant.number())
            .bind(keys_json(table, keys.iter().map(|key| (key, None))))
            .fetch_all(connection)
            .await
            .map_err(failed("look for other spellings", table))?;
        read_keys(found, table)
    }
}

pub(super) fn failed(action: &'static str, table: &TableSpec) -> impl FnOnce(sqlx::Error) -> MirrorError {
    let table = table.name.to_string();
    move |source| MirrorError { action, table, source }
}

fn row_json(tenant: Tenant, table: &TableSpec, fetched: &Fetched<'_>) -> Json {
    let time = |time: Time| crate::domain::Value::TimestampTz(time).to_json();
    let mut object = Map::with_capacity(table.columns.len() + 4);
    for (column, value) in table.columns.iter().zip(&fetched.row.values) {
        object.insert(column.sql_name.clone(), value.to_json());
    }
    object.insert(table.level.tenant_column().to_owned(), tenant.number().into());
    object.insert("_changed_at".to_owned(), fetched.row.changed_at.map_or(Json::Null, time));
    object.insert("_fetched_at".to_owned(), time(fetched.started_at));
    object.insert("_notification_id".to_owned(), fetched.notification_id.map_or(Json::Null, Json::from));
    Json::Object(object)
}

fn keys_json<'a>(table: &TableSpec, keys: impl Iterator<Item = (&'a RowKey, Option<Time>)>) -> String {
    let rows = keys.enumerate().map(|(position, (key, deleted_at))| {
        let mut object = Map::new();
        object.insert("_position".to_owned(), position.into());
        object.insert("_deleted_at".to_owned(), deleted_at.map_or(Json::Null, |time| time.to_rfc3339().into()));
        for (column, value) in table.key_columns().zip(key.values()) {
            let value = match value {
                KeyValue::Int(number) => Json::from(*number),
                KeyValue::Text(text) => Json::from(text.as_str()),
            };
            object.insert(column.sql_name.clone(), value);
        }
        Json::Object(object)
    });
    Json::Array(rows.collect()).to_string()
}

pub(super) fn read_keys(texts: Vec<String>, table: &TableSpec) -> Result<HashSet<RowKey>, MirrorError> {
    Ok(read_key_list(&texts, table)?.into_iter().collect())
}

/// Keys as JSON arrays, the form in which statements return them.
pub(super) fn read_key_list(texts: &[String], table: &TableSpec) -> Result<Vec<RowKey>, MirrorError> {
    let read = |text: &String| {
        let values: Vec<Json> = serde_json::from_str(text).ok()?;
        values.iter().map(KeyValue::from_json).collect::<Option<Vec<_>>>().map(RowKey::from_values)
    };
    texts
        .iter()
        .map(|text| read(text).ok_or_else(|| sqlx::Error::Decode(format!("not a key: {text}").into())))
        .collect::<Result<_, _>>()
        .map_err(failed("read keys", table))
}
