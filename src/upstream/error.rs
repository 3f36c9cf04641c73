//! What can go wrong between here and the API.

use std::{borrow::Cow, time::Duration};

use crate::{domain::json::Json, telemetry::chain};

/// One entry of an answer's `errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphqlError {
    /// For people; its wording changes between releases, so nothing is decided by it.
    pub message: String,
    /// `extensions.code` and `extensions.codes`.
    pub codes: Vec<String>,
    /// Aliases from the root to the failed field; empty when the error names none.
    pub path: Vec<String>,
    /// Lines of the query that it concerns, counted from 1; empty when the error names none.
    pub lines: Vec<u64>,
    /// What Visma's support asks for.
    pub trace_id: Option<String>,
}

impl GraphqlError {
    /// Reads an entry; whatever is missing or of another type is left empty.
    pub(super) fn read(entry: Json<'_>) -> Self {
        let members = entry.members().unwrap_or_default();
        let extensions = members.get("extensions").and_then(Json::members).unwrap_or_default();
        let mut codes = texts(extensions.get("codes"));
        codes.extend(extensions.get("code").and_then(text).filter(|code| !codes.contains(code)));
        let message = members.get("message").and_then(text).filter(|message| !message.trim().is_empty());
        let message = message.unwrap_or_else(|| "an error without a message".to_owned());
        let places = members.get("locations").and_then(Json::items).unwrap_or_default();
        let lines = places.into_iter().filter_map(|place| place.members()?.get("line")?.integer());
        Self {
            message: message.chars().take(500).collect(),
            codes,
            path: texts(members.get("path")),
            lines: lines.filter_map(|line| u64::try_from(line).ok()).collect(),
            trace_id: None,
        }
    }

    /// Whether it carries this code.
    pub fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|own| own == code)
    }
}

fn text(json: Json<'_>) -> Option<String> {
    json.storable_text().map(Cow::into_owned)
}

/// The texts of a list.
fn texts(list: Option<Json<'_>>) -> Vec<String> {
    let items = list.and_then(Json::items).unwrap_or_default();
    items.into_iter().filter_map(text).collect()
}

impl std::fmt::Display for GraphqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(code) = self.codes.first() {
            write!(f, " [{code}]")?;
        }
        match &self.trace_id {
            Some(trace_id) => write!(f, " (trace {trace_id})"),
            None => Ok(()),
        }
    }
}

/// Why a request brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection, or one that broke.
    #[error("the API cannot be reached")]
    Transport(#[source] reqwest::Error),
    /// No complete answer in time.
    #[error("the API did not answer in time")]
    TimedOut,
    /// 401, also with a new token.
    #[error("the API refuses the access token (401)")]
    Unauthorized,
    /// 429: the gateway counts more requests than it allows.
    #[error("the API says there are too many requests (429)")]
    Throttled {
        /// `Retry-After`, where given.
        retry_after: Option<Duration>,
    },
    /// Any other status that is not 200.
    #[error("the API answered with status {0}")]
    Status(u16),
    /// An answer in an encoding that was not offered.
    #[error("the answer is encoded as {0:?}, which was not offered")]
    Encoded(String),
    /// An answer that is not JSON: HTML, or cut off.
    #[error("the API's answer is not JSON: {0}")]
    NotJson(String),
    /// An answer over the size that is read.
    #[error("the API's answer is larger than {0} bytes")]
    TooLarge(usize),
    /// JSON of another shape than the request asked for.
    #[error("the API's answer has another shape than was asked for: {0}")]
    Shape(String),
    /// Errors that concern the whole request.
    #[error("the API reports: {}", list(.0))]
    Graphql(Vec<GraphqlError>),
    /// Nothing was sent, because the API was found to be away and has not answered a probe since.
    #[error("the API is away")]
    Away,
    /// Any of these, of which the API names the trace.
    #[error("{} (trace {trace_id})", chain(.error))]
    Traced {
        /// What Visma's support asks for.
        trace_id: String,
        /// The failure itself.
        error: Box<UpstreamError>,
    },
    /// No access token.
    #[error("no access token: {0}")]
    Token(String),
    /// The shared budget cannot be asked.
    #[error("the request budget cannot be read")]
    Budget(#[source] sqlx::Error),
}

impl UpstreamError {
    /// The failure itself, whether or not its trace is known.
    pub(super) fn itself(&self) -> &Self {
        match self {
            Self::Traced { error, .. } => error.itself(),
            other => other,
        }
    }
}

/// Several errors in one line, the first three of them.
pub(super) fn list(errors: &[GraphqlError]) -> String {
    errors.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
