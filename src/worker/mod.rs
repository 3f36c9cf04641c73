//! Takes dirty rows, asks the source about them and applies the verdicts.
//!
//! One claim is one batch of work: `batch` turns claimed rows into groups of one table each, `plan` puts the
//! groups into requests, `apply` settles the answers in one transaction, `blame` decides who is at fault when
//! there is no answer. [`Worker::run`] keeps several claims going; [`Worker::step`] does one, for tests.

mod apply;
mod batch;
mod blame;
mod pace;
mod plan;
mod run;
mod work;

use std::sync::Arc;

use tokio::sync::Notify;

pub use run::{Step, Worker};

use crate::{
    config::MirrorSettings,
    domain::{RowHint, Tenant},
    mirror::Replica,
    queue::Queue,
    telemetry::Metrics,
    upstream::{Catalog, Upstream},
    walk::{Loader, Source, Verifier},
};

/// What a worker works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Rows to look at.
    pub queue: Queue,
    /// Database of the queue and the mirror alike, for the transactions that span both.
    pub pool: sqlx::PgPool,
    /// The API.
    pub upstream: Upstream,
    /// The API's tables.
    pub catalog: Arc<Catalog>,
    /// The mirrored tables.
    pub replica: Replica,
    /// What is to be mirrored.
    pub scope: Arc<Scope>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Notified when new work has been stored.
    pub stored: Arc<Notify>,
    /// Keys in one request.
    pub fetch_rows_max: usize,
}

impl Parts {
    /// Walks of whole tables with the same parts.
    pub fn loader(&self) -> Loader {
        Loader::new(self.pool.clone(), self.replica.clone(), self.source())
    }

    /// Comparisons of whole tables with the same parts.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.pool.clone(), self.replica.clone(), self.source())
    }

    fn source(&self) -> Source {
        Source::new(self.upstream.clone(), self.fetch_rows_max)
    }
}

/// Which rows are mirrored at all.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    tables: Vec<String>,
    companies: Vec<i64>,
}

impl Scope {
    /// The scope of the settings.
    pub fn new(settings: &MirrorSettings) -> Self {
        let tables = settings.tables.iter().map(|table| table.as_str().to_ascii_lowercase()).collect();
        Self { tables, companies: settings.companies.clone() }
    }

    /// Why a row is outside; `None` when it is inside.
    fn outside(&self, hint: &RowHint) -> Option<&'static str> {
        if !self.tables.is_empty() && !self.tables.contains(&hint.table.as_str().to_ascii_lowercase()) {
            return Some("the table is not in NXT_TABLES");
        }
        match hint.tenant {
            Tenant::Company(number) if !self.companies.is_empty() && !self.companies.contains(&number) => {
                Some("the company is not in NXT_COMPANIES")
            }
            Tenant::Company(_) | Tenant::Customer(_) => None,
        }
    }
}
