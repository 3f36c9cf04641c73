//! The mirrored tables, and all SQL on them.
//!
//! Every name in a statement comes from a [`TableSpec`](crate::domain::TableSpec), thus from the API's metadata, and
//! passes `identifier`; every value is bound. Rows and keys travel as one typed array for each column, so that a
//! statement's text depends on its table alone. Each statement names its tenant and returns nothing but keys, positions
//! and stored columns, so that it can run on one node of a distributed database. Columns that are not ours are never
//! named. A connection that is passed in is to come from [`Mirror::begin`], so that no statement waits for long.

mod align;
mod arrays;
mod clause;
mod cluster;
mod diagnosis;
mod ensure;
mod error;
mod explain;
mod history;
mod identifier;
mod losses;
mod read;
mod rights;
mod schema;
mod statement;
mod unmet;
mod widen;
mod write;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

pub use diagnosis::{Carried, diagnose};
pub use error::{MirrorError, SchemaError};
pub(crate) use explain::{DescribedState, LabelledAs, Labels, Unnamed};
pub use explain::{DisplayNames, column_labels};
pub use history::Touched;
pub use read::{Comparison, LivingRow, OtherSpelling};
pub use rights::GrantError;
pub use unmet::WalkId;
pub use widen::Narrow;
pub use write::{Fetched, Removal, Written};

use crate::{
    config::{Deletes, HistoryScope},
    domain::TargetTable,
};

/// Begins a transaction in which no statement waits longer than this for what somebody else has locked.
const BEGIN: &str = "begin; set local lock_timeout = '1s'";
/// Begins a transaction that locks more than rows: readers and writers of a table queue behind what waits for it.
const BEGIN_CHANGE: &str = "begin; set local lock_timeout = '500ms'";
/// Distinguishes targets from what else is locked by number.
const TARGET_LOCKS: i32 = 0x6e78_7401;

/// The mirrored tables of this database. Cheap to clone; clones share what they know of the tables.
#[derive(Debug, Clone)]
pub struct Mirror {
    pool: PgPool,
    deletes: Deletes,
    history: Arc<HistoryScope>,
    tables: Arc<ensure::Tables>,
    met_values: Arc<explain::MetValues>,
    unexplained: Arc<explain::Unexplained>,
}

impl Mirror {
    /// The mirror in this database.
    pub fn new(pool: PgPool, deletes: Deletes) -> Self {
        Self {
            pool,
            deletes,
            history: Arc::default(),
            tables: Arc::default(),
            met_values: Arc::default(),
            unexplained: Arc::default(),
        }
    }

    /// The same mirror, keeping the versions of these tables' rows.
    pub fn with_history(self, history: HistoryScope) -> Self {
        Self { history: Arc::new(history), ..self }
    }

    /// A transaction that waits only a moment for what users may lock.
    pub async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.pool.begin_with(BEGIN).await
    }

    /// Keeps everybody else who writes this target waiting until the transaction ends, so that what is read here still
    /// holds when it is written.
    pub async fn lock(&self, connection: &mut PgConnection, target: &TargetTable) -> Result<(), MirrorError> {
        sqlx::query!("select pg_advisory_xact_lock($1, $2)", TARGET_LOCKS, target.id as _)
            .execute(connection)
            .await
            .map(drop)
            .map_err(error::failed("lock the rows", target, Carried::Nothing))
    }

    /// Counts the rows that live.
    pub async fn count(&self, connection: &mut PgConnection, target: &TargetTable) -> Result<i64, MirrorError> {
        sqlx::query_scalar(AssertSqlSafe(statement::count(&target.table)))
            .bind(target.tenant.number())
            .fetch_one(connection)
            .await
            .map_err(error::failed("count the rows", target, Carried::Nothing))
    }
}

/// A name as it enters SQL.
#[cfg(any(test, fuzzing))]
pub fn quote(name: &str) -> String {
    identifier::Identifier(name).to_string()
}
