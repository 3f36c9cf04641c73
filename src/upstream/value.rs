//! Values of an answer, turned into the types of their columns or refused.

use std::borrow::Cow;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde_json::value::RawValue;

use crate::domain::{ColumnType, Value, time};

/// Digits before and after the point that a decimal may have; SQL Server's end at 38.
const DECIMAL_DIGITS_MAX: usize = 200;
/// Stands for the NUL character, which PostgreSQL's text cannot hold.
const NUL_REPLACEMENT: &str = "\u{fffd}";

/// A value does not fit its column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {value} is not a value of type {kind}")]
pub struct ValueError {
    column: String,
    value: String,
    kind: &'static str,
}

/// A value as it stands in the answer.
enum Json<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    /// A list or an object.
    Other(&'a str),
}

impl<'a> Json<'a> {
    /// `None` for a text that JSON allows and Unicode does not.
    fn of(raw: &'a RawValue) -> Option<Self> {
        let text = raw.get();
        Some(match text.as_bytes().first()? {
            b'n' => Self::Null,
            b't' => Self::Bool(true),
            b'f' => Self::Bool(false),
            b'"' if text.contains('\\') => Self::Text(Cow::Owned(serde_json::from_str(text).ok()?)),
            b'"' => Self::Text(Cow::Borrowed(text.get(1..text.len() - 1)?)),
            b'{' | b'[' => Self::Other(text),
            _ => Self::Number(text),
        })
    }
}

/// Reads one value. Integers and decimals may come as numbers or as texts, since the API's notes expect both.
pub(super) fn read(column: &str, kind: ColumnType, raw: &RawValue, zone: Tz) -> Result<Value, ValueError> {
    Json::of(raw).and_then(|json| convert(kind, json, zone)).ok_or_else(|| ValueError {
        column: column.to_owned(),
        value: raw.get().chars().take(60).collect(),
        kind: kind.sql(),
    })
}

fn convert(kind: ColumnType, json: Json<'_>, zone: Tz) -> Option<Value> {
    match (kind, json) {
        (_, Json::Null) => Some(Value::Null),
        (ColumnType::SmallInt, json) => integer(&json, i64::from(i16::MIN), i64::from(i16::MAX)),
        (ColumnType::Integer, json) => integer(&json, i64::from(i32::MIN), i64::from(i32::MAX)),
        (ColumnType::BigInt, json) => integer(&json, i64::MIN, i64::MAX),
        (ColumnType::Numeric, Json::Number(number)) => decimal(number),
        (ColumnType::Numeric, Json::Text(text)) => decimal(text.trim()),
        (ColumnType::Boolean, Json::Bool(value)) => Some(Value::Bool(value)),
        (ColumnType::TimestampTz, Json::Text(text)) => time::parse_in_zone(&text, zone).map(Value::TimestampTz),
        (ColumnType::TimestampTz, Json::Number(number)) => time::parse_in_zone(number, zone).map(Value::TimestampTz),
        (ColumnType::Timestamp, Json::Text(text)) => time::parse_local(&text).map(Value::Timestamp),
        (ColumnType::Date, Json::Text(text)) => date(&text).map(Value::Date),
        (ColumnType::Text, json) => text(json).map(Value::Text),
        _ => None,
    }
}

/// A text, or the JSON of a scalar whose type is not known.
fn text(json: Json<'_>) -> Option<String> {
    match json {
        Json::Null => None,
        Json::Bool(value) => Some(value.to_string()),
        Json::Number(number) => Some(number.to_owned()),
        Json::Text(text) if text.contains('\0') => Some(text.replace('\0', NUL_REPLACEMENT)),
        Json::Text(text) => Some(text.into_owned()),
        Json::Other(text) => {
            let value: serde_json::Value = serde_json::from_str(text).ok()?;
            Some(value.to_string().replace("\\u0000", NUL_REPLACEMENT))
        }
    }
}

fn integer(json: &Json<'_>, min: i64, max: i64) -> Option<Value> {
    let number: i64 = match json {
        Json::Number(number) => number.parse().ok()?,
        Json::Text(text) => text.trim().parse().ok()?,
        Json::Null | Json::Bool(_) | Json::Other(_) => return None,
    };
    (min..=max).contains(&number).then_some(Value::Int(number))
}

/// A decimal's text, kept as it is once it is known to be one of a sane size.
fn decimal(text: &str) -> Option<Value> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let sane = digits.len() + usize::from(exponent.unsigned_abs()) <= DECIMAL_DIGITS_MAX;
    (all_digits(whole) && all_digits(fraction) && sane).then(|| Value::Decimal(text.to_owned()))
}

/// `2026-02-01`, with or without a time, which a date does not have.
fn date(text: &str) -> Option<NaiveDate> {
    time::parse_local(text.trim()).map(|local| local.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: ColumnType, json: &str) -> Result<Value, ValueError> {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        read("c", kind, &raw, chrono_tz::Europe::Oslo)
    }

    #[test]
    fn integers_keep_all_64_bits() {
        assert_eq!(parse(ColumnType::BigInt, "9007199254740993"), Ok(Value::Int(9_007_199_254_740_993)));
        assert_eq!(parse(ColumnType::BigInt, "\"-9223372036854775808\""), Ok(Value::Int(i64::MIN)));
        for (kind, json) in [
            (ColumnType::BigInt, "9223372036854775808"),
            (ColumnType::Integer, "2147483648"),
            (ColumnType::SmallInt, "32768"),
            (ColumnType::Integer, "1.5"),
            (ColumnType::Integer, "true"),
            (ColumnType::Integer, "[]"),
        ] {
            assert!(parse(kind, json).is_err(), "{json}");
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        for text in ["12345678901234567890.1234567890123456789", "-0.10", "0.1", "1e-7", "100"] {
            assert_eq!(parse(ColumnType::Numeric, text), Ok(Value::Decimal(text.into())));
            assert_eq!(parse(ColumnType::Numeric, &format!("\"{text}\"")), Ok(Value::Decimal(text.into())));
        }
        for text in ["\"NaN\"", "\"\"", "\"1.\"", "\"0x1\"", "1e999", "\"1e99999999\"", "\"1; drop\""] {
            assert!(parse(ColumnType::Numeric, text).is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_of_the_source_s_zone_become_utc() {
        let expected = time::parse_utc("2026-02-01T09:00:00.123456Z").unwrap();
        assert_eq!(parse(ColumnType::TimestampTz, "\"2026-02-01T10:00:00.1234567\""), Ok(Value::TimestampTz(expected)));
        let Ok(Value::Timestamp(local)) = parse(ColumnType::Timestamp, "\"2026-02-01T10:00:00.1234567\"") else {
            panic!("not a timestamp")
        };
        assert_eq!(local.to_string(), "2026-02-01 10:00:00.123456");
    }

    #[test]
    fn any_text_survives_but_for_nul() {
        assert_eq!(parse(ColumnType::Text, r#""æ😀\t\u0000x""#), Ok(Value::Text("æ😀\t\u{fffd}x".into())));
        assert_eq!(parse(ColumnType::Text, "12.50"), Ok(Value::Text("12.50".into())));
        assert_eq!(parse(ColumnType::Text, r#"{ "a": "\u0000" }"#), Ok(Value::Text("{\"a\":\"\u{fffd}\"}".into())));
        assert_eq!(parse(ColumnType::Text, r#""\ud83d\ude00\"""#), Ok(Value::Text("😀\"".into())));
        assert!(parse(ColumnType::Text, r#""\ud800""#).is_err(), "half a character");
    }

    #[test]
    fn null_is_null_in_every_type() {
        for kind in [ColumnType::Integer, ColumnType::Text, ColumnType::Date, ColumnType::Numeric] {
            assert_eq!(parse(kind, "null"), Ok(Value::Null));
        }
    }
}
