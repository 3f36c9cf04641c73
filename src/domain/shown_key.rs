//! Keys as people read them.

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

/// A key by the mirrored columns' names, in the order of the key: `{"order_no": 3, "line_no": 1}`. What `jsonb` holds
/// has lost that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownKey(Vec<(String, String)>);

impl ShownKey {
    /// Puts the members of a stored key in order. Those that `names` does not have come last. `None` if the text is no
    /// JSON object.
    pub fn ordered(stored: &str, names: &[String]) -> Option<Self> {
        let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(stored).ok()?;
        let named: Vec<_> = names.iter().filter_map(|name| members.remove_entry(name)).collect();
        let text = |(name, value): (String, Box<RawValue>)| (name, value.get().to_owned());
        Some(Self(named.into_iter().chain(members).map(text).collect()))
    }

    /// Names and values; texts stand without their quotes.
    pub fn parts(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().map(|(name, value)| {
            (name.as_str(), serde_json::from_str::<String>(value).unwrap_or_else(|_| value.clone()))
        })
    }

    /// Whether one of its values reads so.
    pub fn has_value(&self, text: &str) -> bool {
        self.parts().any(|(_, value)| value == text)
    }

    /// Its values, separated by slashes.
    pub fn values(&self) -> String {
        self.parts().map(|(_, value)| value).collect::<Vec<_>>().join(" / ")
    }
}

impl Serialize for ShownKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            let value = RawValue::from_string(value.clone()).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

impl fmt::Display for ShownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<_> = self.0.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
        write!(f, "{{{}}}", members.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_in_the_order_of_its_table_and_not_of_the_alphabet() {
        let names = ["order_no", "line_no"].map(str::to_owned);
        let key = ShownKey::ordered(r#"{"line_no": 1, "order_no": 3, "z": "a b"}"#, &names).unwrap();
        assert_eq!(key.to_string(), r#"{"order_no": 3, "line_no": 1, "z": "a b"}"#);
        assert_eq!(serde_json::to_string(&key).unwrap(), r#"{"order_no":3,"line_no":1,"z":"a b"}"#);
        assert!(key.has_value("a b") && key.has_value("3") && !key.has_value("4"));
        assert_eq!(key.values(), "3 / 1 / a b");
        assert_eq!(ShownKey::ordered("[1]", &[]), None);
    }
}
