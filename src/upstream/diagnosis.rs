//! Whose a failed request is: one pure function, by status, then by codes, then by kind; never by a message's wording.
//!
//! | owner | pause | what to do |
//! | --- | --- | --- |
//! | [`Owner::Api`] | some | nobody sends anything for so long |
//! | [`Owner::Api`] | none | the API may be away: [`Upstream::examine`](super::Upstream::examine) probes it |
//! | [`Owner::Tenant`] | some | this tenant is crowded: leave it alone for so long |
//! | [`Owner::Schema`] | none | describe the tables anew and ask again |
//! | [`Owner::Target`] | none | some row, or the table: ask for fewer rows, each target apart |
//! | [`Owner::Database`] | none | the mirror's own database cannot be asked |

use std::time::Duration;

use super::{AskError, GraphqlError, UpstreamError};
use crate::{
    domain::{Diagnosis, Owner},
    telemetry::chain,
};

/// The longest `Retry-After` that is obeyed; the gateway's window is a minute.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// The pause when the gateway gives none.
const THROTTLED_PAUSE: Duration = Duration::from_secs(10);
/// The pause after too many requests in progress; a client in production waits as long.
const CROWDED_PAUSE: Duration = Duration::from_secs(2);
/// Code of a request that was refused because too many of the same company are under way.
const CROWDED_CODE: &str = "OUTSTANDING_LIMIT_EXCEEDED";
/// Codes of GraphQL validation: the request does not fit the schema, so the schema must have changed.
const VALIDATION_CODES: [&str; 5] = [
    "FIELDS_ON_CORRECT_TYPE",
    "KNOWN_ARGUMENT_NAMES",
    "KNOWN_TYPE_NAMES",
    "ARGUMENTS_OF_CORRECT_TYPE",
    "VALIDATION_FAILED",
];

/// Whose the failure of a whole request is, as far as the failure alone tells.
pub fn diagnose(error: &UpstreamError) -> Diagnosis {
    let (owner, pause) = match error.itself() {
        UpstreamError::Throttled { retry_after } => (Owner::Api, Some(bounded(retry_after.unwrap_or(THROTTLED_PAUSE)))),
        UpstreamError::Transport(_)
        | UpstreamError::Unauthorized
        | UpstreamError::Token(_)
        | UpstreamError::Status(_)
        | UpstreamError::Encoded(_)
        | UpstreamError::NotJson(_)
        | UpstreamError::Traced { .. }
        | UpstreamError::Away => (Owner::Api, None),
        UpstreamError::Budget(_) => (Owner::Database, None),
        UpstreamError::TimedOut | UpstreamError::TooLarge(_) | UpstreamError::Shape(_) => (Owner::Target, None),
        UpstreamError::Graphql(errors) => by_codes(errors),
    };
    Diagnosis { owner, pause, reason: chain(error).to_string() }
}

/// How long a wish to wait is obeyed.
pub(super) fn bounded(retry_after: Duration) -> Duration {
    retry_after.clamp(Duration::from_secs(1), RETRY_AFTER_MAX)
}

/// Whose the failure of one part of an answer is.
pub fn diagnose_part(error: &AskError) -> Diagnosis {
    let (owner, pause) = match error {
        AskError::Graphql(errors) => by_codes(errors),
        AskError::Shape(_) | AskError::OneKey { .. } | AskError::Unanswered => (Owner::Target, None),
    };
    Diagnosis { owner, pause, reason: error.to_string() }
}

fn by_codes(errors: &[GraphqlError]) -> (Owner, Option<Duration>) {
    if errors.iter().any(|error| error.has_code(CROWDED_CODE)) {
        (Owner::Tenant, Some(CROWDED_PAUSE))
    } else if errors.iter().any(|error| VALIDATION_CODES.iter().any(|code| error.has_code(code))) {
        (Owner::Schema, None)
    } else {
        (Owner::Target, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graphql(code: Option<&str>) -> UpstreamError {
        UpstreamError::Graphql(errors(code))
    }

    fn errors(code: Option<&str>) -> Vec<GraphqlError> {
        let codes = code.into_iter().map(str::to_owned).collect();
        vec![GraphqlError { message: "m".into(), codes, path: vec![], lines: vec![], trace_id: None }]
    }

    #[test]
    fn each_failure_has_its_owner() {
        let seconds = Duration::from_secs;
        let throttled = |retry_after| UpstreamError::Throttled { retry_after };
        for (error, owner, pause) in [
            (throttled(None), Owner::Api, Some(seconds(10))),
            (throttled(Some(seconds(7))), Owner::Api, Some(seconds(7))),
            (throttled(Some(seconds(0))), Owner::Api, Some(seconds(1))),
            (throttled(Some(seconds(86_400))), Owner::Api, Some(seconds(120))),
            (UpstreamError::Unauthorized, Owner::Api, None),
            (UpstreamError::Token("x".into()), Owner::Api, None),
            (UpstreamError::Status(500), Owner::Api, None),
            (UpstreamError::Encoded("br".into()), Owner::Api, None),
            (UpstreamError::Status(404), Owner::Api, None),
            (UpstreamError::NotJson("<html>".into()), Owner::Api, None),
            (UpstreamError::Away, Owner::Api, None),
            (UpstreamError::Budget(sqlx::Error::PoolTimedOut), Owner::Database, None),
            (UpstreamError::TimedOut, Owner::Target, None),
            (UpstreamError::TooLarge(1), Owner::Target, None),
            (UpstreamError::Shape("x".into()), Owner::Target, None),
            (graphql(Some("OUTSTANDING_LIMIT_EXCEEDED")), Owner::Tenant, Some(seconds(2))),
            (graphql(Some("FIELDS_ON_CORRECT_TYPE")), Owner::Schema, None),
            (graphql(Some("SOMETHING_NEW")), Owner::Target, None),
            (graphql(None), Owner::Target, None),
        ] {
            let diagnosis = diagnose(&error);
            assert_eq!((diagnosis.owner, diagnosis.pause), (owner, pause), "{error}");
        }
    }

    #[test]
    fn a_trace_changes_nothing_but_the_words() {
        let retry_after = Some(Duration::from_secs(7));
        let error = Box::new(UpstreamError::Throttled { retry_after });
        let diagnosis = diagnose(&UpstreamError::Traced { trace_id: "0af7".into(), error });
        assert_eq!((diagnosis.owner, diagnosis.pause), (Owner::Api, retry_after));
        assert!(diagnosis.reason.ends_with("(429) (trace 0af7)"), "{}", diagnosis.reason);
    }

    #[test]
    fn a_part_fails_by_the_same_rules() {
        let owner = |error: AskError| diagnose_part(&error).owner;
        assert_eq!(owner(AskError::Graphql(errors(Some("KNOWN_TYPE_NAMES")))), Owner::Schema);
        assert_eq!(owner(AskError::Graphql(errors(Some("OUTSTANDING_LIMIT_EXCEEDED")))), Owner::Tenant);
        assert_eq!(owner(AskError::Graphql(errors(None))), Owner::Target);
        assert_eq!(owner(AskError::Shape("x".into())), Owner::Target);
        assert_eq!(owner(AskError::Unanswered), Owner::Target);
    }
}
