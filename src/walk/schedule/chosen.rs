//! The targets of the settings, looked up now and then.

use std::{collections::HashSet, time::Duration};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;

use super::Parts;
use crate::{
    domain::TargetId,
    telemetry::chain,
    walk::{
        WalkError,
        targets::{Tenants, describe},
    },
};

/// How long the list of companies and chosen tables holds.
const FRESH: Duration = Duration::from_secs(600);
/// How long after a failure it is looked up again.
const FAILURE_PAUSE: Duration = Duration::from_secs(30);
/// How often an API that is away is looked at.
const AWAY_PAUSE: Duration = Duration::from_secs(2);

/// Targets that are loaded from the start.
#[derive(Debug, Default)]
pub(super) struct Chosen(Mutex<HashSet<TargetId>>);

impl Chosen {
    pub(super) fn contains(&self, target: TargetId) -> bool {
        self.0.lock().contains(&target)
    }

    /// Looks them up for ever.
    pub(super) async fn keep_current(&self, parts: &Parts) {
        if parts.settings.tables.is_empty() {
            return std::future::pending().await;
        }
        loop {
            let pause = if parts.upstream.is_away() { AWAY_PAUSE } else { self.look_up(parts).await };
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns when to do it again.
    async fn look_up(&self, parts: &Parts) -> Duration {
        match self.find(parts).await {
            Ok(true) => FRESH,
            Ok(false) => FAILURE_PAUSE,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the tables of NXT_TABLES are looked up later");
                FAILURE_PAUSE
            }
        }
    }

    /// Tables are chosen as soon as each is described. Returns whether all are, of somebody: a service that sees no company
    /// is about to be let in, or was told nothing.
    async fn find(&self, parts: &Parts) -> Result<bool, WalkError> {
        let tenants = Tenants::visible(&parts.upstream, &parts.settings.companies).await?;
        let mut described = FuturesUnordered::new();
        for name in &parts.settings.tables {
            described.push(async move { (name, describe(&parts.catalogue, name).await) }.boxed());
        }
        let (mut found, mut is_complete) = (HashSet::new(), !tenants.is_empty());
        while let Some((name, table)) = described.next().await {
            match table {
                Ok(table) => {
                    let targets = tenants.with(&parts.pool, &table, |_| true).await?;
                    found.extend(targets.iter().map(|target| target.id));
                    self.0.lock().extend(targets.iter().map(|target| target.id));
                }
                Err(error) => {
                    tracing::error!(row.table = %name, error = %chain(&error), "table of NXT_TABLES cannot be walked");
                    is_complete = false;
                }
            }
        }
        if is_complete {
            *self.0.lock() = found;
        }
        Ok(is_complete)
    }
}
