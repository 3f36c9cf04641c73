//! Refusals and their answers. The one place where an error becomes a status.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use serde_json::json;

use crate::queue::AcceptError;

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
    #[error("the notification could not be stored, send it again later")]
    NotStored {
        /// When to try again.
        retry_after: Duration,
        #[source]
        cause: AcceptError,
    },
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
            Self::NotStored { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
        }
    }

    pub(super) fn answer(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status());
        match self {
            Self::NotStored { retry_after, .. } => {
                response.insert_header((header::RETRY_AFTER, retry_after.as_secs()));
            }
            Self::Method(allowed) => {
                response.insert_header((header::ALLOW, *allowed));
            }
            // What is left of the body is not read, so the connection cannot be used again.
            Self::TooLarge(_) | Self::Incomplete | Self::Slow => {
                response.force_close();
            }
            Self::Unsigned | Self::Path => {}
        }
        response.json(json!({ "error": self.to_string() }))
    }
}
