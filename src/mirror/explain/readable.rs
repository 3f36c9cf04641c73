//! Readable views: one for each mirrored table, with names, dates and times.
//!
//! A view is only ever replaced by one that has the same columns and more behind them, so that what people built on it
//! goes on working. Nothing else than new columns, and forms that are known only now, changes it.

use std::collections::HashSet;

use super::comment::literal;
use crate::{
    domain::{Column, TableLevel, TableSpec, Twin, naming},
    mirror::{
        clause,
        identifier::{Identifier, MODEL, READABLE},
    },
};

/// Columns that a view has at most.
const COLUMNS_MAX: usize = 1_600;

/// A column of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: String,
    /// As PostgreSQL prints it.
    pub(super) kind: String,
    /// What it shows of a row `m`.
    expression: String,
}

/// A column that a relation has: its name, and its type as PostgreSQL prints it.
pub(super) type Present = (String, String);

/// What becomes of a view.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is made, or stays and may gain columns at its end.
    Replace(Vec<Shown>),
    /// A column has another type now, which only a new view can have.
    Renew(Vec<Shown>),
}

/// The columns that the view should have, in the order of the table's own. `known` are the source's columns, those among
/// them that the API shows no longer; the rest of the table's columns is somebody else's.
pub(super) fn columns(spec: &TableSpec, known: &[Column], table: &[Present]) -> Vec<Shown> {
    let mut shown = vec![];
    let mut taken: HashSet<String> = table.iter().map(|(name, _)| name.clone()).collect();
    for (name, kind) in table {
        let plain = Shown { name: name.clone(), kind: kind.clone(), expression: format!("m.{}", Identifier(name)) };
        if name == spec.level.tenant_column() {
            shown.extend([plain, tenant_name(spec, &mut taken)]);
        } else if matches!(name.as_str(), "_changed_at" | "_fetched_at") {
            shown.push(plain);
        } else if let Some(column) = known.iter().find(|column| column.sql_name == *name) {
            show(spec, column, plain, &mut taken, &mut shown);
        }
    }
    shown.truncate(COLUMNS_MAX);
    shown
}

/// The name of the company or customer.
fn tenant_name(spec: &TableSpec, taken: &mut HashSet<String>) -> Shown {
    let (table, number) = match spec.level {
        TableLevel::Company => ("company", "company_no"),
        TableLevel::Customer => ("customer", "customer_no"),
    };
    let tenant = Identifier(spec.level.tenant_column());
    Shown {
        name: naming::free_name(&format!("{table}_name"), taken),
        kind: "text".into(),
        expression: format!("(select t.name from {MODEL}.{table} as t where t.{number} = m.{tenant})"),
    }
}

/// A column of the source, and what names its values.
fn show(spec: &TableSpec, column: &Column, plain: Shown, taken: &mut HashSet<String>, shown: &mut Vec<Shown>) {
    let number = plain.expression.clone();
    let mut named = |ending: &str, kind: &str, expression: String| Shown {
        name: naming::free_name(&naming::with_ending(&column.sql_name, ending), taken),
        kind: kind.to_owned(),
        expression,
    };
    let members = format!(
        "from {MODEL}.enum_member as e where e.table_name = {} and e.column_name = {}",
        literal(spec.name.as_str()),
        literal(&column.sql_name)
    );
    match column.twin {
        None => shown.push(plain),
        Some(Twin::Date) => {
            shown.push(Shown { kind: "date".into(), expression: format!("{MODEL}.as_date({number})"), ..plain });
        }
        Some(Twin::Time) => {
            let expression = format!("{MODEL}.as_time({number})");
            shown.push(Shown { kind: "time without time zone".into(), expression, ..plain });
        }
        Some(Twin::Enum) => {
            let name = named("_name", "text", format!("(select e.name {members} and e.value = {number})"));
            shown.extend([plain, name]);
        }
        Some(Twin::Flags) => {
            // Bits that stand alone, the lowest first; the sign is the highest.
            let bits = format!("{number}::bigint & {}", mask(&plain.kind));
            let names = format!(
                "(select array_agg(e.name order by e.value < 0, e.value) {members} and e.name is not null \
                 and bit_count(e.value::bit(64)) = 1 and e.value & {bits} <> 0)"
            );
            let names = format!("case when {number} is not null then coalesce({names}, '{{}}') end");
            shown.extend([plain, named("_names", "text[]", names)]);
        }
    }
}

/// The bits of a number of this type.
fn mask(kind: &str) -> &'static str {
    match kind {
        "smallint" => "65535",
        "integer" => "4294967295",
        _ => "-1",
    }
}

/// What becomes of the view that is there, with these columns, or of none.
pub(super) fn change(wanted: Vec<Shown>, view: Option<&[Present]>, has_dependents: bool) -> Change {
    let Some(view) = view else { return Change::Replace(wanted) };
    let find = |name: &str| wanted.iter().find(|shown| shown.name == name);
    let is_other_type = |(name, kind): &Present| find(name).is_some_and(|shown| shown.kind != *kind);
    if view.iter().any(is_other_type) && !has_dependents {
        return Change::Renew(wanted);
    }
    let kept = |(name, kind): &Present| Shown {
        name: name.clone(),
        kind: kind.clone(),
        expression: match find(name).filter(|shown| shown.kind == *kind) {
            Some(shown) => shown.expression.clone(),
            // Its type cannot change under those who use it, and what it showed may be gone.
            None if find(name).is_some() => format!("m.{}", Identifier(name)),
            None => format!("null::{kind}"),
        },
    };
    let kept: Vec<Shown> = view.iter().map(kept).collect();
    let is_new = |shown: &Shown| view.iter().all(|(name, _)| *name != shown.name);
    let added: Vec<Shown> = wanted.into_iter().filter(is_new).collect();
    Change::Replace(kept.into_iter().chain(added).collect())
}

/// A view of these columns. Readers need the rights that they would need for what is behind it, and see of it what they
/// would see there.
pub(super) fn statement(spec: &TableSpec, shown: &[Shown], is_of_invoker: bool) -> String {
    let columns: Vec<String> =
        shown.iter().map(|shown| format!("    {} as {}", shown.expression, Identifier(&shown.name))).collect();
    format!(
        "create or replace view {READABLE}.{}{} as select\n{}\n  from {} as m where m._deleted_at is null",
        Identifier(&spec.sql_name),
        if is_of_invoker { " with (security_invoker = true)" } else { "" },
        columns.join(",\n"),
        clause::table(spec),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ColumnType;

    fn spec(columns: &[(&str, Option<Twin>)]) -> TableSpec {
        let column =
            |(name, twin): &(&str, Option<Twin>)| Column { twin: *twin, ..Column::new(name, ColumnType::Integer) };
        TableSpec { columns: columns.iter().map(column).collect(), key: vec![0], ..TableSpec::plain("Order", &[]) }
    }

    fn table(columns: &[&str]) -> Vec<Present> {
        columns.iter().map(|name| ((*name).to_owned(), "integer".to_owned())).collect()
    }

    fn shown(columns: &[(&str, Option<Twin>)], present: &[&str]) -> Vec<(String, String)> {
        let spec = spec(columns);
        let shown = super::columns(&spec, &spec.columns, &table(present));
        shown.into_iter().map(|shown| (shown.name, shown.kind)).collect()
    }

    #[test]
    fn names_follow_what_they_name_and_only_two_bookkeeping_columns_are_shown() {
        let columns = [
            ("orderNo", None),
            ("orderDate", Some(Twin::Date)),
            ("orderType", Some(Twin::Enum)),
            ("flags", Some(Twin::Flags)),
        ];
        let present = [
            "_company_no",
            "order_no",
            "order_date",
            "order_type",
            "flags",
            "_changed_at",
            "_fetched_at",
            "_deleted_at",
            "mine",
        ];
        let pairs = shown(&columns, &present);
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "_company_no",
                "company_name",
                "order_no",
                "order_date",
                "order_type",
                "order_type_name",
                "flags",
                "flags_names",
                "_changed_at",
                "_fetched_at"
            ]
        );
        assert_eq!((pairs[3].1.as_str(), pairs[7].1.as_str()), ("date", "text[]"));
    }

    #[test]
    fn a_column_of_the_source_keeps_its_name_before_one_that_is_added() {
        let columns = [("companyName", None), ("type", Some(Twin::Enum)), ("typeName", None)];
        let pairs = shown(&columns, &["_company_no", "company_name", "type", "type_name"]);
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["_company_no", "company_name_", "company_name", "type", "type_name_", "type_name"]);
    }

    #[test]
    fn a_view_that_is_used_gains_columns_at_its_end_alone() {
        let spec = spec(&[("orderNo", None), ("date", Some(Twin::Date)), ("type", Some(Twin::Enum))]);
        let present = table(&["_company_no", "order_no", "date", "type"]);
        let wanted = super::columns(&spec, &spec.columns, &present);
        let view = |columns: &[(&str, &str)]| -> Vec<Present> {
            columns.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
        };
        let old = view(&[
            ("_company_no", "integer"),
            ("company_name", "text"),
            ("order_no", "integer"),
            ("date", "integer"),
            ("type", "integer"),
            ("gone", "text"),
        ]);
        let Change::Replace(replaced) = change(wanted.clone(), Some(&old), true) else { panic!("it is replaced") };
        let names: Vec<&str> = replaced.iter().map(|shown| shown.name.as_str()).collect();
        assert_eq!(names, ["_company_no", "company_name", "order_no", "date", "type", "gone", "type_name"]);
        assert_eq!((replaced[3].expression.as_str(), replaced[5].expression.as_str()), ("m.\"date\"", "null::text"));
        assert!(matches!(change(wanted.clone(), Some(&old), false), Change::Renew(_)));
        let current: Vec<Present> = wanted.iter().map(|shown| (shown.name.clone(), shown.kind.clone())).collect();
        assert_eq!(change(wanted.clone(), Some(&current), false), Change::Replace(wanted));
    }
}
