//! Filters and orders of a connection, from GraphQL arguments to rows.

use std::cmp::Ordering;

use async_graphql::Value as Argument;

use super::{
    model::TableDef,
    store::{Key, Row},
    value::{Ordered, Value},
};

/// A filter, its columns resolved.
#[derive(Debug)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Compare { column: usize, operator: Operator, value: Value },
    In { column: usize, values: Vec<Value>, wanted: bool },
    IsNull { column: usize, wanted: bool },
    Like { column: usize, pattern: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Eq,
    NotEq,
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Filter {
    /// Reads `FilterExpression_<Table>`.
    pub(super) fn read(table: &TableDef, argument: &Argument) -> Result<Self, String> {
        let Argument::Object(fields) = argument else { return Ok(Self::All(vec![])) };
        let mut terms = Vec::new();
        for (name, value) in fields {
            match name.as_str() {
                "_and" => terms.push(Self::All(Self::read_list(table, value)?)),
                "_or" => terms.push(Self::Any(Self::read_list(table, value)?)),
                "changedDateTimeUtc" => terms.extend(Self::read_column(table, "changedTimestamp", value)?),
                column => terms.extend(Self::read_column(table, column, value)?),
            }
        }
        Ok(Self::All(terms))
    }

    fn read_list(table: &TableDef, value: &Argument) -> Result<Vec<Self>, String> {
        match value {
            Argument::List(items) => items.iter().map(|item| Self::read(table, item)).collect(),
            other => Ok(vec![Self::read(table, other)?]),
        }
    }

    fn read_column(table: &TableDef, name: &str, operators: &Argument) -> Result<Vec<Self>, String> {
        let column = table.column(name).ok_or_else(|| format!("no column {name}"))?;
        let Argument::Object(operators) = operators else { return Ok(vec![]) };
        operators.iter().map(|(operator, value)| Self::read_operator(table, column, operator, value)).collect()
    }

    fn read_operator(table: &TableDef, column: usize, operator: &str, value: &Argument) -> Result<Self, String> {
        let scalar = &table.columns[column].scalar;
        let read = |value: &Argument| {
            let json = value.clone().into_json().map_err(|error| error.to_string())?;
            Value::read(scalar, &json)
        };
        let compare = |operator| Ok(Self::Compare { column, operator, value: read(value)? });
        match operator {
            "_eq" => compare(Operator::Eq),
            "_not_eq" => compare(Operator::NotEq),
            "_gt" => compare(Operator::Gt),
            "_gte" => compare(Operator::Gte),
            "_lt" => compare(Operator::Lt),
            "_lte" => compare(Operator::Lte),
            "_in" | "_not_in" => {
                let Argument::List(items) = value else { return Err(format!("{operator} takes a list")) };
                let values = items.iter().map(read).collect::<Result<_, _>>()?;
                Ok(Self::In { column, values, wanted: operator == "_in" })
            }
            "_is_null" => Ok(Self::IsNull { column, wanted: *value == Argument::Boolean(true) }),
            "_is_not_null" => Ok(Self::IsNull { column, wanted: *value != Argument::Boolean(true) }),
            "_like" => match value {
                Argument::String(pattern) => Ok(Self::Like { column, pattern: super::value::fold(pattern) }),
                _ => Err("_like takes a string".into()),
            },
            other => Err(format!("no operator {other}")),
        }
    }

    /// SQL's answer: a comparison with null is never true.
    pub(super) fn matches(&self, row: &[Value]) -> bool {
        match self {
            Self::All(terms) => terms.iter().all(|term| term.matches(row)),
            Self::Any(terms) => terms.iter().any(|term| term.matches(row)),
            Self::Compare { column, operator, value } => {
                let own = &row[*column];
                own != &Value::Null && own.compare(value).is_some_and(|order| operator.holds(order))
            }
            Self::In { column, values, wanted } => {
                let own = &row[*column];
                let found = values.iter().any(|value| own.compare(value) == Some(Ordering::Equal));
                own != &Value::Null && found == *wanted
            }
            Self::IsNull { column, wanted } => (row[*column] == Value::Null) == *wanted,
            Self::Like { column, pattern } => match &row[*column] {
                Value::Text(text) => like(&super::value::fold(text), pattern),
                _ => false,
            },
        }
    }

    /// All keys that can match, if the filter names whole keys; so that a lookup needs no scan.
    pub(super) fn keys(&self, table: &TableDef) -> Option<Vec<Key>> {
        match self {
            Self::Any(terms) => {
                terms.iter().map(|term| term.keys(table)).collect::<Option<Vec<_>>>().map(|keys| keys.concat())
            }
            Self::All(terms) => {
                if let Some(keys) = terms.iter().find_map(|term| match term {
                    Self::Any(_) | Self::All(_) => term.keys(table),
                    _ => None,
                }) {
                    return Some(keys);
                }
                let mut keys: Vec<Key> = vec![vec![]];
                for &index in &table.key {
                    let values = terms.iter().find_map(|term| term.values_of(index))?;
                    keys = keys
                        .iter()
                        .flat_map(|key| values.iter().map(|value| [key.clone(), vec![value.clone()]].concat()))
                        .collect();
                }
                Some(keys)
            }
            Self::Compare { .. } | Self::In { .. } => {
                let &[index] = table.key.as_slice() else { return None };
                Some(self.values_of(index)?.into_iter().map(|value| vec![value]).collect())
            }
            Self::IsNull { .. } | Self::Like { .. } => None,
        }
    }

    fn values_of(&self, index: usize) -> Option<Vec<Ordered>> {
        match self {
            Self::Compare { column, operator: Operator::Eq, value } if *column == index => Some(vec![value.ordered()]),
            Self::In { column, values, wanted: true } if *column == index => {
                Some(values.iter().map(Value::ordered).collect())
            }
            _ => None,
        }
    }

    /// A key before which nothing can match, so that a keyset page starts where it should.
    pub(super) fn lower_bound(&self, table: &TableDef) -> Option<Ordered> {
        match self {
            Self::All(terms) => terms.iter().filter_map(|term| term.lower_bound(table)).max(),
            Self::Any(terms) => {
                terms.iter().map(|term| term.lower_bound(table)).collect::<Option<Vec<_>>>()?.into_iter().min()
            }
            Self::Compare { column, operator: Operator::Eq | Operator::Gt | Operator::Gte, value }
                if *column == table.key[0] =>
            {
                Some(value.ordered())
            }
            _ => None,
        }
    }
}

impl Operator {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order == Ordering::Equal,
            Self::NotEq => order != Ordering::Equal,
            Self::Gt => order == Ordering::Greater,
            Self::Gte => order != Ordering::Less,
            Self::Lt => order == Ordering::Less,
            Self::Lte => order != Ordering::Greater,
        }
    }
}

/// SQL's LIKE with `%` and `_`.
fn like(text: &str, pattern: &str) -> bool {
    fn walk(text: &[char], pattern: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|start| walk(&text[start..], rest)),
            Some(('_', rest)) => !text.is_empty() && walk(&text[1..], rest),
            Some((wanted, rest)) => text.first() == Some(wanted) && walk(&text[1..], rest),
        }
    }
    walk(&text.chars().collect::<Vec<_>>(), &pattern.chars().collect::<Vec<_>>())
}

/// Columns to sort by, descending where true. Empty when the key order serves.
pub(super) fn order(table: &TableDef, argument: Option<&Argument>) -> Vec<(usize, bool)> {
    let terms = match argument {
        Some(Argument::List(items)) => items.clone(),
        Some(one @ Argument::Object(_)) => vec![one.clone()],
        _ => vec![],
    };
    let mut order = Vec::new();
    for term in &terms {
        let Argument::Object(fields) = term else { continue };
        for (name, direction) in fields {
            let descending = matches!(direction, Argument::Enum(name) if name == "DESC")
                || matches!(direction, Argument::String(name) if name == "DESC");
            order.extend(table.column(name).map(|column| (column, descending)));
        }
    }
    let by_key = order.iter().zip(&table.key).all(|((column, descending), key)| column == key && !descending);
    if by_key && order.len() <= table.key.len() { vec![] } else { order }
}

/// Sorts rows; equal ones stay in key order.
pub(super) fn sort(rows: &mut [Row], order: &[(usize, bool)]) {
    rows.sort_by(|one, two| {
        order
            .iter()
            .map(|&(column, descending)| {
                let order = one[column].compare(&two[column]).unwrap_or(Ordering::Equal);
                if descending { order.reverse() } else { order }
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
}
