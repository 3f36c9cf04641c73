//! Filters that select rows by key.
//!
//! One key column: `{orderNo: {_in: [1, 2]}}`. Several: an `_or` over the values of all columns but the last, each
//! with an `_in` over the last, so that 500 lines of 20 orders make 20 terms (filter documentation: `_and` and `_or`
//! nest; `_in` since 2023-06-01).
//!
//! A text that may stand for another one, which PostgreSQL cannot hold, is looked for by a pattern (`_like`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::domain::{KeyValue, RowKey, TableSpec, json::REPLACEMENT};

/// The filter for these keys. One that [has a replacement](RowKey::has_replacement) is to be asked for alone: more rows
/// than its own may be found.
pub(super) fn by_keys(table: &TableSpec, keys: &[RowKey]) -> Value {
    let columns: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    let (last, leading) = columns.split_last().expect("a table's key has columns");
    let mut groups: BTreeMap<&[KeyValue], Vec<&KeyValue>> = BTreeMap::new();
    for key in keys {
        let (last, leading) = key.values().split_last().expect("a key has values");
        groups.entry(leading).or_default().push(last);
    }
    let mut terms: Vec<Value> = groups.into_iter().map(|(values, lasts)| term(leading, values, last, &lasts)).collect();
    match terms.len() {
        1 => terms.remove(0),
        _ => json!({ "_or": terms }),
    }
}

fn term(leading: &[&str], values: &[KeyValue], last: &str, lasts: &[&KeyValue]) -> Value {
    let mut conditions: Vec<Value> = leading.iter().zip(values).map(|(column, value)| is(column, value)).collect();
    let condition = match lasts {
        [one] => is(last, one),
        many => json!({ last: { "_in": many } }),
    };
    if conditions.is_empty() {
        return condition;
    }
    conditions.push(condition);
    json!({ "_and": conditions })
}

fn is(column: &str, value: &KeyValue) -> Value {
    match value {
        KeyValue::Text(text) if text.contains(REPLACEMENT) => json!({ column: { "_like": pattern(text) } }),
        value => json!({ column: { "_eq": value } }),
    }
}

/// A pattern that finds the texts that are stored as this one, and others. How a character that has a meaning in patterns is
/// written as itself is not documented, so that it may be any, too.
fn pattern(text: &str) -> String {
    let part = |character| if matches!(character, REPLACEMENT | '%' | '_' | '[') { '_' } else { character };
    text.chars().map(part).collect()
}

/// The filter for the rows behind a key, in the source's own order.
pub(super) fn after(table: &TableSpec, key: &RowKey) -> Value {
    bounded(table, key, ["_gt", "_gt"], "_gte")
}

/// The filter for the rows up to a key and with it, in the source's own order.
pub(super) fn through(table: &TableSpec, key: &RowKey) -> Value {
    bounded(table, key, ["_lt", "_lte"], "_lte")
}

/// Rows on one side of a key: `operators` compare a column that is not the key's last and the last one. The bound on
/// the first column alone is implied by the rest; it is there so that the source need not look beyond it.
fn bounded(table: &TableSpec, key: &RowKey, operators: [&str; 2], first: &str) -> Value {
    let columns: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    let mut terms = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let mut conditions: Vec<Value> = columns[..index]
            .iter()
            .zip(key.values())
            .map(|(column, value)| json!({ *column: { "_eq": value } }))
            .collect();
        let operator = operators[usize::from(index + 1 == columns.len())];
        conditions.push(json!({ *column: { operator: key.values()[index] } }));
        terms.push(if index == 0 { conditions.remove(0) } else { json!({ "_and": conditions }) });
    }
    match terms.len() {
        1 => terms.remove(0),
        _ => json!({ "_and": [{ columns[0]: { first: key.values()[0] } }, { "_or": terms }] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(columns: &[&str]) -> TableSpec {
        TableSpec { key: (0..columns.len()).collect(), ..TableSpec::plain("T", columns) }
    }

    fn key(values: &[i64]) -> RowKey {
        RowKey::from_values(values.iter().copied().map(KeyValue::Int).collect())
    }

    #[test]
    fn single_keys_are_a_list() {
        let table = table(&["a"]);
        assert_eq!(by_keys(&table, &[key(&[1])]), json!({"a": {"_eq": 1}}));
        assert_eq!(by_keys(&table, &[key(&[1]), key(&[2])]), json!({"a": {"_in": [1, 2]}}));
    }

    #[test]
    fn a_text_that_may_stand_for_another_is_a_pattern() {
        let key = RowKey::from_values(vec![KeyValue::Text("a\u{fffd}_%[b]".into())]);
        assert_eq!(by_keys(&table(&["a"]), &[key]), json!({"a": {"_like": "a____b]"}}));
    }

    #[test]
    fn a_page_starts_behind_the_last_key_of_any_number_of_columns() {
        assert_eq!(after(&table(&["a"]), &key(&[5])), json!({"a": {"_gt": 5}}));
        assert_eq!(
            after(&table(&["a", "b", "c"]), &key(&[1, 2, 3])),
            json!({"_and": [{"a": {"_gte": 1}}, {"_or": [
                {"a": {"_gt": 1}},
                {"_and": [{"a": {"_eq": 1}}, {"b": {"_gt": 2}}]},
                {"_and": [{"a": {"_eq": 1}}, {"b": {"_eq": 2}}, {"c": {"_gt": 3}}]},
            ]}]})
        );
    }

    #[test]
    fn a_range_ends_with_its_last_key() {
        assert_eq!(through(&table(&["a"]), &key(&[5])), json!({"a": {"_lte": 5}}));
        assert_eq!(
            through(&table(&["a", "b"]), &key(&[1, 2])),
            json!({"_and": [{"a": {"_lte": 1}}, {"_or": [
                {"a": {"_lt": 1}},
                {"_and": [{"a": {"_eq": 1}}, {"b": {"_lte": 2}}]},
            ]}]})
        );
    }

    #[test]
    fn composite_keys_share_their_leading_columns() {
        let table = table(&["a", "b"]);
        assert_eq!(by_keys(&table, &[key(&[1, 2])]), json!({"_and": [{"a": {"_eq": 1}}, {"b": {"_eq": 2}}]}));
        assert_eq!(
            by_keys(&table, &[key(&[1, 2]), key(&[3, 4]), key(&[1, 5])]),
            json!({"_or": [
                {"_and": [{"a": {"_eq": 1}}, {"b": {"_in": [2, 5]}}]},
                {"_and": [{"a": {"_eq": 3}}, {"b": {"_eq": 4}}]},
            ]})
        );
    }
}
