//! Folders for servers that a test owns.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use nxt_embedded_postgres::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::place;

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
        Self(place::folder().join(Uuid::new_v4().to_string()))
    }

    /// A server in it.
    pub async fn start(&self) -> EmbeddedPostgres {
        self.try_start().await.expect("the server starts")
    }

    /// Volatile, since no test here takes the machine's power away. The first start in a folder is of a cluster that
    /// was never used.
    pub async fn try_start(&self) -> Result<EmbeddedPostgres, EmbeddedError> {
        if !self.0.exists() {
            self.copy_from(unused_cluster().await?);
        }
        EmbeddedPostgres::start(EmbeddedOptions::new(&self.0).volatile()).await
    }

    /// Fills it with the folder of a server that does not run, owners included: the server's user owns the cluster.
    pub fn copy_from(&self, folder: &Path) {
        let copied = Command::new("cp").arg("-a").args([folder, &self.0]).status();
        assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", folder.display());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder may be in use still if the test failed; then it goes with the process.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A data folder to copy: making a cluster takes a second of a processor, and copying one a twentieth of that.
async fn unused_cluster() -> Result<&'static Path, EmbeddedError> {
    static UNUSED: OnceCell<PathBuf> = OnceCell::const_new();
    let make = async || {
        let folder = place::folder().join("unused");
        EmbeddedPostgres::start(EmbeddedOptions::new(&folder).volatile()).await?.stop().await?;
        // Each copy looks for a port of its own.
        std::fs::remove_file(folder.join("port")).expect("a stopped server's port is noted");
        Ok(folder)
    };
    Ok(UNUSED.get_or_try_init(make).await?)
}
