//! What statements on mirrored rows are made of: names, conditions, and the rows that come with them.
//!
//! The mirrored table is `m`, the tenant `$1`. What comes with the statement is `i`: one array for each column, and the
//! `position` of each row, counted from 1.

use super::identifier::{Identifier, SCHEMA, list};
use crate::domain::{Column, ColumnType, TableSpec};

/// Bookkeeping columns that come with a row, and their types.
pub(super) const BOOKKEEPING: [(&str, &str); 3] =
    [("_changed_at", "timestamptz"), ("_fetched_at", "timestamptz"), ("_notification_id", "bigint")];

/// The mirrored table with its schema.
pub(super) fn table(spec: &TableSpec) -> String {
    format!("{SCHEMA}.{}", Identifier(&spec.sql_name))
}

/// Tenant and key columns, in the order of the primary key.
pub(super) fn primary_key(spec: &TableSpec) -> Vec<&str> {
    std::iter::once(spec.level.tenant_column())
        .chain(spec.key_columns().map(|column| column.sql_name.as_str()))
        .collect()
}

/// Whether another spelling of a key may name the same row.
pub(super) fn has_text_key(spec: &TableSpec) -> bool {
    spec.key_columns().any(|column| column.kind == ColumnType::Text)
}

/// The folding of [`KeyValue::folded`](crate::domain::KeyValue::folded) in SQL, near enough to find candidates.
pub(super) fn folded(column: &Column, expression: &str) -> String {
    match column.kind {
        ColumnType::Text => format!("lower(rtrim({expression}))"),
        _ => expression.to_owned(),
    }
}

/// What comes with a statement: arrays, in the order of its parameters.
pub(super) struct Input {
    /// Parameters so far.
    count: usize,
    arrays: Vec<String>,
    names: Vec<String>,
}

impl Input {
    /// Arrays behind so many other parameters.
    pub(super) fn after(count: usize) -> Self {
        Self { count, arrays: vec![], names: vec![] }
    }

    /// One more array. Returns what a row of it is called.
    pub(super) fn add(&mut self, name: &str, kind: &str) -> String {
        self.count += 1;
        self.arrays.push(format!("${}::{kind}[]", self.count));
        self.names.push(name.to_owned());
        format!("i.{name}")
    }

    /// All columns of the table.
    pub(super) fn rows(&mut self, spec: &TableSpec) -> String {
        for (index, column) in spec.columns.iter().enumerate() {
            let kind = if column.kind == ColumnType::Numeric { "text" } else { column.kind.sql() };
            self.add(&column_name(index), kind);
        }
        self.unnested()
    }

    /// The columns of the key.
    pub(super) fn keys(&mut self, spec: &TableSpec) -> String {
        for (index, column) in key_columns(spec) {
            self.add(&column_name(index), key_type(column));
        }
        self.unnested()
    }

    fn unnested(&self) -> String {
        format!("unnest({}) with ordinality as i ({}, position)", self.arrays.join(", "), self.names.join(", "),)
    }
}

/// The type in which values of a key are bound.
pub(super) fn key_type(column: &Column) -> &'static str {
    if column.kind == ColumnType::Text { "text" } else { "bigint" }
}

/// The name of the table's column of this index within `i`.
pub(super) fn column_name(index: usize) -> String {
    format!("c{index}")
}

/// A value that came, of its column's type. Numbers with decimals come as their digits.
pub(super) fn value(index: usize, column: &Column) -> String {
    let cast = if column.kind == ColumnType::Numeric { "::numeric" } else { "" };
    format!("i.{}{cast}", column_name(index))
}

/// Columns of the key in its order, with their indexes.
pub(super) fn key_columns(spec: &TableSpec) -> impl Iterator<Item = (usize, &Column)> {
    spec.key.iter().copied().zip(spec.key_columns())
}

/// Columns beside the key, with their indexes.
pub(super) fn other_columns(spec: &TableSpec) -> impl Iterator<Item = (usize, &Column)> {
    spec.columns.iter().enumerate().filter(|(index, _)| !spec.key.contains(index))
}

/// Joins each row of `i` to its mirrored row, if that lives, key by key: a fence keeps the planner from another order.
pub(super) fn looked_up(spec: &TableSpec, columns: &str, condition: &str, is_distributed: bool) -> String {
    let these = living(spec, condition, is_distributed);
    format!("lateral (select {columns} from {} as m where {these} offset 0) as m", table(spec))
}

/// The mirrored row has the key that came.
pub(super) fn same_key(spec: &TableSpec) -> String {
    let equal: Vec<_> = key_columns(spec)
        .map(|(index, column)| format!("m.{} = i.{}", Identifier(&column.sql_name), column_name(index)))
        .collect();
    equal.join(" and ")
}

/// The living rows of the tenant that fulfil a condition on what came.
///
/// The tenant is hidden from the planner: from a table that is not analyzed since its load, it would expect next to no
/// rows of this tenant, and read them all rather than look up each key. Without, it goes by the size of the table, which
/// it always knows. A distributed table needs the tenant in sight, to find the node.
pub(super) fn living(spec: &TableSpec, condition: &str, is_distributed: bool) -> String {
    let tenant = Identifier(spec.level.tenant_column());
    let in_sight = if is_distributed { format!("m.{tenant} = $1 and ") } else { String::new() };
    format!("{in_sight}m.{tenant} = i.position * 0 + $1 and {condition} and m._deleted_at is null")
}

/// Sets bookkeeping and all columns beside the key.
pub(super) fn assignments(spec: &TableSpec, value: impl Fn(usize, &Column) -> String, own: &str) -> String {
    let own = BOOKKEEPING.iter().map(|(name, _)| format!("{name} = {own}{name}"));
    let others = other_columns(spec)
        .map(|(index, column)| format!("{} = {}", Identifier(&column.sql_name), value(index, column)));
    own.chain(others).collect::<Vec<_>>().join(", ")
}

/// The mirrored row differs from the one that came.
pub(super) fn differs(spec: &TableSpec) -> String {
    if other_columns(spec).next().is_none() {
        return "false".to_owned();
    }
    let came: Vec<_> = other_columns(spec).map(|(index, column)| value(index, column)).collect();
    format!("row({}) is distinct from row({})", other_names(spec, "m."), came.join(", "))
}

pub(super) fn or_differs_from_excluded(spec: &TableSpec) -> String {
    if other_columns(spec).next().is_none() {
        return String::new();
    }
    format!(" or row({}) is distinct from row({})", other_names(spec, "m."), other_names(spec, "excluded."))
}

pub(super) fn key_names(spec: &TableSpec, prefix: &str) -> String {
    list(prefix, spec.key_columns().map(|column| column.sql_name.as_str()))
}

pub(super) fn other_names(spec: &TableSpec, prefix: &str) -> String {
    list(prefix, other_columns(spec).map(|(_, column)| column.sql_name.as_str()))
}

/// For each column, its name if it differs.
pub(super) fn different_names(spec: &TableSpec) -> String {
    let named: Vec<_> = other_columns(spec)
        .map(|(index, column)| {
            let name = Identifier(&column.sql_name);
            let text = column.sql_name.replace('\'', "''");
            format!("case when m.{name} is distinct from {} then '{text}' end", value(index, column))
        })
        .collect();
    named.join(", ")
}

/// A row's key as columns of the types in which keys are bound.
pub(super) fn key_output(spec: &TableSpec) -> String {
    let columns: Vec<_> =
        spec.key_columns().map(|column| format!("m.{}::{}", Identifier(&column.sql_name), key_type(column))).collect();
    columns.join(", ")
}

/// A number that tells a key from nearly all others.
pub(super) fn fingerprint(key: &str, seed: &str) -> String {
    format!("hashtextextended(json_build_array({key})::text, {seed})")
}
