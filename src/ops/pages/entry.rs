//! Entries of the sync log, by the server and, from a template of the same shape, by the script.

use maud::{Markup, html};
use serde_json::{Map, Value};

use super::{named, words};
use crate::{domain::ShownKey, mirror::DisplayNames, queue::activity::Activity};

/// The list that the script adds to. `query` is that of the stream, `newest` the last entry that is shown.
pub(super) fn list(entries: &[Activity], names: &DisplayNames, query: &str, max: usize) -> Markup {
    let newest = entries.last().map_or(0, |entry| entry.id);
    html! {
        ol #activity.entries data-stream={ "/api/activity" (query) } data-after=(newest) data-max=(max) {
            @for entry in entries.iter().rev() { (line(entry, names)) }
        }
        p.empty #quiet hidden[!entries.is_empty()] { "Nothing has happened yet. What happens appears here by itself." }
        template #entry data-words=(words_of_actions()) { (blank()) }
    }
}

fn words_of_actions() -> String {
    let words: Map<String, Value> =
        words::ACTIONS.iter().map(|(name, word)| ((*name).to_owned(), Value::from(*word))).collect();
    Value::Object(words).to_string()
}

fn line(entry: &Activity, names: &DisplayNames) -> Markup {
    html! {
        li data-id=(entry.id) {
            time datetime=(entry.at.to_string()) title=(words::full(entry.at)) { (entry.at.utc().format("%H:%M:%S")) }
            span class={ "act a-" (entry.action) } { (words::action(&entry.action)) }
            span.row {
                @if let Some(table) = &entry.table_name {
                    @match &entry.key {
                        Some(key) => {
                            a href=(row_address(table, entry.company_no, entry.customer_no, key)) title=(key) {
                                span.table { (table) } " " b { (key.values()) }
                            }
                        }
                        None => { span.table { (table) } }
                    }
                    " " (named::label(names, table))
                }
            }
            span.tenant { @if entry.company_no.or(entry.customer_no).is_some() {
                (named::tenant(names, entry.company_no, entry.customer_no))
            } }
            span.why { (entry.reason) }
        }
    }
}

/// The same shape with nothing in it.
fn blank() -> Markup {
    html! {
        li {
            time { }
            span.act { }
            span.row { a { span.table { } " " b { } } " " bdi.called { } }
            span.tenant { bdi.called { } }
            span.why { }
        }
    }
}

/// Where a row's story is told.
pub(super) fn row_address(table: &str, company: Option<i64>, customer: Option<i64>, key: &ShownKey) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(company) = company {
        query.append_pair("company", &company.to_string());
    }
    if let Some(customer) = customer {
        query.append_pair("customer", &customer.to_string());
    }
    query.extend_pairs(key.parts());
    format!("/rows/{table}?{}", query.finish())
}

/// Where a target is shown.
pub(super) fn target_address(table: &str, company: Option<i64>, customer: Option<i64>) -> String {
    match (company, customer) {
        (Some(company), _) => format!("/tables/{table}?company={company}"),
        (None, customer) => format!("/tables/{table}?customer={}", customer.unwrap_or_default()),
    }
}
