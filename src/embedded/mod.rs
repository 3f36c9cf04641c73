//! A PostgreSQL server of our own: a private cluster in a data folder, from an installed server's binaries.
//!
//! The server belongs to this process. A supervisor shell holds a pipe from us and shuts the server down when the
//! pipe closes, so that no server outlives us, however we end. PostgreSQL refuses to run as root, so for root it
//! runs as an unprivileged user.

mod account;
mod binaries;
mod cluster;
mod supervise;

use std::path::PathBuf;

pub use cluster::{Durability, EmbeddedOptions, EmbeddedPostgres};

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server is installed.
    #[error(
        "no PostgreSQL server (14 or newer) was found on PATH, by pg_config or in the usual places; install one \
         (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install \
         postgresql) or set DATABASE_URL to a server that runs elsewhere"
    )]
    NotInstalled,
    /// A file or folder cannot be used.
    #[error("{action} {path}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A program of PostgreSQL cannot be started.
    #[error("{program} cannot be started")]
    Program {
        /// Its path.
        program: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Init(String),
    /// The server did not come up.
    #[error("the PostgreSQL server in {path} did not start: {log}")]
    NotReady {
        /// The data folder.
        path: PathBuf,
        /// The end of its log.
        log: String,
    },
    /// The cluster's files belong to another major version than the installed server.
    #[error("the cluster in {path} is of PostgreSQL {cluster}, but the installed server is {server}; move the folder away or install that version")]
    Version {
        /// The data folder.
        path: PathBuf,
        /// Major version of the files.
        cluster: String,
        /// Major version of the server.
        server: u32,
    },
    /// For root: no other account can run the server.
    #[error("PostgreSQL refuses to run as root, and neither a user postgres nor a user nobody exists")]
    NoAccount,
    /// The server is up but refuses.
    #[error("the PostgreSQL server in {path} cannot be used")]
    Sql {
        /// The data folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

impl EmbeddedError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
