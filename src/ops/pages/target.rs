//! One target: what it looks like, how it is, and how that is known.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use maud::{Markup, html};
use serde::Deserialize;

use super::{
    ENTRIES, entry,
    frame::{Page, Place, why_no_actions},
    named,
    overview::verified,
    words,
};
use crate::{
    domain::{Column, TableSpec, Target, Tenant, naming},
    mirror::{self, DisplayNames},
    ops::{
        Ops,
        access::MayAct,
        advice,
        api::number,
        refusal::Refusal,
        status::Status,
        story::{self, StoryError},
    },
    queue::{
        self,
        activity::{self, EntryFilter},
        status::Freshness,
    },
    walk::{CertificateRecord, ScanRecord, WalkRecord},
};

/// Whose table.
#[derive(Debug, Deserialize)]
pub(in crate::ops) struct Whose {
    company: Option<String>,
    customer: Option<String>,
}

impl Whose {
    /// Whether a tenant is the one that is named, or none is.
    fn read(&self) -> Result<impl Fn(Tenant) -> bool, Refusal> {
        let company = number("company", self.company.as_deref())?;
        let customer = number("customer", self.customer.as_deref())?;
        Ok(move |tenant| match (company, customer, tenant) {
            (Some(company), _, Tenant::Company(number)) => company == number,
            (_, Some(customer), Tenant::Customer(number)) => customer == number,
            (None, None, _) => true,
            _ => false,
        })
    }
}

/// The page.
pub(in crate::ops) async fn target(
    ops: web::Data<Ops>,
    table: web::Path<String>,
    whose: web::Query<Whose>,
    may_act: MayAct,
) -> Result<HttpResponse, Refusal> {
    let target = find(&ops, &table, &whose).await?;
    let status = Status::read(&ops.pool, ops.requests_per_minute).await?;
    let (company, customer) = target.tenant.columns();
    let is_it = |fresh: &&Freshness| {
        fresh.company_no == company && fresh.customer_no == customer && fresh.table == target.table.as_str()
    };
    let fresh = status.tables.iter().find(is_it).ok_or(Refusal::NothingHere)?;
    let record = WalkRecord::read(&ops.pool, target.id).await?;
    let spec = match story::described(&ops.pool, target.table.as_str()).await {
        Ok(spec) => Some(spec),
        Err(StoryError::UnknownTable(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let names = DisplayNames::read(&ops.pool).await?;
    let labels = mirror::column_labels(&ops.pool, &target.table).await?;
    let filter = EntryFilter { company, table: Some(naming::folded(target.table.as_str())), ..EntryFilter::default() };
    let latest = activity::latest(&ops.pool, &filter, ENTRIES).await?;
    let query =
        format!("?table={}{}", target.table, company.map(|company| format!("&company={company}")).unwrap_or_default());
    let body = html! {
        nav.crumbs aria-label="Place" { a href="/" { "Overview" } span { (named::tenant(&names, company, customer)) } }
        div.title #title data-live="" { h1 { (target.table) " " (named::label(&names, target.table.as_str())) } (words::state(&fresh.state)) (verify_button(&target, may_act)) }
        (why_no_actions(may_act))
        (health(fresh))
        (figures(fresh, &status))
        div.split {
            div {
                (walks(&record, &status))
                (certificates(&record.certificates))
                @if let Some(spec) = &spec { (columns(spec, &labels)) }
            }
            section aria-labelledby="activity-title" {
                h2 #activity-title { "Activity" a.more href={ "/activity" (query) } { "All of it" } }
                (entry::list(&latest, &names, &query, 40))
            }
        }
    };
    let title = format!("{} of {}", target.table, target.tenant);
    Ok(Page { title, place: Place::Elsewhere, may_act, body }.response())
}

async fn find(ops: &Ops, table: &str, whose: &Whose) -> Result<Target, Refusal> {
    let (wanted, is_meant) = (naming::folded(table), whose.read()?);
    let targets = queue::target::list(&ops.pool).await?;
    let mut found =
        targets.into_iter().filter(|target| naming::folded(target.table.as_str()) == wanted && is_meant(target.tenant));
    found.next().ok_or_else(|| Refusal::Gone(format!("nothing is known of table {table} of this company")))
}

fn verify_button(target: &Target, may_act: MayAct) -> Markup {
    let body = match target.tenant {
        Tenant::Company(number) => serde_json::json!({ "table": [target.table], "company": [number] }),
        Tenant::Customer(_) => serde_json::json!({ "table": [target.table] }),
    };
    html! {
        button type="button" disabled[!may_act.0] data-method="POST" data-url="/api/verify" data-body=(body.to_string())
            data-yes="Verify" data-ask={ "Compare every row of " (target.table) " with the source? It takes a share of the budget." }
            data-told="Comparing; what it comes to stands in the activity." { "Verify" }
    }
}

fn health(fresh: &Freshness) -> Markup {
    let all = advice::of_target(fresh);
    html! {
        section #todo data-live="" aria-label="What to do" {
            @if !all.is_empty() {
                ul.todo { @for advice in &all { li { strong { (advice.matter) } " " span { (advice.remedy) } } } }
            }
        }
    }
}

fn figures(fresh: &Freshness, status: &Status) -> Markup {
    let lag = fresh.oldest_waiting_since.map_or(0.0, |since| (status.now - since).num_milliseconds() as f64 / 1_000.0);
    html! {
        dl.figures #figures data-live="" {
            div { dt { "Rows" } dd { b { (words::number(fresh.rows)) } }
                dd.note { @if fresh.partial { "only those that changed" } @else { "all of the table" } } }
            div { dt { "Waiting" } dd { b { (words::number(fresh.backlog)) } span.unit { "rows" } }
                dd.note { "lag " (words::span(lag.max(0.0))) } }
            div { dt { "Last change" } dd { b.small { (words::ago(fresh.last_change_applied, status.now)) } }
                dd.note { "notified " (words::ago(fresh.last_notified_at, status.now)) } }
            div { dt { "Verified" } dd { b.small { (verified(fresh, status)) } }
                dd.note { "walked " (words::ago(fresh.last_walked, status.now)) } }
            div.bad[fresh.dead_letters > 0] { dt { "Set aside" } dd { b { (words::number(fresh.dead_letters)) } span.unit { "rows" } }
                dd.note { @if fresh.dead_letters > 0 { a href="/dead-letters" { "Why" } } @else { "none" } } }
        }
    }
}

fn walks(record: &WalkRecord, status: &Status) -> Markup {
    html! {
        section aria-labelledby="walks-title" {
            h2 #walks-title { "Loads and sweeps" }
            dl.facts #walks data-live="" {
                dt { "Full scan" }
                dd { @match &record.scan { Some(scan) => (scanned(scan, status)), None => { span.none { "never" } } } }
                dt { "Sweep" }
                dd {
                    @match &record.sweep {
                        Some(sweep) => {
                            "changes up to " (sweep.watermark.utc().format("%Y-%m-%d %H:%M:%S")) " are in, looked at "
                            (words::ago(sweep.swept_at, status.now))
                        }
                        None => { span.none { "never" } }
                    }
                }
            }
        }
    }
}

fn scanned(scan: &ScanRecord, status: &Status) -> Markup {
    let total = scan.rows_total.unwrap_or_default();
    html! {
        @if scan.finished_at.is_some() {
            "came to the end " (words::ago(scan.finished_at, status.now)) ", " (words::count(scan.rows_walked, "row", "rows"))
        } @else {
            progress max=(total.max(1)) value=(scan.rows_walked) { (scan.rows_walked) " of " (total) }
            " " (words::number(scan.rows_walked)) @if total > 0 { " of " (words::number(total)) } " rows since "
            (words::ago(Some(scan.started_at), status.now))
        }
        @if let Some(note) = &scan.note { p.problem { (note) } }
    }
}

fn certificates(certificates: &[CertificateRecord]) -> Markup {
    html! {
        section aria-labelledby="certificates-title" {
            h2 #certificates-title { "Verification" }
            div.scroll #certificates data-live="" tabindex="0" role="region" aria-labelledby="certificates-title" {
                @if certificates.is_empty() { p.empty { "Never compared with the source." } } @else {
                    table {
                        thead { tr { th scope="col" { "As of" } th.num scope="col" { "Rows" } th.num scope="col" { "Differed" }
                            th.num scope="col" { "Mended" } th.num scope="col" { "Left" } th.num scope="col" { "Took" } } }
                        tbody { @for certificate in certificates { tr {
                            td { (words::full(certificate.as_of)) }
                            td.num { (words::number(certificate.rows_compared)) }
                            td.num { (words::number(certificate.differences)) }
                            td.num { (words::number(certificate.repaired)) }
                            td.num { (words::number(certificate.left_different)) }
                            td.num { (words::span(certificate.seconds)) }
                        } } }
                    }
                }
            }
        }
    }
}

fn columns(spec: &TableSpec, labels: &BTreeMap<String, String>) -> Markup {
    let label = |column: &Column| labels.get(&column.name.to_ascii_lowercase());
    html! {
        section aria-labelledby="columns-title" {
            h2 #columns-title { "Columns" small { "business_nxt." (spec.sql_name) } }
            div.scroll tabindex="0" role="region" aria-labelledby="columns-title" {
                table.columns {
                    thead { tr { th scope="col" { "Column" } @if !labels.is_empty() { th scope="col" { "Label" } } th scope="col" { "In the API" } th scope="col" { "Type" } } }
                    tbody { @for (index, column) in spec.columns.iter().enumerate() { tr {
                        th scope="row" { code { (column.sql_name) } @if spec.key.contains(&index) { span.pill.key { "key" } } }
                        @if !labels.is_empty() { td { @if let Some(label) = label(column) { (named::called(label)) } } }
                        td { (column.name) }
                        td { (column.kind.sql()) }
                    } } }
                }
            }
        }
    }
}
