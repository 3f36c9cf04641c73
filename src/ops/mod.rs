//! The operators' listener: pages, API, readiness and metrics; nothing for the internet.
//!
//! `access` is around everything: it knows who asks. `api` answers programs, `actions` changes something, `tail` follows
//! a `sequence` live, and `pages` shows it all to people.

mod access;
mod actions;
mod advice;
mod api;
mod gauges;
mod health;
mod named;
mod origin;
mod overview;
mod pages;
mod reader;
mod refusal;
mod samples;
mod secret;
mod sequence;
mod session;
mod status;
mod story;
mod tail;
mod verification;

use std::{sync::Arc, time::Duration};

use actix_web::{
    Resource, Route,
    http::header,
    middleware::{DefaultHeaders, from_fn},
    web,
};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

pub use advice::{Advice, Weight, advice};
pub use named::{NamedTableError, named_table};
pub use reader::Connection;
pub use status::Status;
pub use story::{GivenKey, Story, StoryError};
pub use verification::{Scope, VerificationParts};

use crate::{
    database::Connector,
    domain::Exclusions,
    telemetry::{Metrics, chain},
};
use overview::Overviews;
use refusal::Refusal;
use sequence::Sequence;
use session::{Sessions, Tries};
use tail::Tail;
use verification::Verification;

/// What the operators' listener is made of.
#[derive(Debug)]
pub struct OpsParts {
    /// The replica's database.
    pub pool: PgPool,
    /// What is known of its hosts.
    pub connector: Connector,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// `NXT_OPS_TOKEN`.
    pub token: Option<SecretString>,
    /// `NXT_REQUESTS_PER_MINUTE`.
    pub requests_per_minute: u32,
    /// How long a reader of a stream may take for one part of it.
    pub taking_max: Duration,
    /// `NXT_EXCLUDE`.
    pub exclusions: Arc<Exclusions>,
    /// Present in a daemon that works.
    pub verification: Option<VerificationParts>,
}

/// What the operators' handlers need. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ops {
    pool: PgPool,
    connector: Connector,
    metrics: Arc<Metrics>,
    token: Option<SecretString>,
    requests_per_minute: u32,
    exclusions: Arc<Exclusions>,
    verification: Option<Verification>,
    activity: Arc<Tail>,
    changes: Arc<Tail>,
    overviews: Arc<Overviews>,
    sessions: Arc<Sessions>,
    tries: Arc<Tries>,
    stop: CancellationToken,
}

impl Ops {
    /// Nothing runs yet.
    pub fn new(parts: OpsParts) -> Self {
        Self {
            pool: parts.pool,
            connector: parts.connector,
            metrics: parts.metrics,
            token: parts.token,
            requests_per_minute: parts.requests_per_minute,
            exclusions: parts.exclusions,
            verification: parts.verification.map(Verification::new),
            activity: Arc::new(Tail::new(Sequence::Activity, parts.taking_max)),
            changes: Arc::new(Tail::new(Sequence::Changes, parts.taking_max)),
            overviews: Arc::default(),
            sessions: Arc::default(),
            tries: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Does what the handlers rely on, until stopped: streams end then, and comparisons.
    pub async fn run(self, stop: CancellationToken) {
        let ends_streams = self.stop.clone().drop_guard();
        tokio::join!(
            self.activity.run(&self.pool, &stop),
            self.changes.run(&self.pool, &stop),
            self.take_samples(&stop)
        );
        drop(ends_streams);
        if let Some(verification) = &self.verification {
            verification.finish().await;
        }
    }
}

impl Ops {
    async fn take_samples(&self, stop: &CancellationToken) {
        let taking = async {
            let mut timer = tokio::time::interval(samples::INTERVAL);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                if let Err(error) = samples::take(&self.pool).await {
                    tracing::debug!(error = %chain(&error), "a sample is missing");
                }
            }
        };
        stop.run_until_cancelled(taking).await;
    }
}

/// What pages may load and do: what the binary serves, and nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Mounts the operators' paths.
pub fn configure(config: &mut web::ServiceConfig, ops: Ops) {
    let read = |path: &str, route: Route| only("GET", web::resource(path).route(route));
    let act = |path: &str, route: Route| only("POST", web::resource(path).route(route));
    let headers = DefaultHeaders::new()
        .add((header::CONTENT_SECURITY_POLICY, CONTENT_POLICY))
        .add((header::X_FRAME_OPTIONS, "DENY"))
        .add((header::REFERRER_POLICY, "same-origin"));
    let login = web::resource("/login").get(pages::login_form).post(pages::login);
    let all = web::scope("")
        .wrap(from_fn(access::gate))
        .wrap(headers)
        .app_data(
            web::FormConfig::default().limit(BODY_BYTES_MAX).error_handler(|error, _| Refusal::of_form(&error).into()),
        )
        .app_data(web::QueryConfig::default().error_handler(|error, _| Refusal::of_query(&error).into()))
        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
        .service(read("/healthz", web::get().to(health::alive)))
        .service(read("/readyz", web::get().to(health::ready)))
        .service(read("/metrics", web::get().to(health::metrics)))
        .service(read("/api/status", web::get().to(api::status)))
        .service(read("/api/activity", web::get().to(api::activity)))
        .service(read("/api/changes", web::get().to(api::changes)))
        .service(read("/api/rows/{table}", web::get().to(api::row)))
        .service(act("/api/dead-letters/{id}/retry", web::post().to(actions::retry)))
        .service(only("DELETE", web::resource("/api/dead-letters/{id}").delete(actions::drop_letter)))
        .service(act("/api/replay", web::post().to(actions::replay)))
        .service(act("/api/verify", web::post().to(actions::verify)))
        .service(read("/", web::get().to(pages::overview)))
        .service(read("/tables/{table}", web::get().to(pages::target)))
        .service(read("/rows/{table}", web::get().to(pages::row)))
        .service(read("/activity", web::get().to(pages::activity)))
        .service(read("/dead-letters", web::get().to(pages::dead_letters)))
        .service(read("/names", web::get().to(pages::names)))
        .service(read("/assets/{name}", web::get().to(pages::asset)))
        .service(only("GET, POST", login))
        .service(act("/logout", web::post().to(pages::logout)))
        .default_service(web::to(async || Err::<&str, _>(Refusal::NothingHere)));
    config.app_data(web::Data::new(ops)).service(all);
}

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A path whose other methods are refused.
fn only(methods: &'static str, resource: Resource) -> Resource {
    resource.default_service(web::to(move || async move { Err::<&str, _>(Refusal::Method(methods)) }))
}
