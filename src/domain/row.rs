//! A row of the source, its values typed for the mirror.

use std::sync::Arc;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};

use super::{
    key::{KeyValue, RowKey},
    table::TableSpec,
    time::SourceTime,
};

/// One value, in the one form it has in the mirror.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// `boolean`.
    Bool(bool),
    /// `smallint`, `integer` or `bigint`.
    Int(i64),
    /// `numeric`, as the digits that the API sent.
    Decimal(String),
    /// `text`, free of NUL characters.
    Text(String),
    /// `timestamptz`.
    TimestampTz(SourceTime),
    /// `timestamp`.
    Timestamp(NaiveDateTime),
    /// `date`.
    Date(NaiveDate),
    /// `time`.
    Time(NaiveTime),
}

impl Value {
    /// The value as JSON that PostgreSQL turns into the column's type without loss.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Decimal(text) | Self::Text(text) => text.as_str().into(),
            Self::TimestampTz(time) => time.to_string().into(),
            Self::Timestamp(time) => time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string().into(),
            Self::Date(date) => date.to_string().into(),
            Self::Time(time) => time.format("%H:%M:%S%.6f").to_string().into(),
        }
    }

    /// The value as part of a key; `None` for what cannot be one.
    pub fn to_key(&self) -> Option<KeyValue> {
        match self {
            Self::Int(number) => Some(KeyValue::Int(*number)),
            Self::Text(text) => Some(KeyValue::Text(text.clone())),
            Self::Null
            | Self::Bool(_)
            | Self::Decimal(_)
            | Self::TimestampTz(_)
            | Self::Timestamp(_)
            | Self::Date(_)
            | Self::Time(_) => None,
        }
    }
}

/// A full row as a fetch brought it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The description the values follow.
    pub table: Arc<TableSpec>,
    /// The key as the source spells it.
    pub key: RowKey,
    /// When the source last changed the row; `None` for rows untouched since October 2024.
    pub changed_at: Option<SourceTime>,
    /// One value for each of the table's columns.
    pub values: Vec<Value>,
}

impl Row {
    /// Who last changed it, where the source says so.
    pub fn changed_by(&self) -> Option<&str> {
        match self.values.get(self.table.changed_by_column()?)? {
            Value::Text(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }
}

/// What a fetch or a page saw of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// The row, its key as the source spells it.
    Found(Row),
    /// No row of this key.
    Missing,
    /// A row with a value that cannot be read, and why.
    Unreadable(String),
}
