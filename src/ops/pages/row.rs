//! One row's story, as a line of time.

use actix_web::{HttpResponse, web};
use maud::{Markup, html};

use super::{
    entry::target_address,
    frame::{Page, Place},
    named, words,
};
use crate::{
    mirror::DisplayNames,
    ops::{Ops, access::MayAct, api, refusal::Refusal, story::Story},
    queue::ledger::Event,
};

/// The page.
pub(in crate::ops) async fn row(
    ops: web::Data<Ops>,
    table: web::Path<String>,
    given: web::Query<Vec<(String, String)>>,
    may_act: MayAct,
) -> Result<HttpResponse, Refusal> {
    let (tenant, key) = api::row_address(given.into_inner())?;
    let story = Story::read(&ops.pool, &table, &key, tenant).await?;
    let names = DisplayNames::read(&ops.pool).await?;
    let values = story.shown().values();
    let body = html! {
        nav.crumbs aria-label="Place" {
            a href="/" { "Overview" }
            @if let Some(event) = story.events.first() {
                a href=(target_address(story.table.as_str(), event.company_no, event.customer_no)) { (story.table) }
            } @else { span { (story.table) } }
        }
        div.title { h1 { (story.table) " " b { (values) } } (named::label(&names, story.table.as_str())) code { (story.key.get()) } }
        @if story.events.is_empty() {
            p.empty { "Nothing is known of this row: it is not mirrored, and no entry that is kept names it." }
        } @else {
            ol.story #story data-live="" { @for (index, event) in story.events.iter().enumerate() {
                (moment(event, index.checked_sub(1).map(|before| &story.events[before]), &names))
            } }
        }
    };
    Ok(Page { title: format!("{} {values}", story.table), place: Place::Elsewhere, may_act, body }.response())
}

fn moment(event: &Event, before: Option<&Event>, names: &DisplayNames) -> Markup {
    let passed = before.map(|before| (event.at - before.at).num_milliseconds() as f64 / 1_000.0);
    let (title, rest) = told(event);
    html! {
        li class={ "e-" (event.source.replace(' ', "-")) } {
            div.when {
                time datetime=(event.at.to_string()) { (event.at.utc().format("%Y-%m-%d")) " " b { (words::clock(event.at)) } }
                @if let Some(passed) = passed { small { "+ " (words::span(passed.max(0.0))) } }
            }
            div.what {
                h2 { (title) }
                @if !rest.is_empty() { p { (rest) } }
                p.evidence {
                    span { (named::tenant(names, event.company_no, event.customer_no)) }
                    @if let Some(id) = event.notification_id { span { "notification " (id) } }
                    @if let Some(started) = event.fetch_started_at { span { "asked at " (words::clock(started)) } }
                }
            }
        }
    }
}

/// A title, and the rest of what is told.
fn told(event: &Event) -> (String, String) {
    match event.source.as_str() {
        "notification" => {
            let (kind, rest) = event.what.split_once(' ').unwrap_or((&event.what, ""));
            (format!("Notified: {kind}"), rest.to_owned())
        }
        "sync" | "change" => {
            let (action, reason) = event.what.split_once(": ").unwrap_or((&event.what, ""));
            let title = match action {
                "inserted" => "Added to the mirror",
                "updated" => "Changed in the mirror",
                "deleted" => "Removed from the mirror",
                "unchanged" => "Fetched, nothing had changed",
                "already_absent" => "Was already absent",
                "stale" => "Notification ignored",
                "recheck" => "To be fetched again",
                "failed" => "Failed, will be tried again",
                "dead_letter" => "Set aside",
                "operator" => "An operator asked",
                other => other,
            };
            (title.to_owned(), reason.to_owned())
        }
        "mirrored" => ("In the mirror".to_owned(), event.what.clone()),
        "waiting" => ("Waits".to_owned(), event.what.clone()),
        "tombstone" => ("Deletion remembered".to_owned(), event.what.clone()),
        _ => ("Among the dead letters".to_owned(), event.what.clone()),
    }
}
