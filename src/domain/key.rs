//! Primary keys: as a webhook names them and as a table defines them.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    json::{Json, Kind, REPLACEMENT},
    naming::fingerprint,
    table::{ColumnType, TableSpec},
};

/// Bytes of a canonical key; an index entry of PostgreSQL ends at some 2,700, SQL Server's own keys at 1,700.
const KEY_BYTES_MAX: usize = 2_000;
/// Bytes of a text in a key that is only named.
const ABBREVIATED_BYTES: usize = 160;

/// One value of a key. Keys of Business NXT are 64-bit integers or strings (webhook documentation).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum KeyValue {
    /// A signed 64-bit integer.
    Int(i64),
    /// A string, byte for byte as received.
    Text(String),
}

impl KeyValue {
    /// Reads a JSON string or an integer of 64 bits; `None` for everything else, fractions such as `1.0` and texts that
    /// JSON allows and Unicode does not included.
    pub fn read(json: Json<'_>) -> Option<Self> {
        match json.kind() {
            Kind::Number(number) => number.parse().ok().map(Self::Int),
            Kind::Text => Some(Self::Text(json.text()?.into_owned())),
            Kind::Null | Kind::Bool(_) | Kind::List | Kind::Object => None,
        }
    }

    /// Folds what SQL Server's usual collations hold equal: case and trailing blanks.
    ///
    /// An approximation on purpose: two values that fold alike may be one row, and only the source can tell. It is
    /// never used to decide that a row is gone.
    pub fn folded(&self) -> Self {
        match self {
            Self::Int(number) => Self::Int(*number),
            Self::Text(text) => Self::Text(text.trim_end_matches(' ').to_lowercase()),
        }
    }

    fn is_blank(&self) -> bool {
        matches!(self, Self::Text(text) if text.trim_end_matches(' ').is_empty())
    }

    /// With the characters replaced that PostgreSQL cannot hold.
    fn storable(self) -> Self {
        match self {
            Self::Text(text) if text.contains('\0') => Self::Text(text.replace('\0', &REPLACEMENT.to_string())),
            value => value,
        }
    }

    /// Whether some character may stand for another one, which PostgreSQL cannot hold.
    fn has_replacement(&self) -> bool {
        matches!(self, Self::Text(text) if text.contains(REPLACEMENT))
    }

    /// The value, or a short one that stands for it and for no other.
    fn abbreviated(&self) -> Self {
        match self {
            Self::Text(text) if text.len() > ABBREVIATED_BYTES => {
                let start: String = text.chars().take(ABBREVIATED_BYTES / 4).collect();
                Self::Text(format!("{start}… ({} bytes, {:016x})", text.len(), fingerprint(text)))
            }
            value => value.clone(),
        }
    }
}

impl fmt::Display for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No column, or nothing but blank strings where that cannot be.
    #[error("the primary key is empty")]
    Empty,
    /// A column named twice (names are compared without regard to case).
    #[error("the primary key names column {0} twice")]
    Repeated(String),
    /// A name that no column can have.
    #[error("{0:?} is not a column name")]
    BadName(String),
    /// Longer than any key of the source.
    #[error("the primary key is longer than {KEY_BYTES_MAX} bytes")]
    TooLong,
    /// The columns are not the table's key columns.
    #[error("the key columns are ({given}), but table {table} has ({expected})")]
    OtherColumns {
        /// The table.
        table: String,
        /// Columns of the key at hand.
        given: String,
        /// Columns of the table's key.
        expected: String,
    },
    /// A value that the column's type cannot hold.
    #[error("{value:?} is not a value of key column {column} ({kind})")]
    BadValue {
        /// The column.
        column: String,
        /// Its type in the mirror.
        kind: &'static str,
        /// The value.
        value: String,
    },
}

/// A key as a notification gives it: column names in lower case, in alphabetical order.
///
/// Webhooks write names in PascalCase, GraphQL in camelCase; folding the case and sorting makes one spelling of
/// one key. Which columns the table really has is for its description to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnnouncedKey(BTreeMap<String, KeyValue>);

impl AnnouncedKey {
    /// Checks and orders the columns of a key. What PostgreSQL cannot hold of its texts is replaced, as in rows.
    pub fn new(columns: impl IntoIterator<Item = (String, KeyValue)>) -> Result<Self, KeyError> {
        let mut ordered = BTreeMap::new();
        for (name, value) in columns {
            if !super::naming::is_well_formed(&name) {
                return Err(KeyError::BadName(name));
            }
            if ordered.insert(name.to_ascii_lowercase(), value.storable()).is_some() {
                return Err(KeyError::Repeated(name));
            }
        }
        if ordered.is_empty() {
            return Err(KeyError::Empty);
        }
        let key = Self(ordered);
        if key.canonical().len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong);
        }
        Ok(key)
    }

    /// One text for one key: a JSON object with sorted, lower-case names.
    pub fn canonical(&self) -> String {
        serde_json::to_string(&self.0).expect("strings and integers always serialise")
    }

    /// Reads back what [`AnnouncedKey::canonical`] wrote.
    pub fn from_canonical(text: &str) -> Option<Self> {
        let columns = Json::parse(text).ok()?.members()?;
        let columns = columns.into_iter().map(|(name, value)| Some((name.into_owned(), KeyValue::read(value)?)));
        Self::new(columns.collect::<Option<Vec<_>>>()?).ok()
    }

    /// Whether it holds nothing but blanks.
    pub fn is_blank(&self) -> bool {
        self.0.values().all(KeyValue::is_blank)
    }

    /// The column names, in lower case and sorted.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The key in the table's own columns, order and types.
    pub fn resolve(&self, table: &TableSpec) -> Result<RowKey, KeyError> {
        let columns: Vec<_> = table.key_columns().collect();
        let complete = columns.len() == self.0.len()
            && columns.iter().all(|column| self.0.contains_key(&column.name.to_ascii_lowercase()));
        if !complete {
            return Err(KeyError::OtherColumns {
                table: table.name.to_string(),
                given: self.0.keys().cloned().collect::<Vec<_>>().join(", "),
                expected: columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            });
        }
        columns
            .iter()
            .map(|column| {
                let value = &self.0[&column.name.to_ascii_lowercase()];
                coerce(value, column.kind).ok_or_else(|| KeyError::BadValue {
                    column: column.name.clone(),
                    kind: column.kind.sql(),
                    value: value.to_string(),
                })
            })
            .collect::<Result<_, _>>()
            .map(RowKey)
    }
}

/// Turns a value into the form its column has; `None` when it does not fit.
fn coerce(value: &KeyValue, kind: ColumnType) -> Option<KeyValue> {
    let range = match kind {
        ColumnType::SmallInt => i64::from(i16::MIN)..=i64::from(i16::MAX),
        ColumnType::Integer => i64::from(i32::MIN)..=i64::from(i32::MAX),
        ColumnType::BigInt => i64::MIN..=i64::MAX,
        ColumnType::Text => return Some(KeyValue::Text(value.to_string())),
        ColumnType::Numeric
        | ColumnType::Boolean
        | ColumnType::TimestampTz
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Time => return None,
    };
    let number = match value {
        KeyValue::Int(number) => *number,
        KeyValue::Text(text) => text.trim().parse().ok()?,
    };
    range.contains(&number).then_some(KeyValue::Int(number))
}

/// A key in its table's columns, in the source's order, each value of its column's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RowKey(Vec<KeyValue>);

impl RowKey {
    /// A key of values that already have their columns' order and types.
    pub fn from_values(values: Vec<KeyValue>) -> Self {
        Self(values)
    }

    /// The values, in the order of the table's key columns.
    pub fn values(&self) -> &[KeyValue] {
        &self.0
    }

    /// See [`KeyValue::folded`].
    pub fn folded(&self) -> Self {
        Self(self.0.iter().map(KeyValue::folded).collect())
    }

    /// The folded key as one text, the identity that tombstones go by.
    pub fn folded_text(&self) -> String {
        serde_json::to_string(&self.folded().0).expect("strings and integers always serialise")
    }

    /// Whether any part is a string, so that the source may hold another spelling equal.
    pub fn has_text(&self) -> bool {
        self.0.iter().any(|value| matches!(value, KeyValue::Text(_)))
    }

    /// The key as a notification about this row would have given it.
    pub fn announced(&self, table: &TableSpec) -> Result<AnnouncedKey, KeyError> {
        AnnouncedKey::new(table.key_columns().map(|column| column.name.clone()).zip(self.0.iter().cloned()))
    }

    /// A key that names this one to people, however long it is.
    pub fn abbreviated(&self, table: &TableSpec) -> Result<AnnouncedKey, KeyError> {
        Self(self.0.iter().map(KeyValue::abbreviated).collect()).announced(table)
    }

    /// That the key is longer than any that can be worked with, if it is.
    pub fn too_long(&self, table: &TableSpec) -> Option<KeyError> {
        let bytes = |(column, value): (&super::Column, &KeyValue)| match value {
            // A character takes six bytes at most.
            KeyValue::Text(text) => column.name.len() + 6 * text.len() + 8,
            KeyValue::Int(_) => column.name.len() + 24,
        };
        let bytes: usize = table.key_columns().zip(&self.0).map(bytes).sum();
        if bytes < KEY_BYTES_MAX { None } else { self.announced(table).err() }
    }

    /// Whether some character may stand for another one, which PostgreSQL cannot hold and the source can.
    pub fn has_replacement(&self) -> bool {
        self.0.iter().any(KeyValue::has_replacement)
    }
}

impl RowKey {
    /// The key as people read it: a JSON object with the mirrored columns' names, in the order of the key.
    pub fn shown(&self, table: &TableSpec) -> String {
        let member = |(column, value): (&super::Column, &KeyValue)| {
            let value = serde_json::to_string(value).expect("strings and integers always serialise");
            format!("\"{}\": {value}", column.sql_name)
        };
        format!("{{{}}}", table.key_columns().zip(&self.0).map(member).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, value) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            write!(f, "{separator}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Column;

    fn int(number: i64) -> KeyValue {
        KeyValue::Int(number)
    }

    #[test]
    fn case_and_order_of_column_names_do_not_matter() {
        let one = AnnouncedKey::new([("OrderNo".into(), int(3)), ("LineNo".into(), int(1))]).unwrap();
        let other = AnnouncedKey::new([("lineNo".into(), int(1)), ("orderno".into(), int(3))]).unwrap();
        assert_eq!(one, other);
        assert_eq!(one.canonical(), r#"{"lineno":1,"orderno":3}"#);
        assert_eq!(AnnouncedKey::from_canonical(&one.canonical()), Some(one));
    }

    #[test]
    fn a_key_of_64_bits_survives_the_canonical_text() {
        let key = AnnouncedKey::new([("No".into(), int(i64::MIN))]).unwrap();
        assert_eq!(AnnouncedKey::from_canonical(&key.canonical()), Some(key));
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        assert_eq!(AnnouncedKey::new([]), Err(KeyError::Empty));
        assert!(matches!(AnnouncedKey::new([("a\"b".into(), int(1))]), Err(KeyError::BadName(_))));
        assert!(matches!(
            AnnouncedKey::new([("No".into(), int(1)), ("no".into(), int(2))]),
            Err(KeyError::Repeated(_))
        ));
        assert_eq!(AnnouncedKey::new([("No".into(), KeyValue::Text("x".repeat(3_000)))]), Err(KeyError::TooLong));
    }

    #[test]
    fn a_key_of_blanks_is_a_key() {
        for text in ["", "  "] {
            let key = AnnouncedKey::new([("A".into(), KeyValue::Text(text.into()))]).unwrap();
            assert!(key.is_blank());
            assert_eq!(AnnouncedKey::from_canonical(&key.canonical()), Some(key));
        }
        let key = AnnouncedKey::new([("A".into(), KeyValue::Text(String::new())), ("B".into(), int(1))]);
        assert!(key.is_ok_and(|key| !key.is_blank()));
    }

    #[test]
    fn what_postgresql_cannot_hold_is_replaced() {
        let key = |text: &str| AnnouncedKey::new([("No".into(), KeyValue::Text(text.into()))]).unwrap();
        assert_eq!(key("a\0"), key("a\u{fffd}"));
    }

    #[test]
    fn a_key_that_is_too_long_has_a_short_name_of_its_own() {
        let column = |name: &str| Column::new(name, ColumnType::Text);
        let table =
            TableSpec { columns: vec![column("a"), column("b")], key: vec![0, 1], ..TableSpec::plain("T", &[]) };
        let key = |text: String| RowKey::from_values(vec![KeyValue::Text(text), KeyValue::Text("æ".into())]);
        assert_eq!(key("x".repeat(1_900)).too_long(&table), None);
        let (one, other) = (key("æ".repeat(3_000)), key("æ".repeat(3_001)));
        assert_eq!(one.too_long(&table), Some(KeyError::TooLong));
        assert!(one.abbreviated(&table).unwrap().canonical().len() < 250);
        assert_ne!(one.abbreviated(&table), other.abbreviated(&table));
        assert_eq!(key("x".into()).abbreviated(&table), key("x".into()).announced(&table));
        assert_eq!(key("\u{1}".repeat(400)).too_long(&table), Some(KeyError::TooLong));
    }

    #[test]
    fn folding_ignores_case_and_trailing_blanks_alone() {
        let fold = |text: &str| RowKey::from_values(vec![KeyValue::Text(text.into())]).folded_text();
        assert_eq!(fold("ÆRØ 1  "), fold("ærø 1"));
        assert_ne!(fold(" a"), fold("a"));
    }
}
