//! The API over HTTP: statuses, bodies of bounded size, and how long a refusal asks to wait.

use std::time::{Duration, SystemTime};

use reqwest::{
    Response, StatusCode,
    header::{self, HeaderMap},
};

use super::{
    UpstreamError,
    envelope::Answer,
    memory::{ANSWER_BYTES_MAX, Reservation},
};
use crate::domain::DatabaseTime;

/// What the API and its gateway name their traces by; they cover answers without JSON, too.
const TRACE_HEADERS: [&str; 2] = ["vbnxt-trace-id", "x-vbc-traceid"];

/// Reads an answer of the API.
pub(super) async fn read_answer(
    response: Response,
    mut memory: Reservation,
    started_at: DatabaseTime,
) -> Result<Answer, UpstreamError> {
    let status = response.status();
    match status {
        StatusCode::UNAUTHORIZED => return Err(UpstreamError::Unauthorized),
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(UpstreamError::Throttled { retry_after: retry_after(response.headers()) });
        }
        // GraphQL servers may answer an invalid request with 400 and the usual body.
        StatusCode::OK | StatusCode::BAD_REQUEST => {}
        other => return Err(UpstreamError::Status(other.as_u16())),
    }
    let bytes = read_body(response, ANSWER_BYTES_MAX, Some(&mut memory)).await?;
    match Answer::parse(bytes, Some(memory), started_at) {
        Err(_) if status != StatusCode::OK => Err(UpstreamError::Status(status.as_u16())),
        parsed => parsed,
    }
}

/// Reads a body up to a size.
pub(super) async fn read_body(
    mut response: Response,
    bytes_max: usize,
    mut memory: Option<&mut Reservation>,
) -> Result<Vec<u8>, UpstreamError> {
    if let Some(encoding) = foreign_encoding(response.headers()) {
        return Err(UpstreamError::Encoded(encoding));
    }
    let expected = response.content_length().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
    let mut body = Vec::with_capacity(expected.min(bytes_max));
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        let bytes = body.len() + chunk.len();
        if bytes > bytes_max {
            return Err(UpstreamError::TooLarge(bytes_max));
        }
        if let Some(memory) = &mut memory {
            memory.cover(bytes).await;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An encoding that is left on the body. The client takes off, with its header, the one that it offers.
fn foreign_encoding(headers: &HeaderMap) -> Option<String> {
    let encoding = String::from_utf8_lossy(headers.get(header::CONTENT_ENCODING)?.as_bytes()).into_owned();
    let is_none = |encoding: &str| encoding.is_empty() || encoding.eq_ignore_ascii_case("identity");
    (!is_none(encoding.trim())).then(|| encoding.chars().take(50).collect())
}

/// The trace that the headers name, or both.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<String> {
    let trace = |name: &&str| Some(headers.get(*name)?.to_str().ok()?.chars().take(100).collect::<String>());
    let mut traces: Vec<String> = TRACE_HEADERS.iter().filter_map(trace).filter(|trace| !trace.is_empty()).collect();
    traces.dedup();
    (!traces.is_empty()).then(|| traces.join(", "))
}

pub(super) fn broken(error: reqwest::Error) -> UpstreamError {
    if error.is_timeout() && !error.is_connect() {
        UpstreamError::TimedOut
    } else {
        UpstreamError::Transport(error.without_url())
    }
}

/// `Retry-After`: seconds, with tolerance for a fraction, or a date, which is compared with the answer's own.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let wanted = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = wanted.parse::<f64>() {
        return Duration::try_from_secs_f64(if seconds < 0.0 { 0.0 } else { seconds }).ok();
    }
    let until = httpdate::parse_http_date(wanted).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    Some(until.duration_since(now.unwrap_or_else(now_here)).unwrap_or_default())
}

#[expect(clippy::disallowed_methods, reason = "a date without another to compare it with; the pause is bounded")]
fn now_here() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(wanted: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, wanted.parse().unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn traces_are_read_from_either_header() {
        let mut headers = HeaderMap::new();
        assert_eq!(trace_id(&headers), None);
        headers.insert("x-vbc-traceid", "0af7".parse().unwrap());
        assert_eq!(trace_id(&headers).as_deref(), Some("0af7"));
        headers.insert("vbnxt-trace-id", "1bc8".parse().unwrap());
        assert_eq!(trace_id(&headers).as_deref(), Some("1bc8, 0af7"));
    }

    #[test]
    fn a_pause_may_be_seconds_or_a_date() {
        let now = Some("Wed, 25 Nov 2026 16:00:00 GMT");
        assert_eq!(pause("7", None), Some(Duration::from_secs(7)));
        assert_eq!(pause(" 1.5 ", None), Some(Duration::from_millis(1_500)));
        assert_eq!(pause("-3", None), Some(Duration::ZERO));
        assert_eq!(pause("Wed, 25 Nov 2026 16:00:20 GMT", now), Some(Duration::from_secs(20)));
        assert_eq!(pause("Wednesday, 25-Nov-26 16:00:20 GMT", now), Some(Duration::from_secs(20)));
        assert_eq!(pause("Wed, 25 Nov 2026 15:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT", None), Some(Duration::ZERO));
    }

    #[test]
    fn an_encoding_that_is_left_on_a_body_is_named() {
        let encoding = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, header::HeaderValue::from_bytes(value).unwrap());
            foreign_encoding(&headers)
        };
        assert_eq!(encoding(b"br").as_deref(), Some("br"));
        assert_eq!(encoding(b"gzip, br").as_deref(), Some("gzip, br"));
        assert_eq!(encoding(b"\xff").as_deref(), Some("\u{fffd}"));
        assert_eq!((encoding(b"Identity"), encoding(b"")), (None, None));
        assert_eq!(foreign_encoding(&HeaderMap::new()), None);
    }

    #[test]
    fn what_is_no_pause_is_none() {
        for wanted in ["", "soon", "1e999", "inf", "7 seconds"] {
            assert_eq!(pause(wanted, None), None, "{wanted}");
        }
        assert_eq!(pause("NaN", None), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
