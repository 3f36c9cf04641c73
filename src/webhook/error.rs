//! Refusals and their answers. The one place where an error becomes a status.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use serde_json::json;

use crate::queue::AcceptError;

/// `Retry-After` of a 503.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a request got no 2xx. Its text is fit for strangers.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the signature is missing or does not match the body")]
    Unsigned,
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive in full")]
    Incomplete,
    #[error("the body took too long to arrive")]
    Slow,
    #[error("too much is being received, send it again later")]
    Crowded,
    #[error("the notification could not be stored, send it again later")]
    NotStored(#[source] AcceptError),
    #[error("this path takes {0} alone")]
    Method(&'static str),
    #[error("there is nothing here")]
    Path,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unsigned => StatusCode::UNAUTHORIZED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::BAD_REQUEST,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Crowded | Self::NotStored(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
        }
    }

    pub(super) fn answer(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        match self {
            Self::Crowded | Self::NotStored(_) => {
                response.insert_header((header::RETRY_AFTER, RETRY_AFTER.as_secs()));
            }
            Self::Method(allowed) => {
                response.insert_header((header::ALLOW, *allowed));
            }
            Self::Unsigned | Self::TooLarge(_) | Self::Incomplete | Self::Slow | Self::Path => {}
        }
        // Only a known sender's connection is kept. And where not all of the body was read, none could be used again.
        if !matches!(self, Self::NotStored(_)) {
            response.force_close();
        }
        response.json(json!({ "error": self.to_string() }))
    }
}
