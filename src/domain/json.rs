//! JSON from outside, read as far as it is needed and no further.
//!
//! A tree of `serde_json::Value` would be simpler, but it takes an object for a number, or for JSON of its own, if a
//! member is named like one of the library's markers. Here an object is never anything but its members.

use std::{
    borrow::{Borrow, Cow},
    fmt,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Some senders put it before UTF-8, where it says nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Stands for what PostgreSQL's text cannot hold: the NUL character, and half of a character.
pub const REPLACEMENT: char = '\u{fffd}';

/// Bytes without the mark that may stand before them.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// A value that is well formed JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

/// What a value is, as its first character tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(&'a str),
    /// A text.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

impl<'a> Json<'a> {
    /// Checks that a text is JSON.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<&RawValue>(text).map(Self::of)
    }

    /// What is known to be JSON.
    pub fn of(raw: &'a RawValue) -> Self {
        Self(raw.get())
    }

    /// The value as it is written.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// What it is.
    pub fn kind(self) -> Kind<'a> {
        match self.0.as_bytes().first() {
            Some(b'n') | None => Kind::Null,
            Some(b't') => Kind::Bool(true),
            Some(b'f') => Kind::Bool(false),
            Some(b'"') => Kind::Text,
            Some(b'[') => Kind::List,
            Some(b'{') => Kind::Object,
            Some(_) => Kind::Number(self.0),
        }
    }

    /// Its text; `None` for anything else, and for a text that JSON allows and Unicode does not.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self.0.strip_prefix('"')?.strip_suffix('"')? {
            plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
            _ => serde_json::from_str(self.0).ok().map(Cow::Owned),
        }
    }

    /// As [`Json::text`], with what PostgreSQL cannot hold replaced.
    pub fn storable_text(self) -> Option<Cow<'a, str>> {
        match storable(self.0) {
            Cow::Borrowed(_) => self.text(),
            Cow::Owned(text) => serde_json::from_str(&text).ok().map(Cow::Owned),
        }
    }

    /// Its integer, however it is written.
    pub fn integer(self) -> Option<i64> {
        if let Kind::Number(number) = self.kind() { integer(number) } else { None }
    }

    /// The values of a list.
    pub fn items(self) -> Option<Vec<Json<'a>>> {
        let items: Vec<&RawValue> = serde_json::from_str(self.0).ok()?;
        Some(items.into_iter().map(Json::of).collect())
    }

    /// The members of an object, in their order.
    pub fn members(self) -> Option<Members<'a>> {
        serde_json::from_str(self.0).ok()
    }

    /// Its text in one form: without blanks between values, and storable.
    pub fn compact(self) -> String {
        compact(&storable(self.0))
    }
}

/// The members of an object.
#[derive(Debug, Clone, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Members<'a> {
    /// The member of this name; the last one, should it come twice.
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        self.0.iter().rev().find(|(own, _)| own == name).map(|(_, value)| *value)
    }
}

impl<'a> IntoIterator for Members<'a> {
    type Item = (Cow<'a, str>, Json<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfMembers)
    }
}

struct OfMembers;

impl<'de> Visitor<'de> for OfMembers {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            members.push((name, Json::of(value)));
        }
        Ok(Members(members))
    }
}

/// A member's name, copied only where it is written with escapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name<'a>(Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(OfName)
    }
}

struct OfName;

impl<'de> Visitor<'de> for OfName {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

/// The integer that a number is, however it is written: `12`, `12.0`, `1.2e1`. `None` for one with a fraction, for one
/// past 64 bits, and for what is no number.
pub fn integer(number: &str) -> Option<i64> {
    if let Ok(integer) = number.parse() {
        return Some(integer);
    }
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (number, 0),
    };
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(zeros)?;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    // 19 digits are the most that 64 bits have.
    let zeros = usize::try_from(exponent).ok().filter(|zeros| *zeros < 19)?;
    format!("{sign}{significant}{}", "0".repeat(zeros)).parse().ok()
}

/// JSON with a [`REPLACEMENT`] for every escape of something that PostgreSQL's text cannot hold: a NUL character, or
/// half of a character.
pub fn storable(json: &str) -> Cow<'_, str> {
    let mut result = String::new();
    let (mut taken, mut at) = (0, 0);
    while let Some(found) = json.get(at..).and_then(|rest| rest.find('\\')) {
        let start = at + found;
        let unit = code_unit(json, start);
        let is_whole = unit.is_some_and(|unit| is_high(unit) && code_unit(json, start + 6).is_some_and(is_low));
        at = start
            + if is_whole {
                12
            } else if unit.is_some() {
                6
            } else {
                2
            };
        if !is_whole && unit.is_some_and(|unit| unit == 0 || is_high(unit) || is_low(unit)) {
            result.push_str(&json[taken..start]);
            result.push(REPLACEMENT);
            taken = at;
        }
    }
    if taken == 0 {
        return Cow::Borrowed(json);
    }
    result.push_str(&json[taken..]);
    Cow::Owned(result)
}

/// The code unit of the escape that stands here, if it is one of four digits.
fn code_unit(json: &str, at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
    u16::from_str_radix(digits, 16).ok()
}

fn is_high(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_low(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

/// JSON without blanks between its values.
fn compact(json: &str) -> String {
    let (mut in_text, mut is_escaped) = (false, false);
    let is_kept = |character: &char| {
        let is_blank = matches!(character, ' ' | '\t' | '\r' | '\n');
        if in_text {
            in_text = is_escaped || *character != '"';
            is_escaped = !is_escaped && *character == '\\';
            return true;
        }
        in_text = *character == '"';
        !is_blank
    };
    json.chars().filter(is_kept).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn json(text: &str) -> Json<'_> {
        Json::parse(text).unwrap()
    }

    /// A member that is named like a marker of the library.
    const MARKERS: [&str; 2] =
        [r#"{"$serde_json::private::Number":"12"}"#, r#"{"$serde_json::private::RawValue":"12"}"#];

    #[test]
    fn a_member_named_like_the_library_s_own_marker_makes_no_number() {
        for text in MARKERS {
            assert_eq!(json(text).kind(), Kind::Object);
            assert_eq!(json(text).integer(), None);
            assert_eq!(json(text).compact(), text);
            let (name, value) = json(text).members().unwrap().into_iter().next().unwrap();
            assert!(name.starts_with("$serde_json"), "{name}");
            assert_eq!(value.text().as_deref(), Some("12"));
        }
    }

    #[test]
    fn members_keep_their_order_and_the_last_of_a_name_counts() {
        let members = json(r#" {"b": 1, "\u0061": [2, {}], "b": "x"} "#).members().unwrap();
        assert_eq!(members.get("b").and_then(Json::text).as_deref(), Some("x"));
        assert_eq!(members.get("a").and_then(Json::items).map(|items| items.len()), Some(2));
        assert_eq!(members.get("c"), None);
        assert!(json("[]").members().is_none() && json("{}").items().is_none());
    }

    #[test]
    fn integers_come_in_any_form() {
        for (text, expected) in [
            ("12", 12),
            ("-0", 0),
            ("12.0", 12),
            ("1.20e1", 12),
            ("1200E-2", 12),
            ("1e3", 1_000),
            ("+7", 7),
            ("0e99999999999", 0),
            ("0.000", 0),
            ("9223372036854775807.0", i64::MAX),
            ("-9.223372036854775808e18", i64::MIN),
            ("9007199254740993.00", 9_007_199_254_740_993),
        ] {
            assert_eq!(integer(text), Some(expected), "{text}");
        }
        for text in [
            "1.5",
            "1e-1",
            "9223372036854775808",
            "1e19",
            "1e100000",
            "1e99999999999999999999",
            "",
            "-",
            "1.",
            ".5",
            "1e",
            "0x1",
            "1 2",
            "NaN",
            "--1",
            "1e1e1",
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn what_postgresql_cannot_hold_is_replaced_and_nothing_else() {
        for (given, expected) in [
            (r#""a\u0000b""#, "a\u{fffd}b"),
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\udc00\ud800x\ud83d\ude00""#, "\u{fffd}\u{fffd}x😀"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\\u0000 \\\u0000 \\\\ud800""#, "\\u0000 \\\u{fffd} \\\\ud800"),
            (r#""\uD83D\uDE00\"\\""#, "😀\"\\"),
        ] {
            assert_eq!(json(given).storable_text().as_deref(), Some(expected), "{given}");
        }
        assert_eq!(json(r#""\ud800""#).text(), None);
        assert_eq!(
            json(r#"{ "a" : "\u0000 \\\" x" , "b":[ 1 ] }"#).compact(),
            "{\"a\":\"\u{fffd} \\\\\\\" x\",\"b\":[1]}"
        );
    }

    #[test]
    fn only_one_mark_before_the_bytes_says_nothing() {
        assert_eq!(without_mark(b"\xef\xbb\xbf{}"), b"{}");
        assert_eq!(without_mark(b"{}\xef\xbb\xbf"), b"{}\xef\xbb\xbf");
        assert_eq!(without_mark(b"\xef\xbb"), b"\xef\xbb");
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_is_but_for_nul(text in any::<String>()) {
            let written = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(json(&written).text().unwrap(), text.as_str());
            let replaced = text.replace('\0', "\u{fffd}");
            prop_assert_eq!(json(&written).storable_text().unwrap(), replaced.as_str());
        }

        #[test]
        fn any_code_units_become_a_storable_text(units in proptest::collection::vec(any::<u16>(), 0..12)) {
            let escapes: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let expected = String::from_utf16_lossy(&units).replace('\0', "\u{fffd}");
            let written = format!("\"{escapes}\"");
            prop_assert_eq!(json(&written).storable_text().unwrap(), expected.as_str());
        }

        #[test]
        fn any_integer_is_the_same_in_every_form(number in any::<i64>(), zeros in 0_usize..5) {
            let zeros_behind = "0".repeat(zeros);
            prop_assert_eq!(integer(&format!("{number}.0{zeros_behind}")), Some(number));
            prop_assert_eq!(integer(&format!("{number}{zeros_behind}e-{zeros}")), Some(number));
        }

        #[test]
        fn compact_json_means_the_same(texts in proptest::collection::vec("[a-z \\\\\"]{0,6}", 0..5)) {
            let value = Value::from(texts);
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(json(&pretty).compact(), value.to_string());
        }

        #[test]
        fn any_text_is_json_or_refused(text in "[ \\[\\]{}\":,\\\\u0d8-9a-f.eE+-]{0,40}") {
            if let Ok(json) = Json::parse(&text) {
                _ = (json.kind(), json.text(), json.storable_text(), json.items(), json.members(), json.integer());
                Json::parse(&json.compact()).unwrap();
            }
        }
    }
}
