//! Takes dirty rows, asks the source about them and settles them, target by target.
//!
//! `schedule` looks which targets have rows that are due, and starts a task for each request; it never waits for the
//! source, a description or a mirrored table. `places` bounds how many requests a target and a tenant may have, `pace`
//! how long few rows gather, `plan` which claims share a request, `tables` what the targets' tables look like.
//! `request` is the way of one request from claims to settled rows; `failure` says what becomes of those that failed,
//! `telling` what the log says of them all.

mod failure;
mod pace;
mod places;
mod plan;
mod request;
mod schedule;
mod tables;
mod telling;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Notify;

pub use schedule::Worker;

use crate::{
    config::MirrorSettings,
    mirror::Mirror,
    queue::{Claims, Queue, WorkerId},
    reconcile::Writer,
    telemetry::Metrics,
    upstream::{Catalogue, Upstream},
};

/// What a worker works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Database of the queue and the mirror alike, for the transactions that span both.
    pub pool: PgPool,
    /// Rows that need a fetch.
    pub queue: Queue,
    /// Which worker this process is.
    pub me: WorkerId,
    /// Rows that this process works on.
    pub claims: Claims,
    /// The API.
    pub upstream: Upstream,
    /// The API's tables.
    pub catalogue: Arc<Catalogue>,
    /// The mirrored tables.
    pub mirror: Mirror,
    /// Writes to them.
    pub writer: Writer,
    /// What is to be mirrored.
    pub settings: Arc<MirrorSettings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Notified when notifications have been stored.
    pub stored: Arc<Notify>,
    /// Keys in one request.
    pub fetch_rows_max: usize,
}
