//! The public listener's two paths.

use std::{sync::Arc, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, Payload},
};
use serde_json::json;

use super::{
    body::Room,
    error::Refusal,
    payload,
    signature::{self, SigningSecrets, VerifiedBody},
};
use crate::{
    queue::{Accepted, Acceptor, Delivery, DeliveryId, Notification, Quarantine},
    telemetry::Metrics,
};

/// Characters of a reason that are kept.
const REASON_LENGTH_MAX: usize = 300;
/// What strangers hear when a body was understood and the database could not store it as what it is.
const REFUSED: &str = "it cannot be stored as a notification";
/// The header that identifies one notification over its retries, as far as is known.
const NOTIFICATION_ID: &str = "x-vwd-notification-id";

/// What the webhook handler needs.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Keys that may have signed.
    pub secrets: SigningSecrets,
    /// Bytes of a body.
    pub body_bytes_max: usize,
    /// Room for all bodies.
    pub room: Room,
    /// Stores what arrives.
    pub acceptor: Acceptor,
    /// Counts what arrives.
    pub metrics: Arc<Metrics>,
}

/// Mounts the webhook path and `/healthz`, and answers everything else with 404.
pub fn configure(config: &mut web::ServiceConfig, path: &str, receiver: Receiver) {
    config
        .app_data(web::Data::new(receiver))
        .service(
            web::resource(path)
                .route(web::post().to(receive))
                .default_service(web::to(|| async { Refusal::Method("POST").answer() })),
        )
        .service(
            web::resource("/healthz")
                .route(web::get().to(alive))
                .route(web::head().to(alive))
                .default_service(web::to(|| async { Refusal::Method("GET, HEAD").answer() })),
        )
        .default_service(web::to(|| async { Refusal::Path.answer() }));
}

async fn alive() -> HttpResponse {
    HttpResponse::Ok().force_close().json(json!({ "status": "alive" }))
}

async fn receive(request: HttpRequest, body: Payload, receiver: web::Data<Receiver>) -> HttpResponse {
    let begun_at = Instant::now();
    let outcome = accept(&request, body, &receiver).await;
    receiver.metrics.webhook_duration.observe(begun_at.elapsed().as_secs_f64());
    let label = match &outcome {
        Ok(answer) => answer.label(),
        Err(refusal) => label(refusal),
    };
    receiver.metrics.webhook_requests.with_label_values(&[label]).inc();
    match outcome {
        Ok(answer) => answer.response(),
        Err(refusal) => {
            if let Refusal::NotStored(cause) = &refusal {
                tracing::warn!(error = %crate::telemetry::chain(cause), "notification not stored, answered 503");
            }
            refusal.answer()
        }
    }
}

/// A 2xx.
enum Answer {
    Accepted,
    Quarantined(String),
}

impl Answer {
    fn label(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Quarantined(_) => "quarantined",
        }
    }

    fn response(&self) -> HttpResponse {
        let body = match self {
            Self::Quarantined(reason) => json!({ "status": self.label(), "reason": reason }),
            Self::Accepted => json!({ "status": self.label() }),
        };
        HttpResponse::Accepted().json(body)
    }
}

fn label(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Unsigned => "unsigned",
        Refusal::TooLarge(_) => "too_large",
        Refusal::Incomplete | Refusal::Slow => "incomplete",
        Refusal::Crowded => "crowded",
        Refusal::NotStored(_) => "not_stored",
        Refusal::Method(_) | Refusal::Path => "not_found",
    }
}

async fn accept(request: &HttpRequest, body: Payload, receiver: &Receiver) -> Result<Answer, Refusal> {
    let bytes_max = receiver.body_bytes_max;
    if is_announced_too_large(request, bytes_max) {
        return Err(Refusal::TooLarge(bytes_max));
    }
    let held = receiver.room.take_in(body, bytes_max).await?;
    let signature = request.headers().get(signature::HEADER).map(|value| value.as_bytes());
    let body = receiver.secrets.verify(held.bytes.clone(), signature).ok_or(Refusal::Unsigned)?;
    let (delivery, reason) = understand(request, body);
    match receiver.acceptor.accept(delivery).await {
        Ok(Accepted::Stored | Accepted::LeftOut) => Ok(Answer::Accepted),
        Ok(Accepted::Quarantined) => Ok(Answer::Quarantined(reason.unwrap_or_else(|| REFUSED.to_owned()))),
        Err(cause) => Err(Refusal::NotStored(cause)),
    }
}

fn is_announced_too_large(request: &HttpRequest, bytes_max: usize) -> bool {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    announced.is_some_and(|bytes: u64| bytes > bytes_max as u64)
}

/// A verified body is a notification, or a dead letter with the reason.
fn understand(request: &HttpRequest, body: VerifiedBody) -> (Delivery, Option<String>) {
    let delivery_id = request.headers().get(NOTIFICATION_ID).and_then(|id| DeliveryId::new(id.as_bytes()));
    match payload::parse(body.bytes()) {
        Ok(parsed) => {
            let notification = Notification {
                delivery_id,
                event: parsed.event,
                changed_by: parsed.changed_by,
                columns: parsed.columns,
                body: body.into_bytes(),
            };
            (Delivery::Notification(notification), None)
        }
        Err(error) => {
            // Parts of the body may stand in the reason, and nobody wants to read all of it.
            let reason: String = error.to_string().chars().take(REASON_LENGTH_MAX).collect();
            let quarantine = Quarantine { delivery_id, reason: reason.clone(), body: body.into_bytes() };
            (Delivery::Quarantine(quarantine), Some(reason))
        }
    }
}
