//! Histories: begun with the rows that a target has, and trimmed at their old end.

use std::{sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::WalkError;
use crate::{
    config::MirrorSettings,
    domain::{DatabaseTime, TableSpec, Target, TargetTable},
    mirror::Mirror,
    queue,
    telemetry::chain,
    upstream::Catalogue,
};

/// How often targets are looked for whose history has not begun.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often old versions are removed.
const TRIM_INTERVAL: Duration = Duration::from_secs(6 * 3_600);

/// What histories are kept with.
#[derive(Debug, Clone)]
pub struct Histories {
    /// The database.
    pub pool: PgPool,
    /// The mirrored tables.
    pub mirror: Mirror,
    /// Describes them.
    pub catalogue: Arc<Catalogue>,
    /// What is mirrored, and whose versions are kept for how long.
    pub settings: MirrorSettings,
}

impl Histories {
    /// Keeps histories until told to stop. Of several replicas each may: what another one has done is found done.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut trimmed: Option<Instant> = None;
        let mut timer = tokio::time::interval(LOOK_INTERVAL);
        loop {
            timer.tick().await;
            let is_due = trimmed.is_none_or(|trimmed| trimmed.elapsed() >= TRIM_INTERVAL);
            match self.look(is_due).await {
                Ok(()) if is_due => trimmed = Some(Instant::now()),
                Ok(()) => {}
                Err(error) => tracing::warn!(error = %chain(&error), "histories not looked at"),
            }
        }
    }

    async fn look(&self, is_to_be_trimmed: bool) -> Result<(), WalkError> {
        // Nothing is looked for where none is kept: there may be very many targets.
        let mut kept = if self.settings.history.is_off() { vec![] } else { queue::target::list(&self.pool).await? };
        kept.retain(|target| self.settings.history.includes(&target.table));
        if kept.iter().any(|target| self.settings.why_not(target).is_some()) {
            let mirrored = self.mirror.descriptions().await?;
            kept.retain(|target| is_worth_a_look(target, &self.settings, &mirrored));
        }
        let ids: Vec<_> = kept.iter().map(|target| target.id).collect();
        self.mirror.end_other_histories(&ids).await?;
        let ended_before = match self.settings.history_days {
            Some(days) if is_to_be_trimmed => Some(self.ago(days).await?),
            _ => None,
        };
        for target in kept {
            // Another target goes on.
            if let Err(error) = self.look_at(&target, ended_before).await {
                tracing::warn!(%target, error = %chain(&error), "the history is begun later");
            }
        }
        Ok(())
    }

    async fn look_at(&self, target: &Target, ended_before: Option<DatabaseTime>) -> Result<(), WalkError> {
        // A table that is not known yet has no rows that its history could begin with.
        let Some(Ok(described)) = self.catalogue.peek(target.tenant.level(), &target.table, None) else {
            return Ok(());
        };
        let table = self.mirror.ensure(&described).await?;
        let target = TargetTable { id: target.id, tenant: target.tenant, table };
        if !self.mirror.has_begun(&target).await? {
            self.mirror.begin_history(&target).await?;
            tracing::info!(%target, "history begun");
        }
        match ended_before {
            Some(moment) => Ok(self.mirror.forget_versions(&target, moment).await?),
            None => Ok(()),
        }
    }

    async fn ago(&self, days: u32) -> Result<DatabaseTime, WalkError> {
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let moment =
            sqlx::query_scalar!(r#"select now() - make_interval(days => $1) as "moment!: DatabaseTime""#, days);
        Ok(moment.fetch_one(&self.pool).await?)
    }
}

/// No table is made for what the settings leave out; versions in one that is there are still trimmed.
fn is_worth_a_look(target: &Target, settings: &MirrorSettings, mirrored: &[TableSpec]) -> bool {
    settings.why_not(target).is_none() || mirrored.iter().any(|table| table.name == target.table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Source,
        domain::{TableName, TargetId, Tenant},
    };

    #[test]
    fn no_history_is_begun_of_what_the_settings_leave_out() {
        let pairs = [("NXT_TABLES", "Order".to_owned()), ("NXT_COMPANIES", "1".to_owned())];
        let settings = MirrorSettings::read(&Source::from_pairs(pairs)).unwrap();
        let is_worth_it = |company: i64, table: &str, mirrored: &[TableSpec]| {
            let table = TableName::new(table).unwrap();
            let target = Target { id: TargetId(1), tenant: Tenant::Company(company), table };
            is_worth_a_look(&target, &settings, mirrored)
        };
        let product = TableSpec::plain("Product", &[]);
        assert!(is_worth_it(1, "Order", &[]));
        assert!(!is_worth_it(1, "Product", &[]));
        assert!(!is_worth_it(2, "Order", &[]));
        assert!(is_worth_it(1, "Product", &[product]));
    }
}
