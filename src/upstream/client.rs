//! One request to the API, from permit to parsed JSON.

use std::{sync::Arc, time::Duration};

use reqwest::{Client, Response, StatusCode, header, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sqlx::PgPool;
use url::Url;

use super::{
    Budget, GraphqlError, Lane, UpstreamError,
    outage::Watch,
    retry::{Remedy, remedy},
    token::TokenCache,
};
use crate::{
    config::UpstreamSettings,
    domain::{Tenant, Time},
    failpoint::Failpoint,
    telemetry::Metrics,
};

/// The API cuts synchronous requests at 59 s (release note 2023-12-07). Waiting a little longer lets it end them,
/// since a request that its client abandons keeps its place for 30 minutes (rate limit documentation).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The API, as this daemon uses it.
#[derive(Debug, Clone)]
pub struct Upstream {
    http: Client,
    token: Arc<TokenCache>,
    budget: Budget,
    graphql_url: Url,
    metrics: Arc<Metrics>,
    pub(super) watch: Arc<Watch>,
    /// How timestamps without a zone are read.
    pub(super) timezone: chrono_tz::Tz,
}

/// A GraphQL answer, its errors not yet weighed.
#[derive(Debug)]
pub(super) struct Answer {
    /// Start of the request.
    pub(super) started_at: Time,
    /// `data`, empty when null or absent.
    pub(super) data: Map<String, Value>,
    /// `errors`.
    pub(super) errors: Vec<GraphqlError>,
}

impl Upstream {
    /// A client. Sends nothing yet.
    pub fn new(settings: &UpstreamSettings, budget: Budget, metrics: Arc<Metrics>) -> Result<Self, UpstreamError> {
        // The process may have a provider already; either is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .user_agent(concat!("nxt-mirror/", env!("CARGO_PKG_VERSION")))
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(UpstreamError::Transport)?;
        Ok(Self {
            http,
            token: Arc::new(TokenCache::new(settings.clone())),
            budget,
            graphql_url: settings.graphql_url.clone(),
            metrics,
            watch: Arc::default(),
            timezone: settings.timezone,
        })
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The database of the budget.
    pub(super) fn pool(&self) -> &PgPool {
        self.budget.pool()
    }

    /// Whether requests may be spent on something that is only better, not needed.
    pub async fn has_headroom(&self) -> bool {
        self.budget.has_headroom().await.unwrap_or(false)
    }

    /// Sends one GraphQL request within the budget. A 401 is tried once more with a new token, as a request of its
    /// own; a 429 pauses all replicas.
    pub(super) async fn post(&self, tenants: &[Tenant], lane: Lane, body: &Value) -> Result<Answer, UpstreamError> {
        let body = body.to_string();
        let mut result = self.post_once(tenants, lane, &body).await;
        if matches!(result, Err(UpstreamError::Unauthorized)) {
            result = self.post_once(tenants, lane, &body).await;
        }
        if let Err(error @ UpstreamError::Throttled { .. }) = &result
            && let Remedy::Wait(pause) = remedy(error)
        {
            self.budget.pause(pause).await?;
        }
        result
    }

    async fn post_once(&self, tenants: &[Tenant], lane: Lane, body: &str) -> Result<Answer, UpstreamError> {
        let token = self.token.get(&self.http).await?;
        let permit = self.budget.acquire(tenants, lane).await?;
        let started_at = permit.started_at;
        Failpoint::Granted.pass();
        let result = self.exchange(&token, body, started_at).await;
        Failpoint::Answered.pass();
        permit.finish().await;
        if matches!(result, Err(UpstreamError::Unauthorized)) {
            self.token.forget(&token).await;
        }
        self.metrics.api_requests.with_label_values(&[outcome(&result)]).inc();
        result
    }

    async fn exchange(&self, token: &SecretString, body: &str, started_at: Time) -> Result<Answer, UpstreamError> {
        let response = self
            .http
            .post(self.graphql_url.clone())
            .bearer_auth(token.expose_secret())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(body.to_owned())
            .send()
            .await
            .map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(UpstreamError::Unauthorized),
            StatusCode::TOO_MANY_REQUESTS => {
                return Err(UpstreamError::Throttled { retry_after: retry_after(&response) });
            }
            // GraphQL servers may answer an invalid request with 400 and the usual body.
            StatusCode::BAD_REQUEST => {}
            other => return Err(UpstreamError::Status(other.as_u16())),
        }
        let status = response.status();
        let bytes = read_limited(response, ANSWER_BYTES_MAX).await?;
        match parse(&bytes, started_at) {
            Err(_) if status != StatusCode::OK => Err(UpstreamError::Status(status.as_u16())),
            parsed => parsed,
        }
    }
}

/// Reads a body up to a size.
pub(super) async fn read_limited(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, UpstreamError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(UpstreamError::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

pub(super) fn parse(bytes: &[u8], started_at: Time) -> Result<Answer, UpstreamError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| UpstreamError::NotJson(error.to_string()))?;
    let Value::Object(mut fields) = value else {
        return Err(UpstreamError::Shape("not a JSON object".into()));
    };
    let errors = match fields.get("errors") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(entries)) => entries.iter().map(GraphqlError::read).collect(),
        Some(_) => return Err(UpstreamError::Shape("errors is not a list".into())),
    };
    let data = match fields.remove("data") {
        None | Some(Value::Null) if errors.is_empty() => {
            return Err(UpstreamError::Shape("neither data nor errors".into()));
        }
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(data)) => data,
        Some(_) => return Err(UpstreamError::Shape("data is not an object".into())),
    };
    Ok(Answer { started_at, data, errors })
}

fn broken(error: reqwest::Error) -> UpstreamError {
    if error.is_timeout() && !error.is_connect() {
        UpstreamError::TimedOut
    } else {
        UpstreamError::Transport(error.without_url())
    }
}

/// Seconds, the form that gateways use; a date is not understood and counts as none.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn outcome(result: &Result<Answer, UpstreamError>) -> &'static str {
    match result {
        Ok(answer) if answer.errors.is_empty() => "ok",
        Ok(_) => "partial",
        Err(UpstreamError::Throttled { .. }) => "throttled",
        Err(UpstreamError::Unauthorized) => "unauthorized",
        Err(UpstreamError::TimedOut) => "timed_out",
        Err(_) => "failed",
    }
}
