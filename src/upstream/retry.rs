//! What to do about a failed request: one pure function.

use std::time::Duration;

use super::{GraphqlError, TOO_MANY_IN_PROGRESS, UpstreamError};

/// The longest `Retry-After` that is obeyed; the gateway's window is a minute.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The pause when the gateway gives none.
const THROTTLED_PAUSE: Duration = Duration::from_secs(10);
/// The pause after too many requests in progress; a client in production waits as long.
const CROWDED_PAUSE: Duration = Duration::from_secs(2);
/// Codes of GraphQL validation: the request does not fit the schema, so the schema must have changed.
const VALIDATION_CODES: [&str; 5] = [
    "FIELDS_ON_CORRECT_TYPE",
    "KNOWN_ARGUMENT_NAMES",
    "KNOWN_TYPE_NAMES",
    "ARGUMENTS_OF_CORRECT_TYPE",
    "VALIDATION_FAILED",
];

/// What helps against a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nobody sends anything for this long; the rows are not to blame.
    Wait(Duration),
    /// The API is away or refuses us altogether: probe until it is back; the rows are not to blame yet.
    Probe,
    /// Load the tables' descriptions again.
    Redescribe,
    /// Ask for fewer rows, down to one, to find the culprit.
    Split,
}

/// Decides by status, then by codes, then by kind; never by the wording of a message.
pub fn remedy(error: &UpstreamError) -> Remedy {
    match error {
        UpstreamError::Throttled { retry_after } => {
            Remedy::Wait(retry_after.unwrap_or(THROTTLED_PAUSE).clamp(Duration::from_secs(1), RETRY_AFTER_MAX))
        }
        UpstreamError::Transport(_)
        | UpstreamError::Unauthorized
        | UpstreamError::Token(_)
        | UpstreamError::Budget(_)
        | UpstreamError::Status(_)
        | UpstreamError::NotJson(_) => Remedy::Probe,
        UpstreamError::TimedOut | UpstreamError::TooLarge(_) | UpstreamError::Shape(_) => Remedy::Split,
        UpstreamError::Graphql(errors) => remedy_for(errors),
    }
}

/// The same for errors of one part of an answer.
pub(super) fn remedy_for(errors: &[GraphqlError]) -> Remedy {
    if errors.iter().any(|error| error.has_code(TOO_MANY_IN_PROGRESS)) {
        Remedy::Wait(CROWDED_PAUSE)
    } else if errors.iter().any(|error| VALIDATION_CODES.iter().any(|code| error.has_code(code))) {
        Remedy::Redescribe
    } else {
        Remedy::Split
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graphql(code: Option<&str>) -> UpstreamError {
        let codes = code.into_iter().map(str::to_owned).collect();
        UpstreamError::Graphql(vec![GraphqlError { message: "m".into(), codes, path: vec![] }])
    }

    #[test]
    fn each_failure_has_its_remedy() {
        let seconds = Duration::from_secs;
        for (error, expected) in [
            (UpstreamError::Throttled { retry_after: None }, Remedy::Wait(seconds(10))),
            (UpstreamError::Throttled { retry_after: Some(seconds(7)) }, Remedy::Wait(seconds(7))),
            (UpstreamError::Throttled { retry_after: Some(seconds(0)) }, Remedy::Wait(seconds(1))),
            (UpstreamError::Throttled { retry_after: Some(seconds(86_400)) }, Remedy::Wait(seconds(120))),
            (UpstreamError::Unauthorized, Remedy::Probe),
            (UpstreamError::Token("x".into()), Remedy::Probe),
            (UpstreamError::Status(500), Remedy::Probe),
            (UpstreamError::Status(503), Remedy::Probe),
            (UpstreamError::Status(404), Remedy::Probe),
            (UpstreamError::NotJson("<html>".into()), Remedy::Probe),
            (UpstreamError::TimedOut, Remedy::Split),
            (UpstreamError::TooLarge(1), Remedy::Split),
            (UpstreamError::Shape("x".into()), Remedy::Split),
            (graphql(Some("OUTSTANDING_LIMIT_EXCEEDED")), Remedy::Wait(seconds(2))),
            (graphql(Some("FIELDS_ON_CORRECT_TYPE")), Remedy::Redescribe),
            (graphql(Some("SOMETHING_NEW")), Remedy::Split),
            (graphql(None), Remedy::Split),
        ] {
            assert_eq!(remedy(&error), expected, "{error}");
        }
    }
}
