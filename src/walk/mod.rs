//! Walking whole tables in primary-key order: first load, healing, sweeps and verification.
//!
//! `ranges` cuts a large table into ranges of its key, and `page` moves through each by keyset pages, in the source's own
//! order and by the source's own comparison, so that any collation will do. [`Loader`] writes what it meets by the same rules as live work; rows that only the
//! mirror has are marked for a look by key, which decides. [`Verifier`] writes nothing but a certificate.
//! [`schedule`] does it by itself while the daemon serves.

mod checkpoint;
mod load;
mod order;
mod pacer;
mod page;
mod ranges;
mod schedule;
mod silence;
mod sweep;
mod targets;
mod verify;

use std::sync::Arc;

pub use load::{Loaded, Loader};
pub use order::Order;
pub use ranges::Progress;
pub use schedule::{Parts as ScheduleParts, run as schedule};
pub use targets::{Selection, targets};
pub use verify::{Difference, Repair, Report, Verifier};

use crate::{
    domain::{TableSpec, Tenant},
    mirror::{MirrorError, SchemaError},
    queue::QueueError,
    upstream::{CatalogError, Upstream, UpstreamError},
};

/// Tables that are walked at the same time.
pub const TABLES_AT_ONCE: usize = 4;

/// Where pages come from, and how fast.
#[derive(Debug, Clone)]
pub struct Source {
    /// The API.
    pub(crate) upstream: Upstream,
    /// `NXT_FETCH_ROWS_MAX`.
    pub(crate) keys_max: usize,
    /// Spreads pages over time; none for a walk in a hurry.
    pub(in crate::walk) pacer: Option<Arc<pacer::Pacer>>,
}

impl Source {
    /// Pages as fast as the budget allows; their size follows from the number of keys in a request.
    pub fn new(upstream: Upstream, keys_max: usize) -> Self {
        Self { upstream, keys_max, pacer: None }
    }
}

/// A table of a tenant.
#[derive(Debug, Clone)]
pub struct Target {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub table: Arc<TableSpec>,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.table.name, self.tenant)
    }
}

/// Why a walk did not come to its end. What it did is kept, and it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The table or the company cannot be read.
    #[error("no access: {0}")]
    Denied(String),
    /// The API is away, or its answers make no sense, for longer than a walk waits.
    #[error("the API gives no usable answer")]
    Upstream(#[from] UpstreamError),
    /// The table cannot be described.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The mirrored table cannot be brought in line.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A statement on mirrored rows failed.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// A statement on the daemon's own state failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// A transaction failed.
    #[error("the database failed during a walk")]
    Sql(#[from] sqlx::Error),
    /// The walk of a key range panicked, which is a mistake in this program.
    #[error("the walk of a key range panicked: {0}")]
    Panicked(String),
}
