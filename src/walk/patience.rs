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

/// The failures of one transaction so far.
#[derive(Debug)]
pub(super) struct Retries {
    patience: Patience,
    failures: u32,
}

impl Retries {
    pub(super) fn new(patience: Patience) -> Self {
        Self { patience, failures: 0 }
    }

    /// Waits before the next try, or gives the error back when there is none.
    pub(super) async fn pause(&mut self, target: &TargetTable, error: WalkError) -> Result<(), WalkError> {
        self.failures += 1;
        if !self.is_worth_another(&error) {
            return Err(error);
        }
        if self.failures == 1 {
            tracing::info!(%target, error = %chain(&error), "a page waits for the database");
        }
        tokio::time::sleep(backoff(self.failures, PAUSE, PAUSE_MAX)).await;
        Ok(())
    }

    fn is_worth_another(&self, error: &WalkError) -> bool {
        if error.is_busy() {
            match self.patience {
                Patience::Endless => true,
                Patience::Tries(tries) => self.failures < tries,
            }
        } else {
            error.is_about_database() && self.failures < DATABASE_FAILURES_MAX
        }
    }
}
