//! One started walk: its tables are described, walked, and what came of it is told.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};

use super::{Kind, Parts};
use crate::{
    domain::{Owner, TableSpec, Target, TargetId, TargetTable},
    queue,
    telemetry::chain,
    upstream::CatalogError,
    walk::{Loaded, Loader, Progress, WalkError, error::Recovery},
};

/// How long a table is paused of which the key is not known in full. Walks find it again and again.
const KEY_PAUSE: Duration = Duration::from_secs(300);

/// A walk to do.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) parts: Parts,
    /// With its pages spread over time, where the kind asks for that.
    pub(super) loader: Loader,
    pub(super) kind: Kind,
    /// Of one tenant. Several only for a sweep.
    pub(super) targets: Vec<Target>,
    pub(super) progress: Arc<Progress>,
}

/// What a walk of one target came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// It is tried again as soon as it can be.
    PutOff,
    Failed,
}

impl Errand {
    /// Does it.
    pub(super) async fn run(self) -> Vec<(TargetId, Ended)> {
        let started = Instant::now();
        // Tables whose descriptions are at hand do not wait for the others.
        let (known, unknown): (Vec<_>, Vec<_>) = self.targets.iter().cloned().partition(|target| self.is_known(target));
        let (known, unknown) = tokio::join!(self.walk(known), self.walk(unknown));
        let mut ended = Vec::with_capacity(self.targets.len());
        for (target, result) in known.into_iter().chain(unknown) {
            ended.push((target.id, self.conclude(&target, result, started.elapsed()).await));
        }
        ended
    }

    fn is_known(&self, target: &Target) -> bool {
        self.parts.catalogue.peek(target.tenant.level(), &target.table, None).is_some()
    }

    async fn walk(&self, targets: Vec<Target>) -> Vec<(Target, Result<Loaded, WalkError>)> {
        let (mut described, mut results) = (vec![], vec![]);
        let described_at_once: Vec<_> = targets.into_iter().map(|target| self.describe(target).boxed()).collect();
        for (target, table) in join_all(described_at_once).await {
            match table {
                Ok(table) => described.push(TargetTable { id: target.id, tenant: target.tenant, table }),
                Err(error) => results.push((target, Err(error.into()))),
            }
        }
        let walked = match self.kind {
            Kind::Sweep => self.loader.sweep(&described, &self.progress).await,
            Kind::Load | Kind::Resync => self.load(&described).await,
        };
        for (target, result) in described.into_iter().zip(walked) {
            if let Err(error) = &result {
                self.prepare_another(&target, error);
            }
            results.push((Target { id: target.id, tenant: target.tenant, table: target.table.name.clone() }, result));
        }
        results
    }

    /// A sweep goes by the description at hand; a scan needs one that is fresh, so that it fills new columns.
    async fn describe(&self, target: Target) -> (Target, Result<Arc<TableSpec>, CatalogError>) {
        let (catalogue, level) = (&self.parts.catalogue, target.tenant.level());
        let at_hand = if self.kind == Kind::Sweep { catalogue.peek(level, &target.table, None) } else { None };
        let table = match at_hand {
            Some(table) => table,
            None => {
                let _waiting = self.progress.wait();
                self.describe_with_announced(&target).await
            }
        };
        (target, table)
    }

    /// With every column that anybody has met, be it another process.
    async fn describe_with_announced(&self, target: &Target) -> Result<Arc<TableSpec>, CatalogError> {
        let table = self.parts.catalogue.table(target.tenant.level(), &target.table, None).await?;
        match queue::announced_columns(&self.parts.pool, &target.table).await {
            Ok(announced) => self.parts.catalogue.with_columns(table, &announced).await,
            Err(error) => {
                tracing::warn!(%target, error = %chain(&error), "announced columns are not known");
                Ok(table)
            }
        }
    }

    async fn load(&self, targets: &[TargetTable]) -> Vec<Result<Loaded, WalkError>> {
        let mut results = Vec::with_capacity(targets.len());
        for target in targets {
            results.push(self.loader.load(target, &self.progress).await);
        }
        results
    }

    /// What was out of date is looked at anew the next time.
    fn prepare_another(&self, target: &TargetTable, error: &WalkError) {
        match error.recovery() {
            Recovery::Redescribe => self.parts.catalogue.renew(target.tenant.level(), &target.table.name),
            Recovery::Remake => self.loader.writer.mirror().forget(&target.table),
            Recovery::TakeUp | Recovery::None => {}
        }
    }

    async fn conclude(&self, target: &Target, result: Result<Loaded, WalkError>, elapsed: Duration) -> Ended {
        let kind = self.kind;
        match result {
            Ok(Loaded { changed: 0, skipped: 0 }) => {
                tracing::debug!(%target, %kind, "done, nothing had changed");
                Ended::Done
            }
            Ok(Loaded { changed, skipped }) => {
                tracing::info!(%target, %kind, changed, skipped, seconds = elapsed.as_secs(), "done");
                Ended::Done
            }
            Err(error) if self.is_of_api(&error).await => {
                tracing::debug!(%target, %kind, error = %chain(&error), "put off until the API answers");
                Ended::PutOff
            }
            Err(error @ WalkError::NotAsked) => {
                tracing::debug!(%target, %kind, error = %chain(&error), "put off");
                Ended::Failed
            }
            Err(error @ WalkError::OneKey(_)) => {
                tracing::error!(%target, %kind, error = %chain(&error), "the key of a table is not known in full");
                self.pause(target, &error).await;
                Ended::Failed
            }
            Err(error) => {
                tracing::warn!(%target, %kind, error = %chain(&error), "not finished, it goes on later");
                Ended::Failed
            }
        }
    }

    /// Until a person has told the key, nothing more is mirrored of the table.
    async fn pause(&self, target: &Target, error: &WalkError) {
        let because = chain(error).to_string();
        if let Err(error) = queue::target::pause(&self.parts.pool, target.id, 1, KEY_PAUSE, &because).await {
            tracing::warn!(%target, error = %chain(&error), "the table is not paused");
        }
    }

    /// Whether the API is away for everybody, or asks everybody for patience.
    async fn is_of_api(&self, error: &WalkError) -> bool {
        match error {
            WalkError::Upstream(error) => self.parts.upstream.examine(error).await.owner == Owner::Api,
            WalkError::Catalogue(CatalogError::Upstream(error)) => {
                self.parts.upstream.examine(error).await.owner == Owner::Api
            }
            _ => false,
        }
    }
}
