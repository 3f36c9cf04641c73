//! Texts of statements that make and extend mirrored tables, and what a table may look like to be used.

use std::{collections::HashMap, sync::Arc};

use super::{
    clause::{folded, has_text_key, primary_key, table},
    identifier::{Identifier, list},
};
use crate::domain::{Column, ColumnType, TableSpec, naming};

/// Columns of the source that a table has room for: PostgreSQL's tables have 1,600 at most, and five are ours.
pub(super) const COLUMNS_MAX: usize = 1_600 - 5;

/// A new table with its primary key.
pub(super) fn create(spec: &TableSpec) -> String {
    let columns: String = spec
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let constraint = if spec.key.contains(&index) { " not null" } else { "" };
            format!("    {} {}{constraint},\n", Identifier(&column.sql_name), column.kind.sql())
        })
        .collect();
    format!(
        "create table {} (\n    {} bigint not null,\n{columns}    _changed_at timestamptz,\n    \
         _fetched_at timestamptz not null,\n    _deleted_at timestamptz,\n    _notification_id bigint,\n    \
         primary key ({})\n)",
        table(spec),
        Identifier(spec.level.tenant_column()),
        list("", primary_key(spec)),
    )
}

/// An index that finds rows whose key differs by case and trailing blanks alone; none for keys without text. PostgreSQL
/// names it, since a table of the same name may have been renamed and kept its indexes. The tenant comes last, so that the
/// index is never taken for one that finds a key.
pub(super) fn create_spelling_index(spec: &TableSpec) -> Option<String> {
    let columns: Vec<_> =
        spec.key_columns().map(|column| folded(column, &Identifier(&column.sql_name).to_string())).collect();
    let tenant = Identifier(spec.level.tenant_column());
    has_text_key(spec).then(|| format!("create index on {} ({}, {tenant})", table(spec), columns.join(", ")))
}

/// Columns that the table does not have yet, under one lock; null for all rows until they are fetched again.
pub(super) fn add_columns(spec: &TableSpec, columns: &[&Column]) -> String {
    let added: Vec<_> = columns
        .iter()
        .map(|column| format!("add column if not exists {} {}", Identifier(&column.sql_name), column.kind.sql()))
        .collect();
    format!("alter table {} {}", table(spec), added.join(", "))
}

/// Whether a column of type `actual` holds every value of `kind` without loss.
pub(super) fn holds(actual: &str, kind: ColumnType) -> bool {
    let wider: &[&str] = match kind {
        ColumnType::SmallInt => &["integer", "bigint", "numeric"],
        ColumnType::Integer => &["bigint", "numeric"],
        ColumnType::BigInt => &["numeric"],
        ColumnType::Numeric
        | ColumnType::Text
        | ColumnType::Boolean
        | ColumnType::TimestampTz
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Time => &[],
    };
    actual == kind.sql() || wider.contains(&actual)
}

/// Whether a column of type `actual` can be given the type of `kind` and keep its values as they are.
pub(super) fn widens(actual: &str, kind: ColumnType) -> bool {
    match kind {
        ColumnType::Integer => actual == "smallint",
        ColumnType::BigInt => ["smallint", "integer"].contains(&actual),
        _ => false,
    }
}

/// Columns of a table are given the types of the description. The table is written anew under one lock.
pub(super) fn widen_columns<'a>(table: &str, columns: impl Iterator<Item = &'a Column>) -> String {
    let changed: Vec<_> = columns
        .map(|column| format!("alter column {} type {}", Identifier(&column.sql_name), column.kind.sql()))
        .collect();
    format!("alter table {table} {}", changed.join(", "))
}

/// The description by the names under which its columns are mirrored already. A column that comes later takes no name
/// from one that has it.
pub(super) fn with_known_names(spec: &Arc<TableSpec>, previous: Option<&TableSpec>) -> Arc<TableSpec> {
    let Some(previous) = previous else { return Arc::clone(spec) };
    let known: HashMap<&str, &str> =
        previous.columns.iter().map(|column| (column.name.as_str(), column.sql_name.as_str())).collect();
    let columns: Vec<&str> = spec.columns.iter().map(|column| column.name.as_str()).collect();
    let names = naming::column_names(&columns, |column| known.get(column).copied());
    if spec.columns.iter().zip(&names).all(|(column, name)| column.sql_name == *name) {
        return Arc::clone(spec);
    }
    let renamed = |(column, sql_name): (&Column, String)| Column { sql_name, ..column.clone() };
    Arc::new(TableSpec { columns: spec.columns.iter().zip(names).map(renamed).collect(), ..TableSpec::clone(spec) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_again_among_fewer_columns() {
        let spec = TableSpec { key: vec![3, 1], ..TableSpec::plain("Order", &["a", "b", "c", "d"]) };
        let effective = spec.without(|column| ["a", "c"].contains(&column.name.as_str()));
        assert_eq!(effective.key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["d", "b"]);
        assert_eq!(effective.columns.len(), 2);
    }

    #[test]
    fn names_stay_when_columns_come_that_fold_to_them() {
        let column = |name: &str| Column::new(name, ColumnType::Integer);
        let spec = |columns: &[&str]| {
            let sql_names = naming::column_names(columns, |_| None);
            let columns = columns.iter().zip(sql_names).map(|(name, sql_name)| Column { sql_name, ..column(name) });
            Arc::new(TableSpec { columns: columns.collect(), key: vec![0], ..TableSpec::plain("Order", &[]) })
        };
        let names = |spec: &TableSpec| spec.columns.iter().map(|own| own.sql_name.clone()).collect::<Vec<_>>();
        let (before, after) = (spec(&["no", "aB"]), spec(&["no", "A_B", "aB"]));
        assert_eq!(names(&after)[1], "a_b", "by itself the alphabet decides");
        let kept = with_known_names(&after, Some(&before));
        assert_eq!(names(&kept)[2], "a_b");
        assert_ne!(names(&kept)[1], "a_b");
        assert_eq!(with_known_names(&after, Some(&kept)), kept, "and so it stays");
        assert!(Arc::ptr_eq(&with_known_names(&before, Some(&before)), &before));
    }

    #[test]
    fn a_column_may_be_wider_and_not_narrower() {
        assert!(holds("bigint", ColumnType::Integer));
        assert!(holds("numeric", ColumnType::BigInt));
        assert!(!holds("integer", ColumnType::BigInt));
        assert!(!holds("character varying(10)", ColumnType::Text));
        assert!(widens("integer", ColumnType::BigInt) && widens("smallint", ColumnType::Integer));
        assert!(!widens("integer", ColumnType::Text) && !widens("bigint", ColumnType::Integer));
    }
}
