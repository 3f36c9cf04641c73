//! The operators' listener: readiness, metrics, and nothing for the internet.

mod gauges;
mod status;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgPool;

pub use status::Status;

use crate::{
    database::{self, Connector, State},
    telemetry::Metrics,
};

/// What the operators' handlers need.
#[derive(Debug, Clone)]
pub struct Ops {
    /// The replica's database.
    pub pool: PgPool,
    /// What is known of its hosts.
    pub connector: Connector,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// `NXT_OPS_TOKEN`.
    pub token: Option<SecretString>,
}

/// Mounts the operators' paths.
pub fn configure(config: &mut web::ServiceConfig, ops: Ops) {
    config
        .app_data(web::Data::new(ops))
        .route("/healthz", web::get().to(alive))
        .route("/readyz", web::get().to(ready))
        .route("/metrics", web::get().to(metrics))
        .default_service(web::to(|| async {
            HttpResponse::NotFound().json(json!({ "error": "there is nothing here" }))
        }));
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

/// 200 only when the database answers, takes writes, and its migrations are done. Needs no token: container health
/// checks ask it.
async fn ready(ops: web::Data<Ops>) -> HttpResponse {
    if let State::Nowhere(reason) = ops.connector.state() {
        tracing::warn!(reason, "not ready");
        let error = "no host of the database takes writes; one is looked for";
        return HttpResponse::ServiceUnavailable().json(json!({ "error": error }));
    }
    match database::is_current(&ops.pool).await {
        Ok(true) => HttpResponse::Ok().json(json!({ "status": "ready" })),
        Ok(false) => HttpResponse::ServiceUnavailable().json(json!({ "error": "migrations are not done" })),
        Err(error) => {
            tracing::warn!(error = %crate::telemetry::chain(&error), "not ready");
            HttpResponse::ServiceUnavailable().json(json!({ "error": "the database does not answer" }))
        }
    }
}

async fn metrics(request: HttpRequest, ops: web::Data<Ops>) -> HttpResponse {
    if !is_authorized(&request, ops.token.as_ref()) {
        return HttpResponse::Unauthorized()
            .insert_header((header::WWW_AUTHENTICATE, "Bearer"))
            .json(json!({ "error": "the bearer token is missing or wrong" }));
    }
    gauges::refresh(&ops.pool, &ops.metrics).await;
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(ops.metrics.render())
}

/// Without a token the listener is bound to loopback, and whoever is there may look.
fn is_authorized(request: &HttpRequest, token: Option<&SecretString>) -> bool {
    let Some(token) = token else { return true };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    given.is_some_and(|given| equal_in_constant_time(given.as_bytes(), token.expose_secret().as_bytes()))
}

/// Compares digests keyed by the token itself, so that the time tells nothing of where the texts differ.
fn equal_in_constant_time(given: &[u8], expected: &[u8]) -> bool {
    use hmac::{Hmac, KeyInit, Mac};
    let digest = |text: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(expected).expect("HMAC takes keys of any length");
        mac.update(text);
        mac
    };
    digest(given).verify(&digest(expected).finalize().into_bytes()).is_ok()
}
