//! Comparisons of mirror and source that an operator asked for, one at a time, behind the answer.

use std::{fmt, sync::Arc};

use futures_util::{StreamExt, stream};
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{access::Asker, refusal::Refusal};
use crate::{
    config::MirrorSettings,
    domain::{TableName, TargetTable},
    queue,
    telemetry::{OPERATORS, chain},
    upstream::{Catalogue, Upstream},
    walk::{self, Progress, Repair, Selection, TABLES_AT_ONCE, Verifier},
};

/// What comparisons need.
#[derive(Debug, Clone)]
pub struct VerificationParts {
    /// The replica's database.
    pub pool: PgPool,
    /// The API.
    pub upstream: Upstream,
    /// Descriptions.
    pub catalogue: Arc<Catalogue>,
    /// What is mirrored.
    pub settings: MirrorSettings,
    /// The comparer.
    pub verifier: Verifier,
}

/// Runs comparisons.
#[derive(Debug, Clone)]
pub(super) struct Verification {
    parts: VerificationParts,
    place: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// What is to be compared, and who asks.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) companies: Vec<i64>,
    pub(super) tables: Vec<TableName>,
    pub(super) is_repairing: bool,
    pub(super) asker: Asker,
}

/// What an operator names, as the sync log tells it: ` of Order, OrderLine of company 2000001`. Nothing for all.
#[derive(Debug)]
pub struct Scope<'a> {
    /// These companies.
    pub companies: &'a [i64],
    /// These tables.
    pub tables: &'a [TableName],
}

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |what: &str, items: Vec<String>| {
            if items.is_empty() { String::new() } else { format!(" {what} {}", items.join(", ")) }
        };
        let tables = list("of", self.tables.iter().map(ToString::to_string).collect());
        write!(f, "{tables}{}", list("of company", self.companies.iter().map(ToString::to_string).collect()))
    }
}

/// A comparison that has its place and does not run yet.
#[must_use]
#[derive(Debug)]
pub(super) struct Begun {
    /// What was asked for, in words.
    pub(super) what: String,
    verification: Verification,
    request: Request,
    place: OwnedSemaphorePermit,
}

impl Verification {
    /// Of a daemon that works.
    pub(super) fn new(parts: VerificationParts) -> Self {
        Self { parts, place: Arc::new(Semaphore::new(1)), tasks: TaskTracker::new() }
    }

    /// Takes the one place.
    pub(super) fn begin(&self, request: Request) -> Result<Begun, Refusal> {
        if request.tables.is_empty() && self.parts.settings.tables.is_empty() {
            return Err(Refusal::Wrong("table: none is named here or by NXT_TABLES".to_owned()));
        }
        let place = Arc::clone(&self.place).try_acquire_owned();
        let place = place.map_err(|_| Refusal::Conflict("a comparison is under way".to_owned()))?;
        let scope = Scope { companies: &request.companies, tables: &request.tables };
        let repair = if request.is_repairing { " with repair" } else { "" };
        let what = format!("verify{scope}{repair}, {}", request.asker);
        Ok(Begun { what, verification: self.clone(), request, place })
    }

    /// Waits for what runs, which ends soon once its token is cancelled.
    pub(super) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Begun {
    /// Goes on behind the answer, until it comes to its end or the daemon stops.
    pub(super) fn run(self, stop: CancellationToken) {
        let tasks = self.verification.tasks.clone();
        tasks.spawn(async move {
            let Self { what, verification, request, place } = self;
            let parts = &verification.parts;
            if stop.run_until_cancelled(compare(parts, request, &what)).await.is_none() {
                note(&parts.pool, None, &format!("{what}: the daemon stopped before its end")).await;
            }
            drop(place);
        });
    }
}

async fn compare(parts: &VerificationParts, request: Request, what: &str) {
    let VerificationParts { pool, upstream, catalogue, settings, verifier } = parts;
    let Request { companies, tables, is_repairing, asker } = request;
    catalogue.forget();
    let selection = Selection { tables, companies };
    let (targets, unknown) = match walk::targets(pool, upstream, catalogue, settings, &selection).await {
        Ok(found) => found,
        Err(error) => return note(pool, None, &format!("{what}: could not tell, {}", chain(&error))).await,
    };
    for part in unknown {
        note(pool, None, &format!("verify: {part} could not be compared, {}; {asker}", chain(&part.error))).await;
    }
    let repair = if is_repairing { Repair::ByWorkers } else { Repair::None };
    let compared =
        stream::iter(targets).map(|target| compare_one(pool.clone(), verifier.clone(), target, repair, asker));
    compared.buffer_unordered(TABLES_AT_ONCE).collect::<()>().await;
}

async fn compare_one(pool: PgPool, verifier: Verifier, target: TargetTable, repair: Repair, asker: Asker) {
    let what = match verifier.verify(&target, &Arc::new(Progress::default()), repair).await {
        Ok(report) => format!("verify: {}; {asker}", report.summary()),
        Err(error) => format!("verify: could not be compared, {}; {asker}", chain(&error)),
    };
    note(&pool, Some(&target), &what).await;
}

async fn note(pool: &PgPool, target: Option<&TargetTable>, what: &str) {
    match target {
        Some(target) => tracing::info!(target: OPERATORS, target = %target, "{what}"),
        None => tracing::info!(target: OPERATORS, "{what}"),
    }
    if let Err(error) = queue::log_operator(pool, target.map(|target| target.id), what).await {
        tracing::warn!(error = %chain(&error), "the end of a comparison is not in the sync log");
    }
}
