//! The access token: client credentials at Visma Connect, cached, renewed early and after a 401.
//!
//! Request and answer as in the API notes: a form POST with HTTP Basic, id and secret form-encoded first
//! (RFC 6749, section 2.3.1); `access_token` and `expires_in` in seconds come back, no refresh token.

use std::time::{Duration, Instant};

use reqwest::Client;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::form_urlencoded::byte_serialize;

use super::UpstreamError;
use crate::config::UpstreamSettings;

/// How long before its end a token is renewed.
const EARLY: Duration = Duration::from_secs(60);
/// Bytes of a token answer that are read.
const ANSWER_BYTES_MAX: usize = 65_536;
/// Assumed when the answer does not say.
const LIFETIME: Duration = Duration::from_secs(300);

/// Holds the current token.
#[derive(Debug)]
pub(super) struct TokenCache {
    settings: UpstreamSettings,
    current: Mutex<Option<Token>>,
}

#[derive(Debug, Clone)]
struct Token {
    text: SecretString,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretText,
    expires_in: Option<u64>,
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
    pub(super) fn new(settings: UpstreamSettings) -> Self {
        Self { settings, current: Mutex::new(None) }
    }

    /// The current token, or a new one. Callers that come together wait for one request.
    pub(super) async fn get(&self, http: &Client) -> Result<SecretString, UpstreamError> {
        let mut current = self.current.lock().await;
        match current.as_ref() {
            Some(token) if Instant::now() < token.renew_at => Ok(token.text.clone()),
            _ => Ok(current.insert(self.request(http).await?).text.clone()),
        }
    }

    /// Forgets a token that the API refused, unless it has been replaced meanwhile.
    pub(super) async fn forget(&self, refused: &SecretString) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| token.text.expose_secret() == refused.expose_secret()) {
            *current = None;
        }
    }

    async fn request(&self, http: &Client) -> Result<Token, UpstreamError> {
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let mut form = vec![("grant_type", "client_credentials"), ("scope", self.settings.scope.as_str())];
        form.extend(self.settings.tenant_id.as_deref().map(|tenant| ("tenant_id", tenant)));
        let failed =
            |error: reqwest::Error| UpstreamError::Token(crate::telemetry::chain(&error.without_url()).to_string());
        let asked_at = Instant::now();
        let response = http
            .post(self.settings.token_url.clone())
            .basic_auth(encode(&self.settings.client_id), Some(encode(self.settings.client_secret.expose_secret())))
            .form(&form)
            .send()
            .await
            .map_err(failed)?;
        let status = response.status();
        let body = super::client::read_limited(response, ANSWER_BYTES_MAX).await?;
        if !status.is_success() {
            return Err(refusal(status.as_u16(), &body));
        }
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| UpstreamError::Token("the token endpoint's answer has no access_token".into()))?;
        let lifetime = granted.expires_in.map_or(LIFETIME, Duration::from_secs);
        // A token that lives shorter than twice the margin is renewed at half its life.
        let renew_after = lifetime.saturating_sub(EARLY).max(lifetime / 2).min(Duration::from_secs(86_400));
        tracing::debug!(lifetime_s = lifetime.as_secs(), "new access token");
        Ok(Token { text: granted.access_token.0, renew_at: asked_at + renew_after })
    }
}

fn refusal(status: u16, body: &[u8]) -> UpstreamError {
    let text = match serde_json::from_slice::<Refused>(body) {
        Ok(refused) => {
            let description = refused.error_description.map(|text| format!(" ({text})")).unwrap_or_default();
            format!("{}{description}, status {status}", refused.error)
        }
        Err(_) => format!("the token endpoint answered with status {status}"),
    };
    UpstreamError::Token(text.chars().take(300).collect())
}
