//! Values as the source keeps them, and how it compares them.

use std::cmp::Ordering;

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Number, Value as Json};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Digits as given.
    Decimal(String),
    Text(String),
    DateTime(NaiveDateTime),
    Date(NaiveDate),
}

/// A value in an order: numbers by size, texts without regard to case and trailing blanks, null first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Ordered {
    Null,
    Int(i64),
    Text(String),
}

impl Value {
    /// Reads JSON as a value of a scalar.
    pub(crate) fn read(scalar: &str, json: &Json) -> Result<Self, String> {
        let wrong = || format!("{json} is not a value of type {scalar}");
        match (scalar, json) {
            (_, Json::Null) => Ok(Self::Null),
            ("Int" | "Short" | "Byte" | "Long", Json::Number(number)) => {
                number.as_i64().map(Self::Int).ok_or_else(wrong)
            }
            ("Long", Json::String(text)) => text.parse().map(Self::Int).map_err(|_| wrong()),
            ("Decimal", Json::Number(number)) => Ok(Self::Decimal(number.to_string())),
            ("Boolean", Json::Bool(value)) => Ok(Self::Bool(*value)),
            ("DateTime", Json::String(text)) => text
                .trim_end_matches('Z')
                .parse()
                .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f"))
                .map(Self::DateTime)
                .map_err(|_| wrong()),
            ("Date", Json::String(text)) => text.parse().map(Self::Date).map_err(|_| wrong()),
            ("Int" | "Short" | "Byte" | "Long" | "Decimal" | "Boolean" | "DateTime" | "Date", _) => Err(wrong()),
            (_, Json::String(text)) => Ok(Self::Text(text.clone())),
            (_, other) => Ok(Self::Text(other.to_string())),
        }
    }

    /// The value as the API sends it.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Decimal(text) => text.parse::<Number>().map_or(Json::Null, Json::Number),
            Self::Text(text) => text.as_str().into(),
            Self::DateTime(time) => seven_decimals(*time).into(),
            Self::Date(date) => date.to_string().into(),
        }
    }

    /// As part of a key.
    pub(crate) fn ordered(&self) -> Ordered {
        match self {
            Self::Int(value) => Ordered::Int(*value),
            Self::Text(text) => Ordered::Text(fold(text)),
            Self::Null | Self::Bool(_) | Self::Decimal(_) | Self::DateTime(_) | Self::Date(_) => Ordered::Null,
        }
    }

    /// The source's order; `None` between values of different types.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Null, Self::Null) => Some(Ordering::Equal),
            (Self::Null, _) => Some(Ordering::Less),
            (_, Self::Null) => Some(Ordering::Greater),
            (Self::Bool(one), Self::Bool(two)) => Some(one.cmp(two)),
            (Self::Int(one), Self::Int(two)) => Some(one.cmp(two)),
            (Self::Decimal(one), Self::Decimal(two)) => one.parse::<f64>().ok()?.partial_cmp(&two.parse::<f64>().ok()?),
            (Self::Text(one), Self::Text(two)) => Some(fold(one).cmp(&fold(two))),
            (Self::DateTime(one), Self::DateTime(two)) => Some(one.cmp(two)),
            (Self::Date(one), Self::Date(two)) => Some(one.cmp(two)),
            _ => None,
        }
    }
}

/// What SQL Server's usual collations hold equal. Sorting by it is not sorting by bytes.
pub(crate) fn fold(text: &str) -> String {
    text.trim_end_matches(' ').to_lowercase()
}

/// The text of a `datetime2(7)`.
pub(super) fn seven_decimals(time: NaiveDateTime) -> String {
    let mut text = time.format("%Y-%m-%dT%H:%M:%S%.9f").to_string();
    text.truncate(text.len() - 2);
    text
}
