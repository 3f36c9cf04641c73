//! The sync log, live and filtered.

use actix_web::{HttpRequest, HttpResponse, web};
use maud::{Markup, html};

use super::{
    entry,
    frame::{Page, Place},
    words,
};
use crate::{
    mirror::DisplayNames,
    ops::{Ops, access::MayAct, refusal::Refusal, sequence::Filters},
    queue::activity::{self, EntryFilter},
};

/// Entries on the page.
const SHOWN: i64 = 200;

/// The page.
pub(in crate::ops) async fn activity(
    request: HttpRequest,
    ops: web::Data<Ops>,
    filters: web::Query<Filters>,
    may_act: MayAct,
) -> Result<HttpResponse, Refusal> {
    let filter = filters.read().map_err(Refusal::Wrong)?;
    let latest = activity::latest(&ops.pool, &filter, SHOWN).await?;
    let names = DisplayNames::read(&ops.pool).await?;
    let query = match request.query_string() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let body = html! {
        div.title {
            h1 { "Activity" }
            button #pause.quiet type="button" aria-pressed="false" data-text-go="Go on" { "Pause" }
            span #held.hint aria-live="polite" { }
        }
        (form(&filter, &filters))
        (entry::list(&latest, &names, &query, SHOWN as usize))
    };
    Ok(Page { title: "activity".to_owned(), place: Place::Activity, may_act, body }.response())
}

fn form(filter: &EntryFilter, filters: &Filters) -> Markup {
    html! {
        form.filters method="get" action="/activity" role="search" {
            label { "Company" input name="company" inputmode="numeric" size="10" value=[filter.company]; }
            label { "Table" input name="table" size="16" autocomplete="off" spellcheck="false" value=[filters.table()]; }
            label { "Kind"
                select name="kind" {
                    option value="" { "all" }
                    @for (name, word) in words::ACTIONS {
                        option value=(name) selected[filter.action.as_deref() == Some(name)] { (word) }
                    }
                }
            }
            label { "Key" input name="key" size="12" autocomplete="off" spellcheck="false" value=[filter.key.as_deref()]; }
            button type="submit" { "Filter" }
            @if *filter != EntryFilter::default() { a href="/activity" { "Show all" } }
        }
    }
}
