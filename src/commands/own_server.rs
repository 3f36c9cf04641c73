//! The database server of our own, which stands in for `DATABASE_URL`.

use anyhow::Context;
use nxt_embedded_postgres::{DATABASE, EmbeddedError, EmbeddedOptions, EmbeddedPostgres};
use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{config::DatabaseSettings, database::Connector, telemetry::chain};

/// Who runs the server that this process uses.
pub(super) enum OwnServer {
    /// This process.
    Here(Box<EmbeddedPostgres>),
    /// Another one, in the same folder.
    Elsewhere { options: EmbeddedOptions, url: SecretString },
}

/// The configured database, or a server of our own.
pub(super) async fn connector(settings: &DatabaseSettings) -> anyhow::Result<(Connector, Option<OwnServer>)> {
    if let Some(address) = &settings.address {
        return Ok((Connector::new(address.clone()), None));
    }
    let options = EmbeddedOptions::new(&settings.data_dir);
    let started = EmbeddedPostgres::start(options.clone()).await;
    if let Err(EmbeddedError::InUse { .. }) = &started
        && let Some(url) = EmbeddedPostgres::url_elsewhere(&settings.data_dir, DATABASE)?
    {
        // The daemon runs it: its database is the one that is meant.
        return Ok((Connector::to(&url)?, Some(OwnServer::Elsewhere { options, url })));
    }
    let server = started.context("start a database of our own, as DATABASE_URL is not set")?;
    tracing::info!(
        folder = %server.data_dir().display(),
        "DATABASE_URL is not set: using a database of our own"
    );
    Ok((Connector::to(&server.url(DATABASE))?, Some(OwnServer::Here(Box::new(server)))))
}

impl OwnServer {
    /// Stops it, if it is this process's.
    pub(super) async fn stop(self) -> Result<(), EmbeddedError> {
        match self {
            Self::Here(server) => server.stop().await,
            Self::Elsewhere { .. } => Ok(()),
        }
    }

    /// Sees to it that the server runs, also when the process that ran it is gone, until told to end.
    async fn keep(self, finished: CancellationToken) -> Result<(), EmbeddedError> {
        let server = match self {
            Self::Here(server) => *server,
            Self::Elsewhere { options, url } => {
                let taking_over = EmbeddedPostgres::take_over(options, DATABASE, &url);
                let Some(taken) = finished.run_until_cancelled(taking_over).await else { return Ok(()) };
                tracing::info!("the database of our own is run by this process now");
                taken?
            }
        };
        server.keep(finished.cancelled()).await
    }
}

/// A server that runs for as long as the daemon does.
pub(super) struct Kept {
    finished: CancellationToken,
    task: JoinHandle<Result<(), EmbeddedError>>,
}

impl Kept {
    /// Keeps the server running. If that fails, the daemon is told to stop.
    pub(super) fn start(server: OwnServer, stop: CancellationToken) -> Self {
        let finished = CancellationToken::new();
        let keeping = server.keep(finished.clone());
        let task = tokio::spawn(async move {
            let kept = keeping.await;
            if let Err(error) = &kept {
                tracing::error!(error = %chain(error), "the database of our own is gone; the daemon ends");
                stop.cancel();
            }
            kept
        });
        Self { finished, task }
    }

    /// Stops the server, when the daemon has ended.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        self.finished.cancel();
        self.task
            .await
            .context("the task that keeps the database panicked")?
            .context("keep the database of our own running")
    }
}
