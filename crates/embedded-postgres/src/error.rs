//! What can go wrong with an embedded server, in words for the person who started us.

use std::io;
use std::path::PathBuf;

/// Failures of [`EmbeddedPostgres`](super::EmbeddedPostgres).
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Neither an installed server was found nor could one be fetched.
    #[error(
        "no PostgreSQL server (14 or newer) found and none could be fetched: install one (Debian and Ubuntu: \
         apt-get install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql) \
         or set DATABASE_URL"
    )]
    NoServer {
        /// Why fetching failed.
        #[source]
        source: super::fetch::FetchError,
    },
    /// The data folder holds a cluster of a version that no server found here can open.
    #[error(
        "{} was made by PostgreSQL {wanted}, but only version {found} was found: install PostgreSQL {wanted}, \
         or move the folder away to start afresh", path.display()
    )]
    WrongVersion { path: PathBuf, wanted: String, found: String },
    /// Another process of ours holds the data folder.
    #[error("the data folder {} is in use by another nxt-mirror: stop it, or set NXT_DATA_DIR to another folder", path.display())]
    InUse { path: PathBuf },
    /// The folder's server had another address before.
    #[error("another program has taken the port of the embedded PostgreSQL server: start nxt-mirror again")]
    Moved,
    /// Running as root, and no account to run the server under.
    #[error(
        "PostgreSQL refuses to run as root, and this machine has neither a `postgres` nor a `nobody` user to run it as: \
         run nxt-mirror as an ordinary user, or set DATABASE_URL"
    )]
    NoAccount,
    /// No folder that the server's unprivileged user can reach.
    #[error(
        "the user `{account}`, whom the server runs as, cannot reach {}: set NXT_DATA_DIR to a folder that every user may enter",
        path.display()
    )]
    Unreachable { account: String, path: PathBuf },
    /// A server left over from an earlier run does not go away.
    #[error("an earlier server (process {pid}) still runs in {} and does not stop", path.display())]
    Leftover { pid: u32, path: PathBuf },
    /// `initdb` ran and failed.
    #[error("initdb failed: {output}")]
    Initdb { output: String },
    /// The server ended instead of accepting connections.
    #[error("the embedded PostgreSQL server ended while starting; its log {} ends with: {tail}", log.display())]
    Ended { log: PathBuf, tail: String },
    /// The server runs, but accepts no connection in time.
    #[error(
        "the embedded PostgreSQL server accepted no connection within {seconds} s; its log {} ends with: {tail}",
        log.display()
    )]
    NotReady {
        seconds: u64,
        log: PathBuf,
        tail: String,
        /// The last refusal.
        #[source]
        source: sqlx::Error,
    },
    /// The server runs and does not stop when told to.
    #[error("the embedded PostgreSQL server did not stop within {seconds} s")]
    NotStopped { seconds: u64 },
    /// The server answers, but not to what was asked of it.
    #[error("cannot {action} on the embedded PostgreSQL server")]
    Database {
        action: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// A file or process operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    /// Wraps an operating system error with what was attempted and on what.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
