//! The access token: client credentials at Visma Connect, cached, renewed early and after a 401.
//!
//! Whoever comes while a token is valid gets it at once; a token that is near its end is renewed behind. Those who come
//! while there is none wait for one request together, and share its failure, too.
//!
//! Request and answer as in the API notes: a form POST with HTTP Basic, id and secret form-encoded first
//! (RFC 6749, section 2.3.1); `access_token` and `expires_in` in seconds come back, no refresh token.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder, StatusCode, header::HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded::byte_serialize;

use super::{
    UpstreamError,
    diagnosis::bounded,
    http::{read_body, retry_after},
};
use crate::{
    config::UpstreamSettings,
    domain::json::{Json, Kind, Members, without_mark},
    telemetry::chain,
};

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(60);
/// When a token is renewed whose lifetime is not told.
const RENEW_UNTOLD: Duration = Duration::from_secs(300);
/// A longer lifetime is taken for a mistake.
const LIFETIME_SECONDS_MAX: u64 = 366 * 86_400;
/// A token is renewed at least so often.
const RENEW_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// The pause after a renewal that failed while the old token still holds.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// Bytes of a token answer that are read.
const ANSWER_BYTES_MAX: usize = 65_536;

/// Holds the current token.
#[derive(Debug)]
pub(super) struct TokenCache {
    settings: UpstreamSettings,
    http: Client,
    /// Never held while something is waited for.
    state: Mutex<State>,
    /// Held by the one who asks.
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// The last request, if it failed.
    failed: Option<Failed>,
}

#[derive(Debug, Clone)]
struct Token {
    text: SecretString,
    renew_at: Instant,
    /// `None` where the answer did not tell.
    expires_at: Option<Instant>,
}

/// Why there is no token.
#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    /// The endpoint wishes to be left alone for so long.
    pause: Option<Duration>,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, pause: None }
    }
}

/// A request that failed.
#[derive(Debug, Clone)]
struct Failed {
    at: Instant,
    /// Nothing is asked before.
    again_at: Instant,
    reason: String,
}

impl TokenCache {
    pub(super) fn new(settings: UpstreamSettings, http: Client) -> Self {
        Self { settings, http, state: Mutex::default(), asking: Arc::default() }
    }

    /// The current token, or a new one.
    pub(super) async fn get(self: &Arc<Self>) -> Result<SecretString, UpstreamError> {
        let now = Instant::now();
        let Some(token) = self.valid(now) else { return self.wait_for_new(now).await };
        if token.renew_at <= now {
            self.renew_behind();
        }
        Ok(token.text)
    }

    /// Forgets a token that the API refused, unless it has been replaced meanwhile.
    pub(super) fn forget(&self, refused: &SecretString) {
        let is_refused = |token: &mut Token| token.text.expose_secret() == refused.expose_secret();
        drop(self.state.lock().token.take_if(is_refused));
    }

    fn valid(&self, now: Instant) -> Option<Token> {
        self.state.lock().token.clone().filter(|token| token.expires_at.is_none_or(|end| now < end))
    }

    /// What a request brings that was under way or is made now.
    async fn wait_for_new(&self, since: Instant) -> Result<SecretString, UpstreamError> {
        let _asking = self.asking.lock().await;
        if let Some(token) = self.valid(Instant::now()) {
            return Ok(token.text);
        }
        let now = Instant::now();
        let shared = self.state.lock().failed.clone().filter(|failed| failed.at >= since || now < failed.again_at);
        match shared {
            Some(failed) => Err(UpstreamError::Token(failed.reason)),
            None => self.ask().await.map(|token| token.text).map_err(|failure| UpstreamError::Token(failure.reason)),
        }
    }

    /// Renews the token in a task of its own, if nobody does already.
    fn renew_behind(self: &Arc<Self>) {
        let Ok(asking) = Arc::clone(&self.asking).try_lock_owned() else { return };
        let cache = Arc::clone(self);
        // Ends by itself: the client bounds every request.
        tokio::spawn(async move {
            if let Err(failure) = cache.ask().await {
                tracing::warn!(error = failure.reason, "the access token is not renewed yet; the old one still holds");
                if let Some(token) = &mut cache.state.lock().token {
                    token.renew_at = Instant::now() + RENEWAL_PAUSE.max(failure.pause.unwrap_or_default());
                }
            }
            drop(asking);
        });
    }

    /// Asks for a token and keeps what comes of it.
    async fn ask(&self) -> Result<Token, Failure> {
        let result = self.request().await;
        let now = Instant::now();
        let mut state = self.state.lock();
        match &result {
            Ok(token) => *state = State { token: Some(token.clone()), failed: None },
            Err(Failure { reason, pause }) => {
                let again_at = now + pause.unwrap_or_default();
                state.failed = Some(Failed { at: now, again_at, reason: reason.clone() });
            }
        }
        result
    }

    async fn request(&self) -> Result<Token, Failure> {
        let asked_at = Instant::now();
        let response = self.question().send().await.map_err(|error| chain(&error.without_url()).to_string())?;
        let (status, pause) = (response.status(), retry_after(response.headers()).map(bounded));
        let body = read_body(response, ANSWER_BYTES_MAX, None).await.map_err(|error| chain(&error).to_string())?;
        let read = Answer::read(without_mark(&body));
        if !status.is_success() {
            return Err(Failure { reason: refusal(status, &read), pause });
        }
        Ok(Token::new(&read?, asked_at)?)
    }

    fn question(&self) -> RequestBuilder {
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let mut form = vec![("grant_type", "client_credentials"), ("scope", self.settings.scope.as_str())];
        form.extend(self.settings.tenant_id.as_deref().map(|tenant| ("tenant_id", tenant)));
        let secret = encode(self.settings.client_secret.expose_secret());
        self.http
            .post(self.settings.token_url.clone())
            .basic_auth(encode(&self.settings.client_id), Some(secret))
            .form(&form)
    }
}

/// What the endpoint answered, as far as it is understood.
struct Answer<'a>(Members<'a>);

impl<'a> Answer<'a> {
    /// Nothing of the body is ever repeated in the reason: it may hold a token.
    fn read(body: &'a [u8]) -> Result<Self, String> {
        let because = |what: &str| format!("the token endpoint's answer {what}");
        if body.trim_ascii_start().starts_with(b"<") {
            return Err(because("is HTML or XML, not JSON"));
        }
        let text = std::str::from_utf8(body).map_err(|_| because("is not UTF-8"))?;
        let json = Json::parse(text).map_err(|error| match text.trim().is_empty() {
            true => because("is empty"),
            false => because(&format!("is not JSON: {error}")),
        })?;
        json.members().map(Self).ok_or_else(|| because("is not a JSON object"))
    }

    /// OAuth's `error`, with its description (RFC 6749, section 5.2); `None` when both say nothing.
    fn error(&self) -> Option<String> {
        let error = self.0.get("error").filter(|error| error.kind() != Kind::Null)?;
        let error = error.storable_text().map_or_else(|| error.compact(), Into::into);
        let description = self.0.get("error_description").and_then(Json::storable_text).unwrap_or_default();
        match (error.trim(), description.trim()) {
            ("", "") => None,
            ("", description) => Some(description.to_owned()),
            (error, "") => Some(error.to_owned()),
            (error, description) => Some(format!("{error} ({description})")),
        }
    }

    fn access_token(&self) -> Result<SecretString, String> {
        let because = |what: &str| format!("the access_token of the token endpoint's answer {what}");
        let Some(token) = self.0.get("access_token") else {
            return Err("the token endpoint's answer has no access_token".to_owned());
        };
        let token = token.text().ok_or_else(|| because("is not a text"))?;
        match token.trim() {
            "" => Err(because("is empty")),
            token if HeaderValue::from_str(token).is_err() => Err(because("has characters that no header can carry")),
            token => Ok(token.into()),
        }
    }
}

impl Token {
    fn new(answer: &Answer<'_>, asked_at: Instant) -> Result<Self, String> {
        // An error counts, with whichever status it comes.
        let text = answer.access_token().map_err(|reason| answer.error().map_or(reason, bounded_text))?;
        let lifetime = answer.0.get("expires_in").and_then(lifetime);
        tracing::debug!(lifetime_s = lifetime.map(|lifetime| lifetime.as_secs()), "new access token");
        Ok(Self {
            text,
            renew_at: asked_at + renew_after(lifetime),
            expires_at: lifetime.map(|lifetime| asked_at + lifetime),
        })
    }
}

/// `expires_in`, where it is a number of seconds that makes sense.
fn lifetime(expires_in: Json<'_>) -> Option<Duration> {
    let seconds: u64 = expires_in.as_str().parse().ok()?;
    (1..=LIFETIME_SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// A token that lives shorter than twice the margin is renewed at half its life.
fn renew_after(lifetime: Option<Duration>) -> Duration {
    let early = |lifetime: Duration| lifetime.saturating_sub(EARLY).max(lifetime / 2).min(RENEW_AFTER_MAX);
    lifetime.map_or(RENEW_UNTOLD, early)
}

/// Whether an answer's bytes bring a token, or why not.
#[cfg(any(test, fuzzing))]
pub(super) fn read(body: &[u8]) -> Result<(), String> {
    Token::new(&Answer::read(without_mark(body))?, Instant::now()).map(drop)
}

fn refusal(status: StatusCode, answer: &Result<Answer<'_>, String>) -> String {
    let status = status.as_u16();
    match answer.as_ref().ok().and_then(Answer::error) {
        Some(error) => format!("{}, status {status}", bounded_text(error)),
        None => format!("the token endpoint answered with status {status}"),
    }
}

fn bounded_text(text: String) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A token endpoint that gives these answers, one after the other, each after some milliseconds.
    async fn endpoint(answers: &'static [(u64, u16, &'static str)]) -> (Arc<TokenCache>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            for (delay, status, body) in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                _ = socket.read(&mut request).await;
                count.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(*delay)).await;
                let patience = if *status == 429 { "retry-after: 90.5\r\n" } else { "" };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\n{patience}content-length: {length}\r\n\r\n{body}"
                );
                _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        (Arc::new(TokenCache::new(settings(&url), client())), asked)
    }

    fn client() -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new()
    }

    fn settings(url: &str) -> UpstreamSettings {
        UpstreamSettings {
            client_id: "id".into(),
            client_secret: "secret".into(),
            token_url: url.parse().unwrap(),
            scope: "scope".into(),
            tenant_id: None,
            graphql_url: url.parse().unwrap(),
            requests_per_minute: 600,
            in_flight_max: 60,
            fetch_rows_max: 500,
            timezone: chrono_tz::UTC,
        }
    }

    async fn text(cache: &Arc<TokenCache>) -> String {
        cache.get().await.unwrap().expose_secret().to_owned()
    }

    #[tokio::test]
    async fn all_who_wait_for_the_first_token_share_one_request() {
        let (cache, asked) = endpoint(&[(100, 200, "\u{feff}{\"access_token\":\"a\",\"expires_in\":3600}")]).await;
        let texts = join_all((0..20).map(|_| text(&cache))).await;
        assert!(texts.iter().all(|text| text == "a"));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn all_who_wait_share_a_failure_and_the_next_one_asks_again() {
        const REFUSED: &str = r#"{"error":"invalid_client"}"#;
        let (cache, asked) = endpoint(&[(100, 400, REFUSED), (0, 200, r#"{"access_token":"a"}"#)]).await;
        let results = join_all((0..20).map(|_| cache.get())).await;
        assert!(
            results.iter().all(|result| matches!(result, Err(UpstreamError::Token(why)) if why.contains("invalid")))
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(text(&cache).await, "a");
    }

    #[tokio::test]
    async fn a_token_near_its_end_is_served_while_another_is_fetched() {
        let (cache, _) =
            endpoint(&[(0, 200, r#"{"access_token":"a","expires_in":3600}"#), (200, 200, r#"{"access_token":"b"}"#)])
                .await;
        assert_eq!(text(&cache).await, "a");
        cache.state.lock().token.as_mut().unwrap().renew_at = Instant::now();
        let begun = Instant::now();
        assert_eq!((text(&cache).await, text(&cache).await), ("a".into(), "a".into()));
        assert!(begun.elapsed() < Duration::from_millis(150));
        while text(&cache).await == "a" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn a_refused_token_is_not_served_again() {
        let (cache, _) = endpoint(&[(0, 200, r#"{"access_token":"a"}"#), (0, 200, r#"{"access_token":"b"}"#)]).await;
        let first = cache.get().await.unwrap();
        cache.forget(&"another".into());
        assert_eq!(text(&cache).await, "a");
        cache.forget(&first);
        assert_eq!(text(&cache).await, "b");
    }

    #[test]
    fn a_lifetime_that_makes_no_sense_is_not_told() {
        for text in [
            "null",
            "\"3600\"",
            "3600.5",
            "3600.0",
            "-1",
            "0",
            "{}",
            "[]",
            "true",
            "1e30",
            "9007199254740992",
            "99999999999999999999999999",
            r#"{"$serde_json::private::Number":"3600"}"#,
        ] {
            assert_eq!(lifetime(Json::parse(text).unwrap()), None, "{text}");
            let body = format!(r#"{{"expires_in":{text},"access_token":"a"}}"#);
            let token = Token::new(&Answer::read(body.as_bytes()).unwrap(), Instant::now()).unwrap();
            assert!(token.expires_at.is_none() && token.renew_at > Instant::now() + Duration::from_secs(60), "{text}");
        }
        assert_eq!(renew_after(None), Duration::from_secs(300));
    }

    #[test]
    fn a_token_is_renewed_before_its_end() {
        let renewed = |seconds| renew_after(lifetime(Json::parse(seconds).unwrap())).as_secs();
        assert_eq!(["3600", "100", "1000000"].map(renewed), [3_540, 50, 86_400]);
    }

    #[test]
    fn the_reason_says_what_was_wrong_and_repeats_no_token() {
        let reason = |body: &str| {
            Answer::read(body.as_bytes()).and_then(|answer| Token::new(&answer, Instant::now())).unwrap_err()
        };
        for (body, expected) in [
            ("", "is empty"),
            ("<html>away</html>", "is HTML"),
            ("[]", "is not a JSON object"),
            (r#"{"access_token":"secret""#, "is not JSON: EOF"),
            (r#"{"token":"secret"}"#, "has no access_token"),
            (r#"{"access_token":null}"#, "is not a text"),
            (r#"{"access_token":" "}"#, "is empty"),
            (r#"{"access_token":"secret\r\nX-Other: 1"}"#, "no header can carry"),
            (r#"{"error":"invalid_scope","error_description":"no such scope"}"#, "invalid_scope (no such scope)"),
            (r#"{"error":{"code":7},"error_description":5}"#, r#"{"code":7}"#),
            (r#"{"error":""}"#, "has no access_token"),
            (r#"{"error":" ","error_description":"no such scope"}"#, "no such scope"),
            (r#"{"$serde_json::private::Number":"1"}"#, "has no access_token"),
        ] {
            assert!(reason(body).contains(expected), "{body}: {}", reason(body));
            assert!(!reason(body).contains("secret"), "{body}: {}", reason(body));
        }
        assert!(Answer::read(b"\xff").is_err());
        let refused = |body: &str| refusal(StatusCode::BAD_REQUEST, &Answer::read(body.as_bytes()));
        assert_eq!(refused(r#"{"error":"invalid_client","error_description":null}"#), "invalid_client, status 400");
        assert_eq!(refused("<html>"), "the token endpoint answered with status 400");
        assert!(refused(&format!(r#"{{"error":"{}"}}"#, "x".repeat(5_000))).len() < 400);
    }

    #[tokio::test]
    async fn an_endpoint_that_asks_to_wait_is_left_alone() {
        let (cache, asked) = endpoint(&[(0, 429, "{}"), (0, 200, r#"{"access_token":"a"}"#)]).await;
        assert!(matches!(cache.get().await, Err(UpstreamError::Token(why)) if why.contains("429")));
        assert!(cache.get().await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), 1, "asked again before the time told");
        cache.state.lock().failed.as_mut().unwrap().again_at = Instant::now();
        assert_eq!(text(&cache).await, "a");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_a_token_or_a_reason(text in "[\\[\\]{}\":,a-f_0-9.eE\\\\u -]{0,60}") {
            _ = Answer::read(text.as_bytes()).and_then(|answer| Token::new(&answer, Instant::now()));
            for value in ["access_token", "expires_in", "error"] {
                let body = format!(r#"{{"access_token":"a","{value}":{text}}}"#);
                _ = Answer::read(body.as_bytes()).and_then(|answer| Token::new(&answer, Instant::now()));
            }
        }
    }
}
