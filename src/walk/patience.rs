//! When a transaction is tried again.

use std::time::Duration;

use super::WalkError;
use crate::{
    domain::{TargetTable, backoff},
    telemetry::chain,
};

/// Pause after the first failure, and the longest one.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Failures of the database in a row before a transaction is given up.
const DATABASE_FAILURES_MAX: u32 = 8;

/// How often a transaction is tried while somebody holds the mirrored table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As often as it takes: nothing else waits for this walk.
    Endless,
    /// So many times: it comes again, or somebody waits for the answer.
    Tries(u32),
}

/// Tries a transaction again while somebody holds the table or the database is away. Nothing is held meanwhile.
pub(super) async fn repeated<T, F>(
    target: &TargetTable,
    patience: Patience,
    transaction: impl Fn() -> F,
) -> Result<T, WalkError>
where
    F: Future<Output = Result<T, WalkError>>,
{
    let mut failures = 0;
    loop {
        let error = match transaction().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        failures += 1;
        if !patience.is_worth_another(&error, failures) {
            return Err(error);
        }
        if failures == 1 {
            tracing::info!(%target, error = %chain(&error), "a page waits for the database");
        }
        tokio::time::sleep(backoff(failures, PAUSE, PAUSE_MAX)).await;
    }
}

impl Patience {
    fn is_worth_another(self, error: &WalkError, failures: u32) -> bool {
        if error.is_busy() {
            match self {
                Self::Endless => true,
                Self::Tries(tries) => failures < tries,
            }
        } else {
            error.is_about_database() && failures < DATABASE_FAILURES_MAX
        }
    }
}
