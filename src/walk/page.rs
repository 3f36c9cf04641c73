//! Keyset pages, with patience for an API that has a bad moment.

use std::time::Duration;

use super::{Target, WalkError};
use crate::{
    domain::{RowKey, Time},
    upstream::{AskError, Remedy, TablePage, Upstream, UpstreamError, remedy},
};

/// Failures in a row before a walk gives up for now.
const FAILURES_MAX: u32 = 8;
/// Pause after the first failure, doubling, at most half a minute.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Where a walk is.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    upstream: &'a Upstream,
    target: &'a Target,
    changed_since: Option<Time>,
    rows_max: usize,
    size: usize,
    pub(super) position: Option<RowKey>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(
        upstream: &'a Upstream,
        target: &'a Target,
        rows_max: usize,
        position: Option<RowKey>,
        changed_since: Option<Time>,
    ) -> Self {
        Self { upstream, target, changed_since, rows_max, size: rows_max, position }
    }

    /// The next page; its last key becomes the position.
    pub(super) async fn next(&mut self) -> Result<TablePage, WalkError> {
        let mut failures = 0;
        loop {
            let (trouble, error) = match self.ask().await {
                Ok(Ok(page)) => {
                    self.size = (self.size * 2).min(self.rows_max);
                    self.position = page.rows.last().map(|row| row.key.clone()).or_else(|| self.position.take());
                    return Ok(page);
                }
                Ok(Err(error)) => (error.remedy(), WalkError::Denied(error.to_string())),
                Err(error) => (remedy(&error), WalkError::Upstream(error)),
            };
            failures += 1;
            if failures >= FAILURES_MAX {
                return Err(error);
            }
            let pause = match trouble {
                Remedy::Wait(pause) => pause,
                Remedy::Redescribe => return Err(error),
                Remedy::Split => {
                    self.size = (self.size / 2).max(1);
                    PAUSE
                }
                Remedy::Probe => PAUSE.saturating_mul(1 << failures.min(6)).min(PAUSE_MAX),
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn ask(&self) -> Result<Result<TablePage, AskError>, UpstreamError> {
        let Target { tenant, table } = self.target;
        self.upstream.page(*tenant, table, self.position.as_ref(), self.changed_since, self.size).await
    }
}
