//! One request to the API: token, permit, exchange.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, header, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::PgPool;
use url::Url;

use super::{
    Budget, Share, UpstreamError, diagnose,
    envelope::Answer,
    http::{self, broken},
    memory::AnswerMemory,
    outage::Watch,
    token::TokenCache,
    width::Widths,
};
use crate::{
    config::UpstreamSettings,
    domain::{DatabaseTime, Owner, Tenant},
    failpoint::Failpoint,
    telemetry::{Metrics, Purpose, chain, spans},
};

/// The API cuts synchronous requests at 59 s (release note 2023-12-07). Waiting a little longer lets it end them,
/// since a request that its client abandons keeps its place for 30 minutes (rate limit documentation).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept while nothing is asked. What is sent while the server closes it is lost, so it is let go
/// of before that: the shortest time that is common among servers and balancers is a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The API, as this daemon uses it. Clones share everything.
#[derive(Debug, Clone)]
pub struct Upstream {
    http: Client,
    token: Arc<TokenCache>,
    budget: Budget,
    graphql_url: Url,
    metrics: Arc<Metrics>,
    /// What its share of the background's requests is counted as.
    purpose: Purpose,
    memory: Arc<AnswerMemory>,
    pub(super) widths: Arc<Widths>,
    pub(super) watch: Arc<Watch>,
    /// How timestamps without a zone are read.
    pub(super) timezone: chrono_tz::Tz,
}

impl Upstream {
    /// A client. Sends nothing yet.
    pub fn new(settings: &UpstreamSettings, budget: Budget, metrics: Arc<Metrics>) -> Result<Self, UpstreamError> {
        let http = http_client()?;
        Ok(Self {
            token: Arc::new(TokenCache::new(settings.clone(), http.clone())),
            http,
            budget,
            graphql_url: settings.graphql_url.clone(),
            metrics,
            purpose: Purpose::Other,
            memory: Arc::default(),
            widths: Arc::default(),
            watch: Arc::default(),
            timezone: settings.timezone,
        })
    }

    /// The same API, whose requests of the background are counted under this purpose.
    pub fn for_purpose(&self, purpose: Purpose) -> Self {
        Self { purpose, ..self.clone() }
    }

    /// What it may spend.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The database of a budget that is shared.
    pub(super) fn pool(&self) -> Option<&PgPool> {
        self.budget.pool()
    }

    /// Sends one GraphQL request within the budget. A 401 is tried once more with a new token, as a request of its
    /// own; a 429 pauses all replicas.
    pub(super) async fn post(&self, tenants: &[Tenant], share: Share, body: &Value) -> Result<Answer, UpstreamError> {
        self.post_telling(tenants, share, body, &|| {}).await
    }

    /// Asks for so many rows of so many targets, by [`Upstream::post_telling`].
    pub(super) async fn post_for_rows(
        &self,
        (targets, rows): (usize, usize),
        tenants: &[Tenant],
        share: Share,
        body: &Value,
        on_sent: &(dyn Fn() + Send + Sync),
    ) -> Result<Answer, UpstreamError> {
        let (span, begun_at) = (spans::fetch(targets, rows), Instant::now());
        let noting = || {
            spans::note_wait(&span, begun_at.elapsed());
            on_sent();
        };
        spans::within(span.clone(), self.post_telling(tenants, share, body, &noting)).await
    }

    /// As [`Upstream::post`]; tells when the request is sent, after it has waited for the budget.
    pub(super) async fn post_telling(
        &self,
        tenants: &[Tenant],
        share: Share,
        body: &Value,
        on_sent: &(dyn Fn() + Send + Sync),
    ) -> Result<Answer, UpstreamError> {
        let body = body.to_string();
        let mut result = self.post_once(tenants, share, &body, on_sent).await;
        if is_unauthorized(&result) {
            result = self.post_once(tenants, share, &body, on_sent).await;
        }
        result
    }

    async fn post_once(
        &self,
        tenants: &[Tenant],
        share: Share,
        body: &str,
        on_sent: &(dyn Fn() + Send + Sync),
    ) -> Result<Answer, UpstreamError> {
        let token = self.token.get().await?;
        let purpose = if share == Share::Live { Purpose::Live } else { self.purpose };
        let permit = self.budget.acquire(tenants, share, purpose).await?;
        let started_at = permit.started_at;
        Failpoint::Granted.pass();
        on_sent();
        let sent_at = Instant::now();
        let result = self.exchange(&token, body, started_at).await;
        self.metrics.api_duration.observe(sent_at.elapsed().as_secs_f64());
        Failpoint::Answered.pass();
        // Before anything else, since others are sent until it is known to them.
        let paused = match wanted_pause(&result) {
            Some(pause) => self.budget.pause(pause).await,
            None => Ok(()),
        };
        permit.finish().await;
        if is_unauthorized(&result) {
            self.token.forget(&token);
        }
        self.metrics.api_requests.with_label_values(&[purpose.name(), outcome(&result)]).inc();
        paused?;
        result
    }

    async fn exchange(
        &self,
        token: &SecretString,
        body: &str,
        started_at: DatabaseTime,
    ) -> Result<Answer, UpstreamError> {
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
        let trace_id = http::trace_id(response.headers());
        let result = traced(http::read_answer(response, self.memory.reserve(), started_at).await, trace_id);
        log_failure(&result);
        result
    }
}

/// A client with time-outs that follows no redirection.
pub fn http_client() -> Result<Client, UpstreamError> {
    // The process may have a provider already; either is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("nxt-mirror/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(redirect::Policy::none())
        .build()
        .map_err(UpstreamError::Transport)
}

/// How long the API wants to be left alone.
fn wanted_pause<T>(result: &Result<T, UpstreamError>) -> Option<Duration> {
    let diagnosis = diagnose(result.as_ref().err()?);
    diagnosis.pause.filter(|_| diagnosis.owner == Owner::Api)
}

fn is_unauthorized<T>(result: &Result<T, UpstreamError>) -> bool {
    matches!(result, Err(error) if matches!(error.itself(), UpstreamError::Unauthorized))
}

/// A failure with the trace that Visma's support asks for: that of the headers, which an answer without JSON has, too,
/// else that of the body.
fn traced(result: Result<Answer, UpstreamError>, header: Option<String>) -> Result<Answer, UpstreamError> {
    match (result, header) {
        (Ok(mut answer), header) => {
            let trace_id = header.or_else(|| answer.trace_id.clone());
            answer.errors.iter_mut().for_each(|error| error.trace_id.clone_from(&trace_id));
            Ok(answer)
        }
        (Err(error), Some(trace_id)) => Err(UpstreamError::Traced { trace_id, error: Box::new(error) }),
        (Err(error), None) => Err(error),
    }
}

/// Failures are handled, and logged as what they came to, further up. Here each has a line of its own.
fn log_failure(result: &Result<Answer, UpstreamError>) {
    match result {
        Ok(answer) => {
            if let Some(error) = answer.errors.first() {
                tracing::info!(trace.id = error.trace_id, %error, "the API reports an error");
            }
        }
        Err(error) => tracing::info!(error = %chain(error), "a request failed"),
    }
}

fn outcome(result: &Result<Answer, UpstreamError>) -> &'static str {
    match result.as_ref().map_err(UpstreamError::itself) {
        Ok(answer) if answer.errors.is_empty() => "ok",
        Ok(_) => "partial",
        Err(UpstreamError::Throttled { .. }) => "throttled",
        Err(UpstreamError::Unauthorized) => "unauthorized",
        Err(UpstreamError::TimedOut) => "timed_out",
        Err(_) => "failed",
    }
}
