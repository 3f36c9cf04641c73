//! What is around every page.

use actix_web::{HttpResponse, ResponseError, http::header::ContentType};
use maud::{DOCTYPE, Markup, html};

use super::assets::{MARK, SCRIPT, STYLE};
use crate::ops::{access::MayAct, refusal::Refusal};

/// The pages that the head of each leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Activity,
    DeadLetters,
    Elsewhere,
}

/// A page.
pub(super) struct Page {
    /// Behind the product's name, in the title.
    pub(super) title: String,
    pub(super) place: Place,
    pub(super) may_act: MayAct,
    pub(super) body: Markup,
}

impl Page {
    pub(super) fn response(self) -> HttpResponse {
        let body = html! {
            a.skip href="#main" { "Skip to the content" }
            (self.head())
            main #main { (self.body) }
            (dialog())
        };
        HttpResponse::Ok().content_type(ContentType::html()).body(document(&self.title, &body).into_string())
    }

    fn head(&self) -> Markup {
        let link = |place: Place, address: &str, text: &str| {
            html! { a href=(address) aria-current=[(self.place == place).then_some("page")] { (text) } }
        };
        html! {
            header.top {
                div.bar {
                    a.brand href="/" aria-label="nxt-mirror: overview" {
                        img src=(MARK.path) width="20" height="20" alt="";
                        span { "nxt-mirror" }
                    }
                    nav aria-label="Pages" {
                        (link(Place::Overview, "/", "Overview"))
                        (link(Place::Activity, "/activity", "Activity"))
                        (link(Place::DeadLetters, "/dead-letters", "Dead letters"))
                    }
                    span #link.link data-text-lost="not connected" { }
                    @if self.may_act.0 {
                        form.logout method="post" action="/logout" { button.quiet type="submit" { "Log out" } }
                    }
                }
            }
        }
    }
}

/// The whole document.
pub(super) fn document(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "nxt-mirror · " (title) }
                link rel="icon" href=(MARK.path) type="image/svg+xml";
                link rel="stylesheet" href=(STYLE.path);
                script src=(SCRIPT.path) defer { }
            }
            body { (body) }
        }
    }
}

/// In which an action is asked about once more, and where its outcome is told.
fn dialog() -> Markup {
    html! {
        dialog #ask aria-labelledby="ask-text" {
            form method="dialog" {
                p #ask-text { }
                div.buttons {
                    button type="submit" value="no" { "Cancel" }
                    button.primary type="submit" value="yes" #ask-yes { "Yes" }
                }
            }
        }
        p #told role="status" aria-live="polite" hidden { }
    }
}

/// What pages that cannot be shown say.
pub(in crate::ops) fn refused(refusal: &Refusal) -> HttpResponse {
    let body = html! {
        main.narrow {
            h1 { (refusal.to_string()) }
            p { a href="/" { "To the overview" } }
        }
    };
    refusal
        .builder()
        .content_type(ContentType::html())
        .body(document(refusal.status_code().as_str(), &body).into_string())
}

/// Why actions cannot be asked for, if they cannot.
pub(super) fn why_no_actions(may_act: MayAct) -> Markup {
    html! {
        @if !may_act.0 {
            p.hint { "Actions need a token: set " code { "NXT_OPS_TOKEN" } " and start the daemon again." }
        }
        noscript { p.hint { "Without JavaScript the page shows its figures as of now; actions are on the command line." } }
    }
}
