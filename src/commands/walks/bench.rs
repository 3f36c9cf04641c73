//! What both commands work with.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use sqlx::PgPool;
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    app,
    cli::Targets,
    commands::{
        Usage,
        asker::asker,
        own_server::{OwnServer, connector},
    },
    config::{MirrorSettings, Role, Settings, Source},
    database,
    domain::{TableName, TargetId, TargetTable},
    ops::Scope,
    queue,
    telemetry::{self, Metrics, chain},
    walk::{self, Loader, Selection, Unreachable, Verifier},
    worker::{Parts, Worker},
};

/// How long marked rows are waited for while none of them is settled.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Opened parts and the targets that were named.
pub(super) struct Bench {
    pub(super) targets: Vec<TargetTable>,
    pub(super) unknown: Vec<Unreachable>,
    parts: Parts,
    /// Says that the worker is alive.
    beating: JoinHandle<()>,
    server: Option<OwnServer>,
    settings: MirrorSettings,
    selection: Selection,
}

impl Bench {
    /// Opens everything, and finds the targets.
    pub(super) async fn open(config: Option<&Path>, targets: Targets) -> anyhow::Result<Self> {
        let mut settings = Settings::read(&Source::from_process(config)?, Role::Worker)?;
        telemetry::start(&settings.log);
        let selection = selection(targets, &mut settings.mirror)?;
        let (connector, server) = connector(&settings.database).await?;
        let pool = database::connect(&connector).await?;
        database::migrate(&pool).await?;
        let upstream = settings.upstream.as_ref().context("a worker has API settings")?;
        let metrics = Arc::new(Metrics::new());
        let parts = app::worker_parts(upstream, &settings.mirror, &pool, &metrics, &Arc::new(Notify::new())).await?;
        let beating = tokio::spawn(app::beat(parts.queue.clone(), parts.me));
        let (targets, unknown) = (vec![], vec![]);
        let mut bench = Self { targets, unknown, parts, beating, server, settings: settings.mirror, selection };
        bench.find_targets().await?;
        Ok(bench)
    }

    async fn find_targets(&mut self) -> anyhow::Result<()> {
        let Parts { pool, upstream, catalogue, .. } = &self.parts;
        let found = walk::targets(pool, upstream, catalogue, &self.settings, &self.selection).await;
        (self.targets, self.unknown) = found.context("find the tables and companies")?;
        Ok(())
    }

    /// Describes the tables anew: an earlier run did so, and this one shall see what has changed since.
    pub(super) async fn describe_anew(&mut self) -> anyhow::Result<()> {
        self.parts.catalogue.forget();
        self.find_targets().await
    }

    pub(super) fn pool(&self) -> &PgPool {
        &self.parts.pool
    }

    pub(super) fn loader(&self) -> Loader {
        app::loader(&self.parts)
    }

    pub(super) fn verifier(&self) -> Verifier {
        app::verifier(&self.parts)
    }

    /// Works off dirty rows.
    pub(super) fn worker(&self) -> Worker {
        Worker::new(self.parts.clone())
    }

    /// Says which tables have no target.
    pub(super) fn report_unknown(&self) {
        for part in &self.unknown {
            complain!("{part}: skipped, {}", chain(&part.error));
        }
    }

    /// Into the sync log: what is done, and who asked for it. What it is about is done whether it can be logged or not.
    pub(super) async fn log(&self, target: Option<TargetId>, what: &str) {
        let asked = async {
            let asker = asker(self.pool()).await?;
            Ok::<_, anyhow::Error>(queue::log_operator(self.pool(), target, &format!("{what}, {asker}")).await?)
        };
        if let Err(error) = asked.await {
            complain!("not in the sync log: {what}, {}", chain(&*error));
        }
    }

    /// What was named, in words.
    pub(super) fn scope(&self) -> String {
        Scope { companies: &self.selection.companies, tables: &self.selection.tables }.to_string()
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.beating.abort();
        app::leave(&self.parts.queue, self.parts.me).await;
        self.parts.pool.close().await;
        match self.server {
            Some(server) => Ok(server.stop().await?),
            None => Ok(()),
        }
    }
}

/// What was named. It is mirrored, too, or rows of it that are fetched would be ignored.
fn selection(targets: Targets, settings: &mut MirrorSettings) -> anyhow::Result<Selection> {
    let tables = targets.table.into_iter().map(TableName::new).collect::<Result<Vec<_>, _>>().context("--table")?;
    if tables.is_empty() && settings.tables.is_empty() {
        return Err(Usage("no table is named: give --table, or set NXT_TABLES".into()).into());
    }
    if !settings.tables.is_empty() {
        settings.tables.extend(tables.iter().cloned());
    }
    Ok(Selection { tables, companies: targets.company })
}
