//! Values of an answer, turned into the types of their columns or refused.

use std::borrow::Cow;

use chrono::{NaiveDate, NaiveTime, SubsecRound};
use chrono_tz::Tz;
use serde_json::value::RawValue;

use crate::domain::{
    ColumnType, Value,
    json::{self, Json, Kind},
    time,
};

/// Digits before and after the point that a decimal may have; SQL Server's end at 38.
const DECIMAL_DIGITS_MAX: usize = 200;

/// A value does not fit its column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {value} is not a value of type {kind}")]
pub struct ValueError {
    column: String,
    value: String,
    kind: &'static str,
}

/// Reads one value, in any of the forms that the API's notes expect:
///
/// * integers and decimals as numbers of any form, or as texts; booleans as `true` or `1`, and so for integers, since a
///   boolean is an integer in the model;
/// * a time or date that is an empty text, or .NET's zero (`0001-01-01T00:00:00`), is null;
/// * what PostgreSQL cannot hold of a text is replaced.
pub(super) fn read(column: &str, kind: ColumnType, raw: &RawValue, zone: Tz) -> Result<Value, ValueError> {
    convert(kind, Json::of(raw), zone).ok_or_else(|| ValueError {
        column: column.to_owned(),
        value: raw.get().chars().take(60).collect(),
        kind: kind.sql(),
    })
}

fn convert(kind: ColumnType, json: Json<'_>, zone: Tz) -> Option<Value> {
    if json.kind() == Kind::Null {
        return Some(Value::Null);
    }
    match kind {
        ColumnType::SmallInt => integer(json, i64::from(i16::MIN), i64::from(i16::MAX)),
        ColumnType::Integer => integer(json, i64::from(i32::MIN), i64::from(i32::MAX)),
        ColumnType::BigInt => integer(json, i64::MIN, i64::MAX),
        ColumnType::Numeric => decimal(number(json)?.trim()),
        ColumnType::Boolean => boolean(json),
        ColumnType::TimestampTz => {
            time_or_null(&number(json)?, |text| time::parse_in_zone(text, zone).map(Value::TimestampTz))
        }
        ColumnType::Timestamp => time_or_null(&json.text()?, |text| time::parse_local(text).map(Value::Timestamp)),
        ColumnType::Date => match json.kind() {
            Kind::Number(number) => numbered_date(number),
            _ => time_or_null(&json.text()?, |text| date(text).map(Value::Date)),
        },
        ColumnType::Time => time_or_null(&number(json)?, |text| clock_time(text).or_else(|| numbered_time(text))),
        ColumnType::Text => Some(Value::Text(text(json))),
    }
}

/// A text, or the JSON of a scalar whose type is not known.
fn text(json: Json<'_>) -> String {
    match json.storable_text() {
        Some(text) => text.into_owned(),
        None => json.compact(),
    }
}

/// The digits of a number, or of a text that may be one.
fn number(json: Json<'_>) -> Option<Cow<'_, str>> {
    if let Kind::Number(number) = json.kind() { Some(number.into()) } else { json.text() }
}

fn integer(json: Json<'_>, min: i64, max: i64) -> Option<Value> {
    let number = match json.kind() {
        Kind::Bool(value) => i64::from(value),
        _ => json::integer(number(json)?.trim())?,
    };
    (min..=max).contains(&number).then_some(Value::Int(number))
}

fn boolean(json: Json<'_>) -> Option<Value> {
    if let Kind::Bool(value) = json.kind() {
        return Some(Value::Bool(value));
    }
    let text = number(json)?;
    match text.trim() {
        text if text.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
        text if text.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
        text => match json::integer(text)? {
            0 => Some(Value::Bool(false)),
            1 => Some(Value::Bool(true)),
            _ => None,
        },
    }
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

/// A time or date; none where the text says that there is none.
fn time_or_null(text: &str, read: impl Fn(&str) -> Option<Value>) -> Option<Value> {
    match text.trim() {
        "" => Some(Value::Null),
        text if is_zero(text) => Some(Value::Null),
        text => read(text),
    }
}

/// Whether a text is the least time of .NET, as it is written where a time was never set, whatever its offset.
fn is_zero(text: &str) -> bool {
    const ZERO: &str = "0001-01-01";
    let Some(rest) = text.strip_prefix(ZERO) else { return false };
    let clock = rest.trim_start_matches(['T', ' ']);
    let digits = clock.split(['Z', '+', '-']).next().unwrap_or_default();
    digits.bytes().all(|byte| matches!(byte, b'0' | b':' | b'.'))
}

/// `2026-02-01`, with or without a time and an offset, which a date does not have.
fn date(text: &str) -> Option<NaiveDate> {
    time::parse_local(text)?;
    text.get(..10)?.parse().ok()
}

/// `yyyymmdd`; 0 is none (API documentation, date and time).
fn numbered_date(number: &str) -> Option<Value> {
    let number = u32::try_from(json::integer(number)?).ok()?;
    if number == 0 {
        return Some(Value::Null);
    }
    let year = i32::try_from(number / 10_000).ok()?;
    NaiveDate::from_ymd_opt(year, number / 100 % 100, number % 100).map(Value::Date)
}

/// `hhmm` (API documentation, date and time). 0 is midnight; 2400 is no time of a day.
fn numbered_time(number: &str) -> Option<Value> {
    let number = u32::try_from(json::integer(number)?).ok()?;
    if number == 2_400 {
        return Some(Value::Null);
    }
    NaiveTime::from_hms_opt(number / 100, number % 100, 0).map(Value::Time)
}

/// `HH:MM`, with seconds and decimals or without.
fn clock_time(text: &str) -> Option<Value> {
    let time = ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok())?;
    Some(Value::Time(time.trunc_subsecs(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_dates_are_numbers_or_texts() {
        let time = |hour, minute, second| Ok(Value::Time(NaiveTime::from_hms_opt(hour, minute, second).unwrap()));
        for (json, value) in [
            ("0", time(0, 0, 0)),
            ("101", time(1, 1, 0)),
            ("\"2330\"", time(23, 30, 0)),
            ("\"09:30\"", time(9, 30, 0)),
            ("\"09:30:15.0000000\"", time(9, 30, 15)),
            ("2400", Ok(Value::Null)),
        ] {
            assert_eq!(parse(ColumnType::Time, json), value, "{json}");
        }
        for json in ["2360", "2401", "-1", "\"noon\"", "true", "9.5"] {
            assert!(parse(ColumnType::Time, json).is_err(), "{json}");
        }
        let date = Ok(Value::Date(NaiveDate::from_ymd_opt(2026, 2, 1).unwrap()));
        assert_eq!(parse(ColumnType::Date, "20260201"), date);
        assert_eq!(parse(ColumnType::Date, "\"2026-02-01\""), date);
        assert_eq!(parse(ColumnType::Date, "0"), Ok(Value::Null));
        assert!(parse(ColumnType::Date, "20260231").is_err());
    }

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
            (ColumnType::Integer, "[]"),
            (ColumnType::Integer, "1e100000"),
            (ColumnType::Integer, "\"\""),
            (ColumnType::Integer, r#"{"$serde_json::private::Number":"1"}"#),
        ] {
            assert!(parse(kind, json).is_err(), "{json}");
        }
    }

    #[test]
    fn integers_come_in_any_form_of_a_number() {
        for json in ["12", "12.0", "1.2e1", "\"12\"", "\" 12 \"", "\"12.00\""] {
            for kind in [ColumnType::SmallInt, ColumnType::Integer, ColumnType::BigInt] {
                assert_eq!(parse(kind, json), Ok(Value::Int(12)), "{json}");
            }
        }
        assert_eq!(parse(ColumnType::BigInt, "9007199254740993.0"), Ok(Value::Int(9_007_199_254_740_993)));
        assert_eq!(parse(ColumnType::Integer, "true"), Ok(Value::Int(1)));
    }

    #[test]
    fn booleans_come_as_numbers_and_texts_too() {
        for (json, expected) in [
            ("true", true),
            ("false", false),
            ("1", true),
            ("0", false),
            ("1.0", true),
            ("\"1\"", true),
            ("\"False\"", false),
            ("\"true\"", true),
        ] {
            assert_eq!(parse(ColumnType::Boolean, json), Ok(Value::Bool(expected)), "{json}");
        }
        for json in ["2", "-1", "\"\"", "\"yes\"", "{}"] {
            assert!(parse(ColumnType::Boolean, json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_time_that_was_never_set_is_null() {
        for kind in [ColumnType::TimestampTz, ColumnType::Timestamp, ColumnType::Date] {
            for text in [
                "",
                "  ",
                "0001-01-01",
                "0001-01-01T00:00:00",
                "0001-01-01T00:00:00Z",
                "0001-01-01T00:00:00.0000000",
                "0001-01-01 00:00:00",
                "0001-01-01T00:00:00+01:00",
            ] {
                assert_eq!(parse(kind, &format!("\"{text}\"")), Ok(Value::Null), "{kind:?} {text:?}");
            }
            for text in ["0001-01-01x", "infinity", "-infinity", "10000-01-01", "0000-00-00", "2026-02-30", "soon"] {
                assert!(parse(kind, &format!("\"{text}\"")).is_err(), "{kind:?} {text:?}");
            }
        }
        assert!(matches!(parse(ColumnType::Timestamp, "\"0001-01-01T00:00:01\""), Ok(Value::Timestamp(_))));
        assert!(parse(ColumnType::TimestampTz, "\"9999-12-31T23:59:59-05:00\"").is_err(), "past the last year");
    }

    #[test]
    fn a_date_is_the_one_that_is_written() {
        let expected = Ok(Value::Date(NaiveDate::from_ymd_opt(2026, 2, 1).unwrap()));
        for text in ["2026-02-01", "2026-02-01T00:00:00", "2026-02-01T00:00:00+01:00", "2026-02-01T23:59:59Z"] {
            assert_eq!(parse(ColumnType::Date, &format!("\"{text}\"")), expected, "{text}");
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        for text in ["12345678901234567890.1234567890123456789", "-0.10", "0.1", "1e-7", "100"] {
            assert_eq!(parse(ColumnType::Numeric, text), Ok(Value::Decimal(text.into())));
            assert_eq!(parse(ColumnType::Numeric, &format!("\"{text}\"")), Ok(Value::Decimal(text.into())));
        }
        for text in [
            "\"NaN\"",
            "\"Infinity\"",
            "\"\"",
            "\"1.\"",
            "\"0x1\"",
            "1e999",
            "1e100000",
            "1e-100000",
            "\"1e99999999\"",
            "\"1; drop\"",
            "true",
            r#"{"$serde_json::private::Number":"1"}"#,
        ] {
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
        assert_eq!(parse(ColumnType::Text, r#""half \ud800""#), Ok(Value::Text("half \u{fffd}".into())));
        let marker = r#"{"$serde_json::private::RawValue":"1"}"#;
        assert_eq!(parse(ColumnType::Text, marker), Ok(Value::Text(marker.into())));
    }

    proptest::proptest! {
        #[test]
        fn any_value_has_a_place_or_an_error(text in "[\\[\\]{}\":,0-9.eEtruefalsn\\\\ T:+-]{0,30}") {
            use ColumnType::{BigInt, Boolean, Date, Integer, Numeric, SmallInt, Text, Timestamp, TimestampTz};
            for json in [text.clone(), serde_json::to_string(&text).unwrap()] {
                let Ok(raw) = serde_json::from_str::<Box<RawValue>>(&json) else { continue };
                for kind in [SmallInt, Integer, BigInt, Numeric, Boolean, TimestampTz, Timestamp, Date] {
                    _ = read("c", kind, &raw, chrono_tz::Europe::Oslo);
                }
                proptest::prop_assert!(read("c", Text, &raw, chrono_tz::UTC).is_ok());
            }
        }
    }

    #[test]
    fn null_is_null_in_every_type() {
        for kind in [ColumnType::Integer, ColumnType::Text, ColumnType::Date, ColumnType::Numeric] {
            assert_eq!(parse(kind, "null"), Ok(Value::Null));
        }
    }
}
