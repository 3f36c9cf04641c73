//! The token endpoint: client credentials by HTTP Basic or in the form, errors as OAuth has them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use base64::{Engine, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use rand::{RngExt, distr::Alphanumeric};
use serde_json::json;

use super::{World, fault::FaultKind};

/// Tokens given out, until they expire.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Instant>>);

impl Tokens {
    fn grant(&self, lifetime: Duration) -> String {
        let token: String = rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect();
        let mut tokens = self.0.lock();
        tokens.insert(token.clone(), Instant::now() + lifetime);
        token
    }

    /// Whether the request carries a token that is known and alive.
    pub(super) fn allow(&self, request: &HttpRequest) -> bool {
        let tokens = self.0.lock();
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer "));
        token.and_then(|token| tokens.get(token)).is_some_and(|expires| Instant::now() < *expires)
    }

    /// Every token that was given out.
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// Ends every token at once.
    pub(super) fn revoke_all(&self) {
        self.0.lock().clear();
    }
}

pub(super) async fn grant(
    request: HttpRequest,
    form: web::Form<HashMap<String, String>>,
    world: web::Data<World>,
) -> HttpResponse {
    world.limits.token_requested();
    if world.faults.take(&[FaultKind::TokenAway], None).is_some() {
        return HttpResponse::ServiceUnavailable().body("<html>away</html>");
    }
    let error = |status: u16, code: &str| {
        let status = actix_web::http::StatusCode::from_u16(status).expect("a status");
        HttpResponse::build(status).json(json!({ "error": code, "error_description": "refused by the simulator" }))
    };
    if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
        return error(400, "unsupported_grant_type");
    }
    if !form.get("scope").is_some_and(|scope| scope.starts_with("business-graphql-service-api:")) {
        return error(400, "invalid_scope");
    }
    let expected = (world.options.client_id.clone(), world.options.client_secret.clone());
    if credentials(&request, &form) != Some(expected) {
        return error(401, "invalid_client");
    }
    let odd = world.odd.current();
    let seconds = odd.token_seconds.unwrap_or(world.options.token_seconds);
    let answer = odd.token_answer.unwrap_or_else(|| {
        let token = world.tokens.grant(Duration::from_secs(seconds));
        let lifetime = match odd.expires_in.as_deref() {
            None => format!(r#","expires_in":{seconds}"#),
            Some("") => String::new(),
            Some(json) => format!(r#","expires_in":{json}"#),
        };
        format!(r#"{{"access_token":"{token}","token_type":"Bearer","scope":{}{lifetime}}}"#, json!(form["scope"]))
    });
    HttpResponse::Ok().content_type("application/json").body(world.odd.sent(answer))
}

fn credentials(request: &HttpRequest, form: &HashMap<String, String>) -> Option<(String, String)> {
    let Some(header) = request.headers().get(header::AUTHORIZATION) else {
        return Some((form.get("client_id")?.clone(), form.get("client_secret")?.clone()));
    };
    let basic = BASE64_STANDARD.decode(header.to_str().ok()?.strip_prefix("Basic ")?).ok()?;
    let (id, secret) = std::str::from_utf8(&basic).ok()?.split_once(':')?;
    // Both are form-encoded first (RFC 6749, 2.3.1).
    let decode = |text: &str| {
        let pair = format!("v={text}");
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}
