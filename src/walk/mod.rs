//! Walking whole tables in primary-key order: first load, healing, sweeps and verification.
//!
//! `page` moves through one table by keyset pages, in the source's own order and by the source's own comparison, so
//! that any collation will do. [`Loader`] writes what it meets by the same rules as live work; rows that only the
//! mirror has are marked for a look by key, which decides. [`Verifier`] writes nothing but a certificate.
//! [`schedule`] does it by itself while the daemon serves.

mod checkpoint;
mod load;
mod page;
mod schedule;
mod targets;
mod verify;

use std::sync::Arc;

pub use load::Loader;
pub use schedule::{Parts as ScheduleParts, run as schedule};
pub use targets::{Selection, targets};
pub use verify::{Difference, Repair, Report, Verifier};

use crate::{
    domain::{TableSpec, Tenant},
    mirror::{MirrorError, SchemaError},
    queue::QueueError,
    upstream::{CatalogError, UpstreamError},
};

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
}
