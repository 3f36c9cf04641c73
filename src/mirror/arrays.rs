//! Rows and keys as arguments: one array for each column.

use std::{rc::Rc, sync::Arc};

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use sqlx::{Arguments, error::BoxDynError, postgres::PgArguments, types::Uuid};

use super::write::Fetched;
use crate::domain::{Column, ColumnType, KeyValue, Row, RowKey, SourceTime, TableSpec, TargetTable, Value};

/// The row does not fit its description.
#[derive(Debug, thiserror::Error)]
#[error("a value of column {column} does not fit its type {kind}")]
struct Misfit {
    column: String,
    kind: &'static str,
}

/// Arguments that begin with the tenant.
pub(super) fn of_tenant(target: &TargetTable) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    arguments.add(target.tenant.number()).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}

/// Arguments that begin with a walk.
pub(super) fn of_walk(id: Uuid, seed: i64) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    arguments.add(id).map_err(sqlx::Error::Encode)?;
    arguments.add(seed).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}

/// Adds an array for each column of the table. A row that was fetched by a wider description is cut to it.
pub(super) fn add_rows(arguments: &mut PgArguments, table: &Arc<TableSpec>, rows: &[&Row]) -> Result<(), sqlx::Error> {
    let places = places(table, rows)?;
    for (index, column) in table.columns.iter().enumerate() {
        let values = rows.iter().zip(&places).map(|(row, places)| &row.values[places[index]]);
        add_column(arguments, column, values).map_err(sqlx::Error::Encode)?;
    }
    Ok(())
}

/// Adds arrays of the bookkeeping columns: change times, starts of requests, notifications.
pub(super) fn add_bookkeeping(arguments: &mut PgArguments, rows: &[&Fetched<'_>]) -> Result<(), sqlx::Error> {
    let changed_at: Vec<_> = rows.iter().map(|fetched| fetched.row.changed_at).collect();
    let fetched_at: Vec<_> = rows.iter().map(|fetched| fetched.started_at).collect();
    let notification_id: Vec<_> = rows.iter().map(|fetched| fetched.notification_id).collect();
    arguments.add(changed_at).map_err(sqlx::Error::Encode)?;
    arguments.add(fetched_at).map_err(sqlx::Error::Encode)?;
    arguments.add(notification_id).map_err(sqlx::Error::Encode)
}

/// Adds an array of times.
pub(super) fn add_times(
    arguments: &mut PgArguments,
    times: impl Iterator<Item = SourceTime>,
) -> Result<(), sqlx::Error> {
    arguments.add(times.collect::<Vec<_>>()).map_err(sqlx::Error::Encode)
}

/// Adds an array for each column of the key.
pub(super) fn add_keys(arguments: &mut PgArguments, table: &TableSpec, keys: &[&RowKey]) -> Result<(), sqlx::Error> {
    for (index, column) in table.key_columns().enumerate() {
        add_key_values(arguments, column, keys.iter().map(|key| &key.values()[index]))?;
    }
    Ok(())
}

fn add_key_values<'a>(
    arguments: &mut PgArguments,
    column: &Column,
    values: impl Iterator<Item = &'a KeyValue>,
) -> Result<(), sqlx::Error> {
    let values = values.map(|value| match value {
        KeyValue::Int(number) => (Some(*number), None),
        KeyValue::Text(text) => (None, Some(text.as_str())),
    });
    if column.kind == ColumnType::Text {
        let texts: Option<Vec<&str>> = values.map(|(_, text)| text).collect();
        texts.map(|texts| arguments.add(texts))
    } else {
        let numbers: Option<Vec<i64>> = values.map(|(number, _)| number).collect();
        numbers.map(|numbers| arguments.add(numbers))
    }
    .unwrap_or_else(|| Err(Misfit::of(column).into()))
    .map_err(sqlx::Error::Encode)
}

fn add_column<'a>(
    arguments: &mut PgArguments,
    column: &Column,
    values: impl Iterator<Item = &'a Value>,
) -> Result<(), BoxDynError> {
    match column.kind {
        ColumnType::SmallInt => arguments.add(read(column, values, integer::<i16>)?),
        ColumnType::Integer => arguments.add(read(column, values, integer::<i32>)?),
        ColumnType::BigInt => arguments.add(read(column, values, integer::<i64>)?),
        ColumnType::Numeric => arguments.add(read(column, values, decimal)?),
        ColumnType::Text => arguments.add(read(column, values, text)?),
        ColumnType::Boolean => arguments.add(read(column, values, boolean)?),
        ColumnType::TimestampTz => arguments.add(read(column, values, timestamptz)?),
        ColumnType::Timestamp => arguments.add(read(column, values, timestamp)?),
        ColumnType::Date => arguments.add(read(column, values, date)?),
        ColumnType::Time => arguments.add(read(column, values, time)?),
    }
}

fn read<'a, T>(
    column: &Column,
    values: impl Iterator<Item = &'a Value>,
    read: impl Fn(&'a Value) -> Option<T>,
) -> Result<Vec<Option<T>>, Misfit> {
    values
        .map(|value| match value {
            Value::Null => Ok(None),
            value => read(value).map(Some).ok_or_else(|| Misfit::of(column)),
        })
        .collect()
}

fn integer<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    if let Value::Int(number) = value { T::try_from(*number).ok() } else { None }
}

fn decimal(value: &Value) -> Option<&str> {
    if let Value::Decimal(digits) = value { Some(digits) } else { None }
}

fn text(value: &Value) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

fn boolean(value: &Value) -> Option<bool> {
    if let Value::Bool(truth) = value { Some(*truth) } else { None }
}

fn timestamptz(value: &Value) -> Option<DateTime<Utc>> {
    if let Value::TimestampTz(time) = value { Some(time.utc()) } else { None }
}

fn timestamp(value: &Value) -> Option<NaiveDateTime> {
    if let Value::Timestamp(time) = value { Some(*time) } else { None }
}

fn date(value: &Value) -> Option<NaiveDate> {
    if let Value::Date(date) = value { Some(*date) } else { None }
}

fn time(value: &Value) -> Option<NaiveTime> {
    if let Value::Time(time) = value { Some(*time) } else { None }
}

impl Misfit {
    fn of(column: &Column) -> Self {
        Self { column: column.sql_name.clone(), kind: column.kind.sql() }
    }
}

/// For each row, at which of its values it holds each column of the table.
fn places(table: &Arc<TableSpec>, rows: &[&Row]) -> Result<Vec<Rc<[usize]>>, sqlx::Error> {
    let mut last: Option<(&Arc<TableSpec>, Rc<[usize]>)> = None;
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let found = match &last {
            Some((described, found)) if Arc::ptr_eq(described, &row.table) => Rc::clone(found),
            _ => places_in(table, &row.table)?,
        };
        last = Some((&row.table, Rc::clone(&found)));
        places.push(found);
    }
    Ok(places)
}

fn places_in(table: &TableSpec, described: &TableSpec) -> Result<Rc<[usize]>, sqlx::Error> {
    let place = |column: &Column| {
        let place = described.columns.iter().position(|other| other == column);
        place.ok_or_else(|| sqlx::Error::ColumnNotFound(column.sql_name.clone()))
    };
    table.columns.iter().map(place).collect()
}
