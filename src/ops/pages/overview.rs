//! How everything is, on one page.

use actix_web::{HttpRequest, HttpResponse, web};
use maud::{Markup, html};

use super::{
    ENTRIES,
    chart::{chart, shares},
    entry,
    frame::{Page, Place},
    named, words,
};
use crate::{
    mirror::DisplayNames,
    ops::{
        Ops,
        access::MayAct,
        advice::{self, Advice, Weight},
        overview::Overview,
        refusal::Refusal,
        samples::Span,
        status::{BudgetUse, Status},
    },
    queue::{
        activity::{self, EntryFilter},
        status::Freshness,
    },
};

/// Pieces of advice on the page.
const ADVICE_MAX: usize = 4;

/// The page.
pub(in crate::ops) async fn overview(
    request: HttpRequest,
    ops: web::Data<Ops>,
    may_act: MayAct,
) -> Result<HttpResponse, Refusal> {
    let is_live = request.headers().contains_key("x-live");
    let overview = ops.overviews.read(&ops.pool, ops.requests_per_minute, is_live).await?;
    let latest = activity::latest(&ops.pool, &EntryFilter::default(), ENTRIES).await?;
    let status = &overview.status;
    let body = html! {
        (hero(status))
        (todo(status, &overview.names))
        (figures(&overview))
        div.charts #charts data-live="" {
            (chart("Last hour", Span::Hour, &overview.hour))
            (chart("Last day", Span::Day, &overview.day))
        }
        div.split {
            section aria-labelledby="tables-title" {
                h2 #tables-title { "Tables" }
                (targets(status, &overview.names))
            }
            section aria-labelledby="activity-title" {
                h2 #activity-title { "Activity" a.more href="/activity" { "All of it" } }
                (entry::list(&latest, &overview.names, "", 40))
            }
        }
    };
    Ok(Page { title: status.word().to_owned(), place: Place::Overview, may_act, body }.response())
}

fn hero(status: &Status) -> Markup {
    html! {
        section.hero #hero data-live="" {
            h1 class={ "state s-" (status.word().replace(' ', "-")) } { span #state { (status.word()) } }
            p #evidence { (evidence(status)) }
            p.as-of { "as of " time datetime=(status.now.to_string()) { (words::full(status.now)) } }
        }
    }
}

/// From what the word follows, in one line.
fn evidence(status: &Status) -> String {
    let tenants: std::collections::BTreeSet<_> =
        status.tables.iter().map(|target| (target.company_no, target.customer_no)).collect();
    let scope = format!(
        "{} of {}",
        words::count(status.tables.len() as i64, "table", "tables"),
        words::count(tenants.len() as i64, "tenant", "tenants")
    );
    let rows = words::count(status.tables.iter().map(|target| target.rows).sum(), "row", "rows");
    let ill = status.tables.iter().filter(|target| target.state == "degraded").count() as i64;
    match status.word() {
        "stopped" => format!("No process works. {} waits.", words::count(status.backlog, "row", "rows")),
        "degraded" if status.api_away_since.is_some() => {
            "The API does not answer; what is received is kept.".to_owned()
        }
        "degraded" => format!(
            "{} of {scope} {} a person; all others go on.",
            words::number(ill),
            if ill == 1 { "needs" } else { "need" }
        ),
        "catching up" => format!("{} on the way to {scope}.", words::count(status.backlog, "change is", "changes are")),
        _ if status.tables.is_empty() => "Nothing has been received yet, and nothing waits.".to_owned(),
        _ => format!("Nothing waits. {scope} hold {rows}."),
    }
}

fn todo(status: &Status, names: &DisplayNames) -> Markup {
    let all = advice::advice(status);
    let soon: Vec<&Advice<'_>> = all.iter().filter(|advice| advice.weight < Weight::Whenever).collect();
    html! {
        section #todo data-live="" aria-label="What to do" {
            @if !soon.is_empty() {
                ul.todo {
                    @for advice in soon.iter().take(ADVICE_MAX) {
                        li.urgent[advice.weight == Weight::Urgent] {
                            strong {
                                @if let Some(target) = advice.about {
                                    (target.table) " of " (named::tenant(names, target.company_no, target.customer_no)) ": "
                                }
                                (advice.matter)
                            }
                            " " span { (advice.remedy) }
                        }
                    }
                    @if soon.len() > ADVICE_MAX { li.rest { "and " (soon.len() - ADVICE_MAX) " more: nxt-mirror status" } }
                }
            }
        }
    }
}

/// Who used the budget in the last minute, drawn and in figures.
fn by_purpose(budget: &BudgetUse) -> Markup {
    let parts = budget.by_purpose.parts();
    let told: Vec<String> = parts.iter().map(|(purpose, requests)| format!("{requests} {purpose}")).collect();
    html! {
        span title=(told.join(", ")) {
            (shares(&parts, budget.per_minute))
            @for (purpose, requests) in parts.iter().filter(|(_, requests)| *requests > 0) {
                span class={ "key " (purpose) } { (requests) " " (purpose) }
            }
            @if budget.used == 0 { "nothing asked" }
        }
    }
}

/// What has an id is read by programs, too: digits alone, without the spaces that people like.
fn figures(overview: &Overview) -> Markup {
    let Overview { status, recent, .. } = overview;
    let budget = &status.budget;
    html! {
        dl.figures #figures data-live="" {
            div {
                dt { "Received" }
                dd { b #received { (words::decimal(recent.received as f64 / 60.0)) } span.unit { "/ s" } }
                dd.note { (words::number(recent.received)) " in the last minute" }
            }
            div {
                dt { "Lag" }
                dd { b #lag { (status.lag_seconds) } span.unit { "s" } }
                dd.note #percentiles title="Of the last hour: half of the time, and for all but 5 and 1 percent of it, lag was no longer" {
                    "p50 " (words::span(recent.lag_median)) ", p95 " (words::span(recent.lag_95))
                    ", p99 " (words::span(recent.lag_99))
                }
            }
            div {
                dt { "Backlog" }
                dd { b #backlog { (status.backlog) } span.unit { "rows" } }
                dd.note { (words::number(recent.applied)) " applied in the last hour" }
            }
            div {
                dt { "Budget" }
                dd { b #budget { (budget.used) } span.unit { "of " (words::number(budget.per_minute.into())) " a minute" } }
                dd.note #budget-by-purpose { (by_purpose(budget)) }
            }
            div.bad[status.dead_letters > 0] {
                dt { "Set aside" }
                dd { b #dead-letters { (status.dead_letters) } span.unit { "dead letters" } }
                dd.note {
                    @if status.dead_letters > 0 { a href="/dead-letters" { "Why, and the way back" } }
                    @else { (words::number(recent.failed)) " failed tries in the last hour" }
                }
            }
        }
    }
}

fn targets(status: &Status, names: &DisplayNames) -> Markup {
    html! {
        div.scroll #targets data-live="" tabindex="0" role="region" aria-labelledby="tables-title" {
            table.targets {
                thead {
                    tr {
                        th scope="col" { "Table" }
                        th scope="col" { "State" }
                        th.num scope="col" { "Rows" }
                        th.num scope="col" { "Waiting" }
                        th scope="col" { "Last change" }
                        th scope="col" { "Verified" }
                        th scope="col" { "Next" }
                    }
                }
                tbody {
                    @for target in &status.tables { (row(target, status, names)) }
                    @if status.tables.is_empty() {
                        tr { td.empty colspan="7" { "No notification and no walk has named a table yet." } }
                    }
                }
            }
        }
    }
}

fn row(target: &Freshness, status: &Status, names: &DisplayNames) -> Markup {
    let address = entry::target_address(&target.table, target.company_no, target.customer_no);
    let lag = target.oldest_waiting_since.map(|since| (status.now - since).num_milliseconds() as f64 / 1_000.0);
    html! {
        tr {
            th scope="row" {
                a href=(address) { (target.table) }
                @if named::has_label(names, &target.table) { small { (named::label(names, &target.table)) } }
                small { (named::tenant(names, target.company_no, target.customer_no)) }
            }
            td { (words::state(&target.state)) }
            td.num data-label="rows" { (words::number(target.rows)) }
            td.num data-label="waiting" {
                (words::number(target.backlog))
                @if let Some(lag) = lag { small { (words::span(lag.max(0.0))) } }
            }
            td data-label="last change" { (words::ago(target.last_change_applied, status.now)) }
            td data-label="verified" { (verified(target, status)) }
            td.next { @if let Some(advice) = advice::of_target(target).first() { span title={ (advice.matter) ": " (advice.remedy) } { (advice.short) } } }
        }
    }
}

/// What the last comparison came to.
pub(super) fn verified(target: &Freshness, status: &Status) -> Markup {
    html! {
        @match (target.last_verified, target.differences.unwrap_or_default()) {
            (None, _) => { span.none { "never" } }
            (verified, 0) => { span.equal { "equal" } small { (words::ago(verified, status.now)) } }
            (verified, left) => { span.differs { (words::number(left)) " differ" } small { (words::ago(verified, status.now)) } }
        }
    }
}
