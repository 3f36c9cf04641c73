//! Names beside identifiers and numbers. They come from outside: any characters, in any direction, so that each stands
//! in an element that keeps its direction to itself.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::{Value, json};

use crate::{domain::naming, mirror::DisplayNames, queue::status::tenant_name};

/// Names of tenants that the script is told, so that a page stays light where there are thousands. Later lines of the
/// others have the number alone.
const TOLD_MAX: usize = 300;

/// `company 2000001 Nordlys AS`.
pub(super) fn tenant(names: &DisplayNames, company: Option<i64>, customer: Option<i64>) -> Markup {
    html! {
        (tenant_name(company, customer))
        @if let Some(name) = names.tenant(company, customer) { " " (called(name)) }
    }
}

/// What a table is called in words, if that is known and says more than its identifier.
pub(super) fn label(names: &DisplayNames, table: &str) -> Markup {
    html! { @if let Some(label) = telling(names, table) { (called(label)) } }
}

/// Whether it has such a label.
pub(super) fn has_label(names: &DisplayNames, table: &str) -> bool {
    telling(names, table).is_some()
}

fn telling<'a>(names: &'a DisplayNames, table: &str) -> Option<&'a str> {
    names.table(table).filter(|label| naming::folded(&label.replace(' ', "")) != naming::folded(table))
}

/// A name that somebody typed.
pub(super) fn called(name: &str) -> Markup {
    html! { bdi.called title=(name) { (name) } }
}

/// The names as the script looks them up.
pub(super) fn told(names: &DisplayNames) -> Value {
    let some = |all: BTreeMap<i64, &str>| -> Value {
        all.into_iter().take(TOLD_MAX).map(|(number, name)| (number.to_string(), Value::from(name))).collect()
    };
    let tables: Value = names.tables().into_iter().filter(|(table, _)| has_label(names, table)).collect();
    json!({ "tables": tables, "companies": some(names.companies()), "customers": some(names.customers()) })
}
