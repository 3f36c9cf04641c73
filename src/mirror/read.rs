//! Reading mirrored rows by key.

use sqlx::{
    Arguments, AssertSqlSafe, PgConnection, Row as _,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};

use super::{Carried, Mirror, MirrorError, SchemaError, arrays, clause, error::failed, statement};
use crate::domain::{
    ColumnType, DatabaseTime, KeyValue, Row, RowKey, SourceTime, TableSpec, TargetTable, Tenant, settle::Mirrored,
};

/// A row of the source against its mirrored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// They are equal.
    Equal,
    /// The mirror does not have it, or has it softly deleted.
    Missing,
    /// They differ in these columns, by their mirrored names.
    Different(Vec<String>),
}

/// A mirrored row that the source may hold equal to one of another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherSpelling {
    /// Which of the keys it differs from by its spelling alone.
    pub index: usize,
    /// Its own.
    pub key: RowKey,
    /// Its times.
    pub mirrored: Mirrored,
}

/// A living row, as it is mirrored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LivingRow {
    /// Number of the tenant, of the table's level.
    pub tenant_no: i64,
    /// `_changed_at`.
    pub changed_at: Option<SourceTime>,
    /// `_fetched_at`.
    pub fetched_at: DatabaseTime,
    /// `_notification_id`.
    pub notification_id: Option<i64>,
}

impl Mirror {
    /// The living rows of this key, of one tenant or of all.
    pub async fn living(
        &self,
        table: &TableSpec,
        key: &RowKey,
        tenant: Option<Tenant>,
    ) -> Result<Vec<LivingRow>, SchemaError> {
        let failed = |source| SchemaError::of(&table.sql_name, source);
        let mut arguments = PgArguments::default();
        let add = |value: Result<(), BoxDynError>| value.map_err(|error| failed(sqlx::Error::Encode(error)));
        add(arguments.add(tenant.map(Tenant::number)))?;
        for value in key.values() {
            add(match value {
                KeyValue::Int(number) => arguments.add(number),
                KeyValue::Text(text) => arguments.add(text),
            })?;
        }
        let mut transaction = self.begin().await.map_err(failed)?;
        let sql = AssertSqlSafe(statement::living_rows(table));
        let rows = sqlx::query_as_with(sql, arguments).fetch_all(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(rows)
    }

    /// For each key, the times of its mirrored row; `None` when it is absent or softly deleted.
    pub async fn known(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        keys: &[RowKey],
    ) -> Result<Vec<Option<Mirrored>>, MirrorError> {
        let mut known = vec![None; keys.len()];
        if keys.is_empty() {
            return Ok(known);
        }
        let rows =
            times(connection, target, &keys.iter().collect::<Vec<_>>(), self.is_distributed(&target.table)).await;
        for (position, changed_at, fetched_at) in rows.map_err(failed("read rows", target, Carried::Rows))? {
            if let Some(place) = index(position).and_then(|index| known.get_mut(index)) {
                *place = Some(Mirrored { changed_at, fetched_at });
            }
        }
        Ok(known)
    }

    /// As [`Mirror::known`], in a transaction of its own: what is read may have changed when it is used.
    pub async fn known_now(&self, target: &TargetTable, keys: &[RowKey]) -> Result<Vec<Option<Mirrored>>, MirrorError> {
        let mut transaction = self.begin().await.map_err(failed("read rows", target, Carried::Nothing))?;
        let known = self.known(&mut transaction, target, keys).await?;
        transaction.commit().await.map_err(failed("read rows", target, Carried::Nothing))?;
        Ok(known)
    }

    /// Compares rows with their mirrored ones, column by column.
    pub async fn compare(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        rows: &[&Row],
    ) -> Result<Vec<Comparison>, MirrorError> {
        let mut compared = vec![Comparison::Equal; rows.len()];
        if rows.is_empty() {
            return Ok(compared);
        }
        let found = differences(connection, target, rows, self.is_distributed(&target.table)).await;
        for (position, columns) in found.map_err(failed("compare rows", target, Carried::Rows))? {
            if let Some(place) = index(position).and_then(|index| compared.get_mut(index)) {
                *place = columns.map_or(Comparison::Missing, Comparison::Different);
            }
        }
        Ok(compared)
    }

    /// Whether each row is missing in the mirror or different there. Takes no lock.
    pub async fn differing(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        rows: &[&Row],
    ) -> Result<Vec<bool>, MirrorError> {
        let compared = self.compare(connection, target, rows).await?;
        Ok(compared.into_iter().map(|comparison| comparison != Comparison::Equal).collect())
    }

    /// Mirrored rows that the source may hold equal to one of these keys although they are spelled otherwise.
    pub async fn other_spellings(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        keys: &[RowKey],
    ) -> Result<Vec<OtherSpelling>, MirrorError> {
        if keys.is_empty() || !clause::has_text_key(&target.table) {
            return Ok(vec![]);
        }
        let found =
            spellings(connection, target, &keys.iter().collect::<Vec<_>>(), self.is_distributed(&target.table)).await;
        found.map_err(failed("look for other spellings", target, Carried::Rows))
    }
}

async fn times(
    connection: &mut PgConnection,
    target: &TargetTable,
    keys: &[&RowKey],
    is_distributed: bool,
) -> Result<Vec<(i64, Option<SourceTime>, DatabaseTime)>, sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arrays::add_keys(&mut arguments, &target.table, keys)?;
    sqlx::query_as_with(AssertSqlSafe(statement::known(&target.table, is_distributed)), arguments)
        .fetch_all(connection)
        .await
}

async fn differences(
    connection: &mut PgConnection,
    target: &TargetTable,
    rows: &[&Row],
    is_distributed: bool,
) -> Result<Vec<(i64, Option<Vec<String>>)>, sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arrays::add_rows(&mut arguments, &target.table, rows)?;
    sqlx::query_as_with(AssertSqlSafe(statement::compare(&target.table, is_distributed)), arguments)
        .fetch_all(connection)
        .await
}

async fn spellings(
    connection: &mut PgConnection,
    target: &TargetTable,
    keys: &[&RowKey],
    is_distributed: bool,
) -> Result<Vec<OtherSpelling>, sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arrays::add_keys(&mut arguments, &target.table, keys)?;
    let sql = statement::other_spellings(&target.table, is_distributed);
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(connection).await?;
    let read = |row: &PgRow| {
        let mirrored = Mirrored { changed_at: row.try_get("_changed_at")?, fetched_at: row.try_get("_fetched_at")? };
        let key = read_key(row, &target.table)?;
        Ok(index(row.try_get("position")?).map(|index| OtherSpelling { index, key, mirrored }))
    };
    rows.iter().filter_map(|row| read(row).transpose()).collect()
}

/// The index of what PostgreSQL counts from 1.
pub(super) fn index(position: i64) -> Option<usize> {
    usize::try_from(position).ok()?.checked_sub(1)
}

/// The key in a row that a statement returned.
pub(super) fn read_key(row: &PgRow, table: &TableSpec) -> Result<RowKey, sqlx::Error> {
    let read = |(index, kind)| match kind {
        ColumnType::Text => row.try_get(index).map(KeyValue::Text),
        _ => row.try_get(index).map(KeyValue::Int),
    };
    let values = table.key_columns().map(|column| column.kind).enumerate().map(read);
    values.collect::<Result<_, _>>().map(RowKey::from_values)
}
