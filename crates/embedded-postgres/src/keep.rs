//! A server that ended by itself is started again.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres};

/// How often the server is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often it is looked whether the folder's owner is gone.
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(500);

impl EmbeddedPostgres {
    /// Keeps the server running at its address until `finished`, then stops it.
    ///
    /// # Errors
    /// When the server has ended, by a kill for example, and does not start again.
    pub async fn keep(mut self, finished: impl Future<Output = ()>) -> Result<(), EmbeddedError> {
        let kept = tokio::select! {
            error = self.restart_whenever_it_ends() => Err(error),
            () = finished => Ok(()),
        };
        kept.and(self.stop().await)
    }

    /// The server in a folder that another process has now, as soon as that one is gone. Its `database` has the address
    /// `url` there, and keeps it.
    ///
    /// # Errors
    /// When it does not start, or another program has taken its port.
    pub async fn take_over(
        options: EmbeddedOptions,
        database: &str,
        url: &SecretString,
    ) -> Result<Self, EmbeddedError> {
        loop {
            match Self::start(options.clone()).await {
                Err(EmbeddedError::InUse { .. }) => tokio::time::sleep(TAKE_OVER_INTERVAL).await,
                Ok(server) if server.url(database).expose_secret() == url.expose_secret() => return Ok(server),
                Ok(server) => {
                    server.stop().await?;
                    return Err(EmbeddedError::Moved);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn restart_whenever_it_ends(&mut self) -> EmbeddedError {
        loop {
            while !self.process.has_ended() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
            tracing::warn!(
                tail = self.launch.files.log_tail(),
                "the embedded PostgreSQL server ended; it is started again"
            );
            match self.launch.start_again(self.port, &self.password, self.start_timeout).await {
                Ok(process) => self.process = process,
                Err(error) => return error,
            }
            tracing::info!(port = self.port, "the embedded PostgreSQL server is running again");
        }
    }
}
