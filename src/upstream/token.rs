//! The access token: client credentials at Visma Connect, cached, renewed early and after a 401.
//!
//! Whoever comes while a token is valid gets it at once; a token that is near its end is renewed behind. Those who come
//! while there is none wait for one request together, and share its failure, too.
//!
//! Request and answer as in the API notes: a form POST with HTTP Basic, id and secret form-encoded first
//! (RFC 6749, section 2.3.1); `access_token` and `expires_in` in seconds come back, no refresh token.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::form_urlencoded::byte_serialize;

use super::{UpstreamError, envelope::without_mark, http::read_body};
use crate::{config::UpstreamSettings, telemetry::chain};

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
    /// When the last request failed, and why.
    failure: Option<(Instant, String)>,
}

#[derive(Debug, Clone)]
struct Token {
    text: SecretString,
    renew_at: Instant,
    /// `None` where the answer did not tell.
    expires_at: Option<Instant>,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// A text that goes straight into its wrapper.
struct SecretText(SecretString);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    error_description: Option<String>,
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
        drop(self.state().token.take_if(is_refused));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn valid(&self, now: Instant) -> Option<Token> {
        self.state().token.clone().filter(|token| token.expires_at.is_none_or(|end| now < end))
    }

    /// What a request brings that was under way or is made now.
    async fn wait_for_new(&self, since: Instant) -> Result<SecretString, UpstreamError> {
        let _asking = self.asking.lock().await;
        if let Some(token) = self.valid(Instant::now()) {
            return Ok(token.text);
        }
        let shared = self.state().failure.clone().filter(|(at, _)| *at >= since);
        match shared {
            Some((_, why)) => Err(UpstreamError::Token(why)),
            None => self.ask().await.map(|token| token.text).map_err(UpstreamError::Token),
        }
    }

    /// Renews the token in a task of its own, if nobody does already.
    fn renew_behind(self: &Arc<Self>) {
        let Ok(asking) = Arc::clone(&self.asking).try_lock_owned() else { return };
        let cache = Arc::clone(self);
        // Ends by itself: the client bounds every request.
        tokio::spawn(async move {
            if let Err(why) = cache.ask().await {
                tracing::warn!(error = why, "the access token is not renewed yet; the old one still holds");
                if let Some(token) = &mut cache.state().token {
                    token.renew_at = Instant::now() + RENEWAL_PAUSE;
                }
            }
            drop(asking);
        });
    }

    /// Asks for a token and keeps what comes of it.
    async fn ask(&self) -> Result<Token, String> {
        let result = self.request().await;
        let mut state = self.state();
        match &result {
            Ok(token) => *state = State { token: Some(token.clone()), failure: None },
            Err(why) => state.failure = Some((Instant::now(), why.clone())),
        }
        result
    }

    async fn request(&self) -> Result<Token, String> {
        let asked_at = Instant::now();
        let response = self.question().send().await.map_err(|error| chain(&error.without_url()).to_string())?;
        let status = response.status();
        let body = read_body(response, ANSWER_BYTES_MAX, None).await.map_err(|error| chain(&error).to_string())?;
        let body = without_mark(body);
        if !status.is_success() {
            return Err(refusal(status.as_u16(), &body));
        }
        let granted: Granted =
            serde_json::from_slice(&body).map_err(|_| "the token endpoint's answer has no access_token".to_owned())?;
        Ok(Token::new(granted, asked_at))
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

impl Token {
    fn new(granted: Granted, asked_at: Instant) -> Self {
        let lifetime = lifetime(&granted.expires_in);
        tracing::debug!(lifetime_s = lifetime.map(|lifetime| lifetime.as_secs()), "new access token");
        Self {
            text: granted.access_token.0,
            renew_at: asked_at + renew_after(lifetime),
            expires_at: lifetime.map(|lifetime| asked_at + lifetime),
        }
    }
}

/// `expires_in`, where it is a number of seconds that makes sense.
fn lifetime(expires_in: &serde_json::Value) -> Option<Duration> {
    let seconds = expires_in.as_u64().filter(|seconds| (1..=LIFETIME_SECONDS_MAX).contains(seconds))?;
    Some(Duration::from_secs(seconds))
}

/// A token that lives shorter than twice the margin is renewed at half its life.
fn renew_after(lifetime: Option<Duration>) -> Duration {
    let early = |lifetime: Duration| lifetime.saturating_sub(EARLY).max(lifetime / 2).min(RENEW_AFTER_MAX);
    lifetime.map_or(RENEW_UNTOLD, early)
}

fn refusal(status: u16, body: &[u8]) -> String {
    let text = match serde_json::from_slice::<Refused>(body) {
        Ok(refused) => {
            let description = refused.error_description.map(|text| format!(" ({text})")).unwrap_or_default();
            format!("{}{description}, status {status}", refused.error)
        }
        Err(_) => format!("the token endpoint answered with status {status}"),
    };
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use serde_json::json;
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
                let answer =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
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
        cache.state().token.as_mut().unwrap().renew_at = Instant::now();
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
        for value in [json!(null), json!("3600"), json!(3600.5), json!(-1), json!(0), json!({}), json!(true)] {
            assert_eq!(lifetime(&value), None, "{value}");
        }
        for text in ["1e30", "99999999999", "99999999999999999999999999", "3600.0"] {
            assert_eq!(lifetime(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
        assert_eq!(renew_after(None), Duration::from_secs(300));
    }

    #[test]
    fn a_token_is_renewed_before_its_end() {
        let renewed = |seconds| renew_after(lifetime(&json!(seconds))).as_secs();
        assert_eq!([3_600, 100, 1_000_000].map(renewed), [3_540, 50, 86_400]);
    }
}
