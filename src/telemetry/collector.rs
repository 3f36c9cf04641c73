//! Where traces go, by the variables of OpenTelemetry.

use url::Url;

use crate::config::ConfigError;

/// The first of them that is set says where the collector is.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// The first of them that is set says what it speaks.
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
/// The protocol that is built in.
const PROTOCOL: &str = "http/protobuf";
/// Turns everything off.
const DISABLED: &str = "OTEL_SDK_DISABLED";

/// The variable that names the collector, if traces are to be exported. An empty one counts as absent.
pub(super) fn collector(value: impl Fn(&str) -> Option<String>) -> Result<Option<&'static str>, ConfigError> {
    let set = |variables: &[&'static str]| {
        let value = |variable: &&'static str| Some((*variable, value(variable)?));
        variables.iter().filter_map(value).find(|(_, value)| !value.is_empty())
    };
    let is_disabled = set(&[DISABLED]).is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
    let Some((variable, endpoint)) = set(&ENDPOINTS).filter(|_| !is_disabled) else { return Ok(None) };
    // It is not repeated: there may be a password in it.
    if !Url::parse(&endpoint).is_ok_and(|url| ["http", "https"].contains(&url.scheme())) {
        return Err(wrong(variable, "not the address of a collector, such as http://localhost:4318"));
    }
    match set(&PROTOCOLS) {
        Some((variable, protocol)) if !protocol.eq_ignore_ascii_case(PROTOCOL) => {
            Err(wrong(variable, &format!("only {PROTOCOL} is built in")))
        }
        _ => Ok(Some(variable)),
    }
}

pub(super) fn wrong(variable: &str, problem: &str) -> ConfigError {
    ConfigError::Wrong { variable: variable.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "http://localhost:4318";

    fn of(pairs: &[(&str, &str)]) -> Result<Option<&'static str>, String> {
        let value = |name: &str| pairs.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        collector(value).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_exported_unless_the_environment_names_a_collector() {
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[(ENDPOINTS[1], ""), ("OTEL_SERVICE_NAME", "mirror")]), Ok(None));
        assert_eq!(of(&[(ENDPOINTS[1], HERE), (DISABLED, "true")]), Ok(None));
        assert_eq!(of(&[(ENDPOINTS[1], HERE), (DISABLED, "false")]), Ok(Some(ENDPOINTS[1])));
        assert_eq!(of(&[(ENDPOINTS[1], "?"), (ENDPOINTS[0], HERE)]), Ok(Some(ENDPOINTS[0])));
        assert_eq!(of(&[(ENDPOINTS[1], HERE), (PROTOCOLS[1], PROTOCOL)]), Ok(Some(ENDPOINTS[1])));
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_repeated() {
        for endpoint in ["localhost:4318", "http://user:hunter2@", "grpc://hunter2:4317"] {
            let error = of(&[(ENDPOINTS[1], endpoint)]).unwrap_err();
            assert!(error.starts_with(ENDPOINTS[1]) && !error.contains("hunter2"), "{error}");
        }
        let error = of(&[(ENDPOINTS[1], HERE), (PROTOCOLS[1], PROTOCOL), (PROTOCOLS[0], "grpc")]).unwrap_err();
        assert!(error.starts_with(PROTOCOLS[0]), "{error}");
    }
}
