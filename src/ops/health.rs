//! Readiness and metrics.

use actix_web::{HttpResponse, web};
use serde_json::json;

use super::{Ops, gauges};
use crate::database::{self, State};

pub(super) async fn alive() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "alive" }))
}

/// 200 only when the database answers, takes writes, and its migrations are done. Needs no token: container health
/// checks ask it.
pub(super) async fn ready(ops: web::Data<Ops>) -> HttpResponse {
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

pub(super) async fn metrics(ops: web::Data<Ops>) -> HttpResponse {
    gauges::refresh(&ops.pool, &ops.metrics).await;
    HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(ops.metrics.render())
}
