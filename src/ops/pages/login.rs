//! The form by which a browser gets a session, and its end.

use actix_web::{HttpRequest, HttpResponse, ResponseError, http::header, web};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::Instant;

use super::frame::document;
use crate::ops::{Ops, access, access::COOKIE, origin, refusal::Refusal, secret, session::LIFETIME};

/// The form.
pub(in crate::ops) async fn login_form(ops: web::Data<Ops>) -> HttpResponse {
    match &ops.token {
        // There is nothing to log in to.
        None => to("/"),
        Some(_) => HttpResponse::Ok().content_type(header::ContentType::html()).body(form(None).into_string()),
    }
}

fn to(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, path)).finish()
}

fn form(problem: Option<&str>) -> Markup {
    document(
        "log in",
        &html! {
            main.login {
                form method="post" action="/login" {
                    h1 { "nxt-mirror" }
                    label for="token" { "Operators' token" }
                    input #token type="password" name="token" autocomplete="current-password" required autofocus
                        aria-describedby="problem" aria-invalid=[problem.map(|_| "true")];
                    p #problem.problem role="alert" { (problem.unwrap_or_default()) }
                    button.primary type="submit" { "Log in" }
                    p.hint { "It is the value of " code { "NXT_OPS_TOKEN" } "." }
                }
            }
        },
    )
}

/// What the form sends.
#[derive(Debug, Deserialize)]
pub(in crate::ops) struct Given {
    #[serde(default)]
    token: String,
}

/// Begins a session for who gives the token. Wrong ones are slowed down by address.
pub(in crate::ops) async fn login(
    request: HttpRequest,
    ops: web::Data<Ops>,
    given: web::Form<Given>,
) -> Result<HttpResponse, Refusal> {
    let Some(token) = &ops.token else { return Ok(to("/")) };
    if origin::is_cross_site(request.headers()) {
        return Err(Refusal::CrossSite);
    }
    let (address, now) = (access::address(&request), Instant::now());
    if let Some(wait) = ops.tries.wait(address, now) {
        return Ok(refused(
            &Refusal::TooManyTries(wait.as_secs() + 1),
            "Too many wrong tokens: try again in a minute.",
        ));
    }
    if !secret::is(given.token.trim(), token) {
        ops.tries.note(address, now);
        tracing::warn!(%address, "a wrong token was given at /login");
        return Ok(refused(&Refusal::Unauthorized, "This is not the token."));
    }
    ops.tries.forget(address);
    let cookie =
        format!("{COOKIE}={}; {}; Max-Age={}", ops.sessions.begin(now), attributes(&request), LIFETIME.as_secs());
    Ok(HttpResponse::SeeOther()
        .insert_header((header::LOCATION, "/"))
        .insert_header((header::SET_COOKIE, cookie))
        .finish())
}

fn refused(refusal: &Refusal, problem: &str) -> HttpResponse {
    HttpResponse::build(refusal.status_code())
        .content_type(header::ContentType::html())
        .body(form(Some(problem)).into_string())
}

/// Sent over TLS alone, if that is how this request came to the proxy in front.
fn attributes(request: &HttpRequest) -> &'static str {
    let proto = request.headers().get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    match proto {
        Some("https") => "Path=/; HttpOnly; SameSite=Strict; Secure",
        _ => "Path=/; HttpOnly; SameSite=Strict",
    }
}

/// Ends the session.
pub(in crate::ops) async fn logout(request: HttpRequest, ops: web::Data<Ops>) -> HttpResponse {
    if let Some(id) = access::session(request.headers()) {
        ops.sessions.end(id);
    }
    let forgotten = format!("{COOKIE}=; {}; Max-Age=0", attributes(&request));
    HttpResponse::SeeOther()
        .insert_header((header::LOCATION, "/login"))
        .insert_header((header::SET_COOKIE, forgotten))
        .finish()
}
