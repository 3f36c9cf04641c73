//! What is refused, and in which words: one `error` line fit for strangers.

use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    error::{QueryPayloadError, UrlencodedError},
    http::{StatusCode, header},
};
use serde_json::json;

use super::{BODY_BYTES_MAX, named::NamedTableError, status::StatusError, story::StoryError};
use crate::{queue::QueueError, telemetry::chain, webhook::RetryError};

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nobody who may ask.
    #[error("the token is missing or wrong: send NXT_OPS_TOKEN as Authorization: Bearer, or log in at /login")]
    Unauthorized,
    /// An action, where there is no token by which to know who asks.
    #[error("actions need a token: set NXT_OPS_TOKEN, start the daemon again, and send it as Authorization: Bearer")]
    NoToken,
    /// Another site's page asks in the reader's name.
    #[error("the request comes from another site")]
    CrossSite,
    /// Another name than this machine's, as a page of the internet gives it that has its own name point here.
    #[error("without NXT_OPS_TOKEN only requests to localhost are answered")]
    ForeignHost,
    #[error("there is nothing here")]
    NothingHere,
    #[error("{0}")]
    Gone(String),
    /// The path takes this method alone.
    #[error("this path takes {0} alone")]
    Method(&'static str),
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    TooLarge,
    #[error("{0}")]
    Wrong(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    #[error("too many wrong tokens: try again in {0} seconds")]
    TooManyTries(u64),
    #[error("too many streams are open")]
    Crowded,
    #[error("the database does not answer")]
    Away,
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::NoToken | Self::CrossSite | Self::ForeignHost => StatusCode::FORBIDDEN,
            Self::NothingHere | Self::Gone(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Wrong(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooManyTries(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Crowded | Self::Away => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        self.builder().json(json!({ "error": self.to_string() }))
    }
}

impl Refusal {
    /// An answer without its body yet.
    pub(super) fn builder(&self) -> HttpResponseBuilder {
        let mut builder = HttpResponse::build(self.status_code());
        match self {
            Self::Unauthorized => builder.insert_header((header::WWW_AUTHENTICATE, "Bearer")),
            Self::Method(allowed) => builder.insert_header((header::ALLOW, *allowed)),
            Self::TooManyTries(seconds) => builder.insert_header((header::RETRY_AFTER, seconds.to_string())),
            Self::Crowded | Self::Away => builder.insert_header((header::RETRY_AFTER, "5")),
            _ => &mut builder,
        };
        builder
    }

    /// What the server's library refuses by itself, in our words: its own are neither JSON nor meant for strangers.
    pub(super) fn of_library(status: StatusCode) -> Self {
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::NOT_FOUND => Self::NothingHere,
            _ => Self::Wrong("the request cannot be read".to_owned()),
        }
    }

    /// A form that is not one.
    pub(super) fn of_form(error: &UrlencodedError) -> Self {
        match error {
            UrlencodedError::Overflow { .. } => Self::TooLarge,
            _ => Self::Wrong("the form is not understood: send it as application/x-www-form-urlencoded".to_owned()),
        }
    }

    /// Parameters of an address that are not understood.
    pub(super) fn of_query(error: &QueryPayloadError) -> Self {
        match error {
            QueryPayloadError::Deserialize(error) => Self::Wrong(format!("the address is not understood: {error}")),
            _ => Self::Wrong("the address is not understood".to_owned()),
        }
    }

    /// What went wrong inside is told to the log, and nothing of it to the one who asked.
    fn away(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error = %chain(error), "an operator's request failed");
        Self::Away
    }
}

impl From<QueueError> for Refusal {
    fn from(error: QueueError) -> Self {
        Self::away(&error)
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::away(&error)
    }
}

impl From<StatusError> for Refusal {
    fn from(error: StatusError) -> Self {
        Self::away(&error)
    }
}

impl From<RetryError> for Refusal {
    fn from(error: RetryError) -> Self {
        Self::away(&error)
    }
}

impl From<StoryError> for Refusal {
    fn from(error: StoryError) -> Self {
        match error {
            StoryError::UnknownTable(_) => Self::Gone(error.to_string()),
            StoryError::OtherColumns { .. } | StoryError::Key(_) => Self::Wrong(error.to_string()),
            StoryError::Schema(error) => Self::away(&error),
            StoryError::Queue(error) => Self::away(&error),
        }
    }
}

impl From<NamedTableError> for Refusal {
    fn from(error: NamedTableError) -> Self {
        match error {
            NamedTableError::Name(_) => Self::Wrong(error.to_string()),
            NamedTableError::Schema(error) => Self::away(&error),
            NamedTableError::Queue(error) => Self::away(&error),
        }
    }
}
