//! Folders for servers that a test owns.

use std::path::PathBuf;

use nxt_embedded_postgres::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres};

/// A data folder that every user can reach, removed when the test ends.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// A folder that is not made yet.
    pub fn new() -> Self {
        Self(std::env::temp_dir().join(format!("nxt-embedded-{}", uuid::Uuid::new_v4())))
    }

    /// A server in it.
    pub async fn start(&self) -> EmbeddedPostgres {
        self.try_start().await.expect("the server starts")
    }

    /// Volatile, since no test here takes the machine's power away.
    pub async fn try_start(&self) -> Result<EmbeddedPostgres, EmbeddedError> {
        EmbeddedPostgres::start(EmbeddedOptions::new(&self.0).volatile()).await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder may be in use still if the test failed; then the system's temporary folder keeps it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
