//! The one writer: observations of a target against its mirror.
//!
//! Live work, loads, resyncs and sweeps all write here, by the rules of [`domain::settle`](crate::domain::settle), each
//! target in a transaction of its own. The order within it is fixed: the target's lock, the verdicts, the mirrored rows,
//! and last the daemon's own tables, so that nothing others need is held while a mirrored table may be locked by a user.

mod changes;
mod live;
mod page;
mod verdicts;

use sqlx::{Postgres, Transaction};

pub use live::{Item, Settled, Tally};
pub use page::Page;

use crate::{
    domain::{Diagnosis, Owner, Row, TargetTable},
    mirror::{Carried, Mirror, MirrorError},
    queue::{Journal, QueueError},
};

/// Transactions that are repeated because another one was in the way, at most so often.
const REPEATS_MAX: u32 = 3;

/// Writes what was observed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writer {
    mirror: Mirror,
}

/// Nothing was written, and why.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A statement on mirrored rows failed.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// A statement on the daemon's own tables failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The transaction failed.
    #[error("the transaction failed")]
    Sql(#[from] sqlx::Error),
    /// None of many rows fits, so that the target is to blame.
    #[error("no row fits the mirrored table: {reason}")]
    NoRowFits {
        /// What the first of them came to.
        reason: String,
    },
}

impl ReconcileError {
    /// Whose failure it is. What is not about the mirrored table is the database's.
    pub fn diagnose(&self) -> Diagnosis {
        match self {
            Self::Mirror(error) => error.diagnose(),
            Self::Queue(_) | Self::Sql(_) => {
                Diagnosis { owner: Owner::Database, pause: None, reason: crate::telemetry::chain(self).to_string() }
            }
            Self::NoRowFits { .. } => Diagnosis { owner: Owner::Target, pause: None, reason: self.to_string() },
        }
    }

    /// Whether the same transaction may go well now: another one was in the way, or this process stood still for longer
    /// than a transaction may.
    fn is_passing(&self) -> bool {
        let source = match self {
            Self::Mirror(error) => &error.source,
            Self::Queue(error) => &error.source,
            Self::Sql(error) => error,
            Self::NoRowFits { .. } => return false,
        };
        let code = source.as_database_error().and_then(|error| error.code());
        code.is_some_and(|code| matches!(code.as_ref(), "40001" | "40P01" | "25P03"))
    }
}

impl Writer {
    /// A writer to these tables.
    pub fn new(mirror: Mirror) -> Self {
        Self { mirror }
    }

    /// The mirrored tables.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Notes values that names are wanted for, before the transaction that writes their rows. A value that could not be noted
    /// is met again.
    pub async fn meet<'a>(&self, target: &TargetTable, rows: impl IntoIterator<Item = &'a Row>) {
        if let Err(error) = self.mirror.meet_values(target, rows).await {
            tracing::debug!(error = %crate::telemetry::chain(&error), "values not noted, they will be met again");
        }
    }

    /// A transaction that waits only a moment for what users may lock.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, ReconcileError> {
        Ok(self.mirror.begin().await?)
    }

    /// Ends a transaction that wrote rows of a target, and tells of it. Users' deferred triggers and constraints speak up
    /// only now.
    pub async fn commit(
        &self,
        transaction: Transaction<'static, Postgres>,
        target: &TargetTable,
        journal: Journal,
    ) -> Result<(), ReconcileError> {
        let failed = |source| MirrorError {
            action: "keep what was written",
            table: target.table.sql_name.clone(),
            carried: Carried::Rows,
            source,
        };
        Ok(journal.commit(transaction).await.map_err(failed)?)
    }
}
