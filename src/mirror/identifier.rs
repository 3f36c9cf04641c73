//! The only way a name enters SQL.

use std::fmt;

/// The schema of mirrored tables.
pub(super) const SCHEMA: Identifier<'static> = Identifier("business_nxt");

/// The schema of the versions of their rows.
pub(super) const HISTORY_SCHEMA: Identifier<'static> = Identifier("business_nxt_history");
/// The schema of readable views.
pub(super) const READABLE: Identifier<'static> = Identifier("business_nxt_readable");
/// The schema of what the model tells.
pub(super) const MODEL: Identifier<'static> = Identifier("business_nxt_model");

/// A name that prints quoted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identifier<'a>(pub(super) &'a str);

impl fmt::Display for Identifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.0.contains('\0'), "a NUL character in an identifier");
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

/// Names separated by commas, each after a prefix such as `m.`.
pub(super) fn list<'a>(prefix: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for name in names {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(prefix);
        text.push_str(&Identifier(name).to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_cannot_be_escaped_from() {
        assert_eq!(Identifier(r#"a"; drop table x; --"#).to_string(), r#""a""; drop table x; --""#);
        assert_eq!(list("m.", ["order", "a"]), r#"m."order", m."a""#);
    }
}
