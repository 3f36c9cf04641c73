//! What was set aside, why, and the way back.

use actix_web::{HttpResponse, web};
use maud::{Markup, html};
use sqlx::PgPool;

use super::{
    entry::{row_address, target_address},
    frame::{Page, Place, why_no_actions},
    named, words,
};
use crate::{
    domain::DatabaseTime,
    mirror::DisplayNames,
    ops::{Ops, access::MayAct, refusal::Refusal},
    queue::{
        dead_letter::{self, DeadLetter},
        status,
    },
};

/// Letters on the page, the oldest ones.
const SHOWN: i64 = 200;
/// Characters of a body that are shown.
const BODY_MAX: usize = 4_000;

/// The page.
pub(in crate::ops) async fn dead_letters(ops: web::Data<Ops>, may_act: MayAct) -> Result<HttpResponse, Refusal> {
    let letters = dead_letter::list(&ops.pool, 0, SHOWN).await?;
    let counts = dead_letter::count(&ops.pool).await?;
    let names = DisplayNames::read(&ops.pool).await?;
    let now = status::now(&ops.pool).await?;
    let mut items = Vec::with_capacity(letters.len());
    for letter in letters {
        let body = body(&ops.pool, &letter, may_act).await?;
        items.push(item(&letter, body.as_deref(), &names, now, may_act));
    }
    let total = counts.rows + counts.bodies;
    let body = html! {
        div.title {
            h1 { "Dead letters" }
            span.hint #count data-live="" {
                (words::count(counts.rows, "row", "rows")) ", " (words::count(counts.bodies, "body", "bodies"))
                @if total > items.len() as i64 { "; the oldest " (items.len()) " are shown" }
            }
        }
        (why_no_actions(may_act))
        div #letters data-live="" {
            @if items.is_empty() {
                p.empty { "Nothing is set aside. Rows that cannot be mirrored and bodies that are not understood come here, with the reason." }
            } @else {
                ul.letters { @for item in &items { (item) } }
            }
        }
    };
    Ok(Page { title: "dead letters".to_owned(), place: Place::DeadLetters, may_act, body }.response())
}

/// What was received, which is for the operator alone.
async fn body(pool: &PgPool, letter: &DeadLetter, may_act: MayAct) -> Result<Option<String>, Refusal> {
    if letter.kind != "body" || !may_act.0 {
        return Ok(None);
    }
    let body = dead_letter::show(pool, letter.id).await?.and_then(|(_, body)| body);
    Ok(body.map(|body| String::from_utf8_lossy(&body).chars().take(BODY_MAX).collect()))
}

fn item(letter: &DeadLetter, body: Option<&str>, names: &DisplayNames, now: DatabaseTime, may_act: MayAct) -> Markup {
    html! {
        li #{ "letter-" (letter.id) } {
            div.about {
                h2 { (subject(letter, names)) }
                p.reason { (letter.reason) }
                p.evidence {
                    span { "no. " (letter.id) }
                    @if letter.attempts > 0 { span { (words::count(letter.attempts.into(), "try", "tries")) } }
                    span { "first " (words::ago(Some(letter.first_at), now)) }
                    @if letter.last_at != letter.first_at { span { "last " (words::ago(Some(letter.last_at), now)) } }
                    @if let Some(id) = letter.notification_id { span { "notification " (id) } }
                }
                @if let Some(body) = body { details { summary { "What was received" } pre { (body) } } }
            }
            div.buttons { (buttons(letter, may_act)) }
        }
    }
}

fn subject(letter: &DeadLetter, names: &DisplayNames) -> Markup {
    let (company, customer) = (letter.company_no, letter.customer_no);
    html! {
        @match (&letter.table_name, &letter.key) {
            (Some(table), Some(key)) => {
                a href=(row_address(table, company, customer, key)) { (table) " " b { (key.values()) } }
                small { (named::tenant(names, company, customer)) }
            }
            (Some(table), None) => {
                a href=(target_address(table, company, customer)) { (table) }
                small { (named::tenant(names, company, customer)) }
            }
            _ => { "A body that is not understood" }
        }
    }
}

fn buttons(letter: &DeadLetter, may_act: MayAct) -> Markup {
    let what = match &letter.table_name {
        Some(table) => format!("{table} {}", letter.key.as_ref().map(|key| key.values()).unwrap_or_default()),
        None => format!("the body no. {}", letter.id),
    };
    let address = format!("/api/dead-letters/{}", letter.id);
    html! {
        button type="button" disabled[!may_act.0] data-method="POST" data-url={ (address) "/retry" } data-yes="Retry"
            data-ask={ "Try " (what) " again?" } data-told={ "Trying " (what) " again." } { "Retry" }
        button.danger type="button" disabled[!may_act.0] data-method="DELETE" data-url=(address) data-yes="Drop"
            data-ask={ "Forget " (what) " for good? The row stays as it is in the mirror." }
            data-told={ "Dropped " (what) "." } { "Drop" }
    }
}
