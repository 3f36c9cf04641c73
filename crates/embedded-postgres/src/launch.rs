//! From a data folder to a server that accepts connections.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::Connection;

use super::{
    Durability, EmbeddedError, POLL,
    account::Account,
    binaries::Binaries,
    blocking,
    cluster::Files,
    connect,
    process::{self, ServerProcess},
    url,
};

/// Everything that is settled before the server runs.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    pub(super) durability: Durability,
    pub(super) files: Files,
    pub(super) binaries: Binaries,
    pub(super) account: Account,
}

impl Launch {
    /// Makes the cluster if there is none, which takes a second or two.
    pub(super) async fn make_cluster(&self) -> Result<(), EmbeddedError> {
        let this = self.clone();
        blocking(move || this.files.ensure_cluster(&this.binaries, &this.account, this.durability)).await
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// Another process may take the port between our look and the server's, so an early end is tried again.
    pub(super) async fn start(
        &self,
        password: &SecretString,
        timeout: Duration,
    ) -> Result<(ServerProcess, u16), EmbeddedError> {
        self.start_at(|| self.files.choose_port(), password, timeout).await
    }

    /// The same at the port that those know who are connected.
    pub(super) async fn start_again(
        &self,
        port: u16,
        password: &SecretString,
        timeout: Duration,
    ) -> Result<ServerProcess, EmbeddedError> {
        Ok(self.start_at(|| Ok(port), password, timeout).await?.0)
    }

    async fn start_at(
        &self,
        choose_port: impl Fn() -> Result<u16, EmbeddedError>,
        password: &SecretString,
        timeout: Duration,
    ) -> Result<(ServerProcess, u16), EmbeddedError> {
        let mut attempts_left = 3;
        loop {
            process::clear_leftover(self).await?;
            let port = choose_port()?;
            let mut process = ServerProcess::spawn(self, port)?;
            attempts_left -= 1;
            match self.ready(&mut process, &url(port, password, "postgres"), timeout).await {
                Ok(()) => return Ok((process, port)),
                Err(EmbeddedError::Ended { tail, .. }) if attempts_left > 0 => {
                    tracing::warn!(tail, "the embedded PostgreSQL server ended at once, trying again");
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ready(
        &self,
        process: &mut ServerProcess,
        url: &SecretString,
        timeout: Duration,
    ) -> Result<(), EmbeddedError> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let source = match connect(url).await {
                Ok(connection) => return connection.close().await.or(Ok(())),
                Err(source) => source,
            };
            let log = self.files.log();
            if process.has_ended() {
                let tail = self.files.log_tail();
                return Err(EmbeddedError::Ended { log, tail });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(EmbeddedError::NotReady {
                    seconds: timeout.as_secs(),
                    tail: self.files.log_tail(),
                    log,
                    source,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
