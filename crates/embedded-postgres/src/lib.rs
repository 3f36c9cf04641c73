//! An embedded PostgreSQL: a private server in a data folder, for those who have no database to point us at.
//!
//! It is an ordinary server of the machine's own installation (or a fetched one), started and stopped by us:
//! durable, password protected, listening on the loopback address alone. As root it runs under an unprivileged
//! user, because PostgreSQL refuses root. It ends when its owner does, and its data stays for the next run.
//!
//! `binaries` finds the server, `fetch` fetches one, `account` decides whom it runs as, `cluster` owns the files,
//! `launch` starts the server, `process` is the running one, and `keep` starts it again.

mod account;
mod binaries;
mod cluster;
mod error;
mod fetch;
mod keep;
mod launch;
mod process;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};

use account::Account;
use binaries::Binaries;
use cluster::{Files, ROLE};
pub use error::EmbeddedError;
pub use fetch::FetchError;
use launch::Launch;
use process::ServerProcess;

/// The database made for the mirror in every embedded server.
pub const DATABASE: &str = "nxt_mirror";

/// How often a state is looked at that has no event to wait for.
const POLL: Duration = Duration::from_millis(20);

/// Whether commits survive a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A commit is on disk before it is acknowledged.
    Durable,
    /// A crash of the machine may lose or corrupt data, a kill of the server does not: for tests only.
    Volatile,
}

/// How to start an embedded server.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Folder for the server's files, made if missing.
    pub data_dir: PathBuf,
    /// Durable unless asked otherwise.
    pub durability: Durability,
    /// How long recovery after a crash may take before the start counts as failed.
    pub start_timeout: Duration,
}

impl EmbeddedOptions {
    /// A durable server in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), durability: Durability::Durable, start_timeout: Duration::from_secs(120) }
    }

    /// Trades crash safety for speed.
    pub fn volatile(mut self) -> Self {
        self.durability = Durability::Volatile;
        self
    }
}

/// A running embedded server. It shuts down when this value is dropped or its process ends, however that happens.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    process: ServerProcess,
    launch: Launch,
    port: u16,
    password: SecretString,
    start_timeout: Duration,
    lock: File,
}

impl EmbeddedPostgres {
    /// Starts the server in the data folder, making the cluster first if there is none, and waits until it accepts
    /// connections. A server that a killed process left behind is waited for and, if need be, stopped.
    ///
    /// # Errors
    /// When no server is installed and none can be fetched, when the folder is in use by another process or belongs
    /// to another version, and when the server does not start; the message then ends with its log.
    pub async fn start(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let wanted = absolute(&options.data_dir)?;
        let account = Account::choose(&wanted.join("cluster"))?;
        let files = Files { folder: account::reachable_folder(&wanted, &account)? };
        let account = Account::choose(&files.cluster())?;
        let lock = files.lock()?;
        let binaries = choose_binaries(&files).await?;
        let launch = Launch { durability: options.durability, files, binaries, account };
        launch.make_cluster().await?;
        let password = launch.files.password()?;
        let (process, port) = launch.start(&password, options.start_timeout).await?;
        let server = Self { process, launch, port, password, start_timeout: options.start_timeout, lock };
        server.ensure_database().await?;
        tracing::info!(
            folder = %server.launch.files.folder.display(),
            port,
            version = server.launch.binaries.major,
            "embedded PostgreSQL server is running"
        );
        Ok(server)
    }

    /// The address of `database` on the server that another process runs in this folder, password included; `None` when
    /// none ever ran there. Whether it runs now, a connection will tell.
    ///
    /// # Errors
    /// When the folder's files cannot be read.
    pub fn url_elsewhere(data_dir: &Path, database: &str) -> Result<Option<SecretString>, EmbeddedError> {
        let wanted = absolute(data_dir)?;
        let account = Account::choose(&wanted.join("cluster"))?;
        let files = Files { folder: account::reachable_folder(&wanted, &account)? };
        match files.last_port() {
            Some(port) => Ok(Some(url(port, &files.password()?, database))),
            None => Ok(None),
        }
    }

    /// The address of `database` on this server, password included.
    pub fn url(&self, database: &str) -> SecretString {
        url(self.port, &self.password, database)
    }

    /// A shell command that opens `database` with psql. It names the password's file and not the password.
    pub fn psql_command(&self, database: &str) -> String {
        let on_path = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("psql").is_file()));
        let psql = if on_path { PathBuf::from("psql") } else { self.launch.binaries.program("psql") };
        format!(
            "PGPASSFILE={} {} -h 127.0.0.1 -p {} -U {ROLE} -d {}",
            shell_quoted(&self.launch.files.pgpass().to_string_lossy()),
            shell_quoted(&psql.to_string_lossy()),
            self.port,
            shell_quoted(database),
        )
    }

    /// The folder in use. It differs from the one asked for when the server's user could not reach that one.
    pub fn data_dir(&self) -> &Path {
        &self.launch.files.folder
    }

    /// The server's process id, as long as it runs.
    pub fn server_pid(&self) -> Option<u32> {
        process::server_pid(&self.launch)
    }

    /// Shuts the server down, disconnecting whoever is connected, and waits until it has ended.
    ///
    /// # Errors
    /// When it has not ended after a minute.
    pub async fn stop(mut self) -> Result<(), EmbeddedError> {
        self.process.stop().await
    }

    async fn ensure_database(&self) -> Result<(), EmbeddedError> {
        let failed = |action| move |source| EmbeddedError::Database { action, source };
        let mut connection =
            connect(&self.url("postgres")).await.map_err(failed("connect to the database `postgres`"))?;
        let exists = sqlx::query("select from pg_database where datname = $1")
            .bind(DATABASE)
            .fetch_optional(&mut connection)
            .await
            .map_err(failed("list the databases"))?;
        if exists.is_none() {
            sqlx::raw_sql("create database nxt_mirror")
                .execute(&mut connection)
                .await
                .map_err(failed("create the database `nxt_mirror`"))?;
        }
        connection.close().await.map_err(failed("close a connection"))
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        self.process.begin_stop();
        // Closing the file is not enough: a child being started by another thread holds a copy until it runs its
        // program. An error leaves nothing to do, since the lock then goes with the file.
        let _ = self.lock.unlock();
    }
}

fn absolute(folder: &Path) -> Result<PathBuf, EmbeddedError> {
    std::path::absolute(folder).map_err(EmbeddedError::io("resolve the data folder", folder))
}

/// The newest installed server, or the one that made the cluster; a fetched one where none is installed.
async fn choose_binaries(files: &Files) -> Result<Binaries, EmbeddedError> {
    let mut found = blocking(binaries::installed).await;
    if found.is_empty() {
        let fetched = fetch::fetched(&files.fetched()).await.map_err(|source| EmbeddedError::NoServer { source })?;
        found.push(fetched);
    }
    let Some(wanted) = files.cluster_version() else {
        return Ok(found.swap_remove(0));
    };
    let versions: Vec<String> = found.iter().map(|one| one.major.to_string()).collect();
    match versions.iter().position(|version| *version == wanted) {
        Some(index) => Ok(found.swap_remove(index)),
        None => Err(EmbeddedError::WrongVersion { path: files.cluster(), wanted, found: versions.join(", ") }),
    }
}

async fn connect(url: &SecretString) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect(url.expose_secret()).await
}

/// The password is hexadecimal and needs no escaping; database names of ours neither.
fn url(port: u16, password: &SecretString, database: &str) -> SecretString {
    let password = password.expose_secret();
    format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{database}?sslmode=disable").into()
}

/// Runs slow synchronous work beside the runtime; a panic in it continues here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_blanks_and_quotes_reaches_the_shell_whole() {
        assert_eq!(shell_quoted("/srv/nxt-data/pgpass"), "/srv/nxt-data/pgpass");
        assert_eq!(shell_quoted("it's here"), r"'it'\''s here'");
        assert_eq!(shell_quoted(""), "''");
    }
}
