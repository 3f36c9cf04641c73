//! Names beside identifiers and numbers. They come from outside: any characters, in any direction, so that each stands
//! in an element that keeps its direction to itself.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use maud::{Markup, html};
use serde_json::json;

use crate::{
    domain::naming,
    mirror::DisplayNames,
    ops::{Ops, refusal::Refusal},
    queue::status::tenant_name,
};

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

/// All names, as the script looks them up for lines that come live.
pub(in crate::ops) async fn names(ops: web::Data<Ops>) -> Result<HttpResponse, Refusal> {
    let names = DisplayNames::read(&ops.pool).await?;
    let tables: BTreeMap<_, _> = names.tables().into_iter().filter(|(table, _)| has_label(&names, table)).collect();
    let all = json!({ "tables": tables, "companies": names.companies(), "customers": names.customers() });
    Ok(HttpResponse::Ok().json(all))
}
