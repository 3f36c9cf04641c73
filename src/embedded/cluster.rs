//! The cluster: its files, its settings, its start and end.

use std::{
    fs::{self, File},
    io::Write,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use rand::{RngExt, distr::Alphanumeric};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{EmbeddedError, account::Account, binaries::Binaries, supervise::Supervised};

/// The role that owns everything in the cluster.
const ROLE: &str = "nxt_mirror";
/// How long a server may take to accept a connection; recovery after a kill is part of it.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server of an earlier process may take to be gone.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(30);
const PASSWORD_LENGTH: usize = 32;
/// Bytes of the log's end that an error shows.
const LOG_TAIL_BYTES: usize = 600;

/// What a crash of the machine may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Nothing that was committed.
    #[default]
    Durable,
    /// Everything: for tests, which make a new cluster each time.
    Volatile,
}

/// Which cluster to run.
#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Folder of the cluster, its password and its log.
    pub folder: PathBuf,
    /// See [`Durability`].
    pub durability: Durability,
}

/// A running server that ends with this value, and with this process at the latest.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    folder: PathBuf,
    port: u16,
    password: SecretString,
    server: Supervised,
}

/// Where things lie in the folder.
struct Layout<'a>(&'a Path);

impl Layout<'_> {
    fn data(&self) -> PathBuf {
        self.0.join("postgresql")
    }

    fn password(&self) -> PathBuf {
        self.0.join("password")
    }

    fn port(&self) -> PathBuf {
        self.0.join("port")
    }

    fn url(&self) -> PathBuf {
        self.0.join("url")
    }

    fn log(&self) -> PathBuf {
        self.0.join("postgresql.log")
    }
}

impl EmbeddedPostgres {
    /// Makes the cluster if the folder has none, starts the server and makes the database `nxt_mirror`.
    pub async fn start(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let started = tokio::task::spawn_blocking(move || Self::launch(&options)).await;
        let mut started = started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        started.wait_until_ready().await?;
        started.create_database(ROLE).await?;
        let url = started.url(ROLE);
        write_private(&Layout(&started.folder).url(), url.expose_secret().as_bytes())?;
        Ok(started)
    }

    fn launch(options: &EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let binaries = Binaries::find()?;
        let account = Account::choose()?;
        let folder = account.reachable(&options.folder)?;
        account.make_folder(&folder)?;
        let layout = Layout(&folder);
        let password = init(&binaries, &account, &layout)?;
        wait_for_predecessor(&layout.data())?;
        let port = free_port(&layout.port());
        write_private(&layout.port(), port.to_string().as_bytes())?;
        let log = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(layout.log())
            .map_err(EmbeddedError::file("cannot write", layout.log()))?;
        let program = binaries.program("postgres");
        let arguments = arguments(&layout.data(), port, options.durability);
        let server = Supervised::start(&account, &program, &arguments, log)
            .map_err(|source| EmbeddedError::Program { program, source })?;
        Ok(Self { folder, port, password, server })
    }

    async fn wait_until_ready(&mut self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match PgConnection::connect_with(&self.options("postgres")).await {
                Ok(connection) => {
                    _ = connection.close().await;
                    return Ok(());
                }
                Err(_) if !self.server.has_ended() && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(25)).await;
                }
                Err(_) => {
                    let log = log_tail(&Layout(&self.folder).log());
                    return Err(EmbeddedError::NotReady { path: self.folder.clone(), log });
                }
            }
        }
    }

    /// Makes a database, if there is none of that name. The name must be a plain identifier.
    pub async fn create_database(&self, name: &str) -> Result<(), EmbeddedError> {
        assert!(crate::domain::naming::is_well_formed(name), "{name:?} is not a plain identifier");
        let failed = |source| EmbeddedError::Sql { path: self.folder.clone(), source };
        let mut connection = PgConnection::connect_with(&self.options("postgres")).await.map_err(failed)?;
        let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        if !exists {
            let sql = format!("create database \"{name}\"");
            sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(failed)?;
        }
        connection.close().await.map_err(failed)
    }

    /// Removes a database, if there is one of that name, and ends its connections.
    pub async fn drop_database(&self, name: &str) -> Result<(), EmbeddedError> {
        assert!(crate::domain::naming::is_well_formed(name), "{name:?} is not a plain identifier");
        let failed = |source| EmbeddedError::Sql { path: self.folder.clone(), source };
        let mut connection = PgConnection::connect_with(&self.options("postgres")).await.map_err(failed)?;
        let sql = format!("drop database if exists \"{name}\" with (force)");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
            .username(ROLE)
            .password(self.password.expose_secret())
            .database(database)
    }

    /// URL of a database, password included.
    pub fn url(&self, database: &str) -> SecretString {
        let password = self.password.expose_secret();
        format!("postgresql://{ROLE}:{password}@127.0.0.1:{}/{database}", self.port).into()
    }

    /// A command that opens the database. Contains the password, which opens this private server alone.
    pub fn psql_command(&self, database: &str) -> SecretString {
        format!("psql '{}'", self.url(database).expose_secret()).into()
    }

    /// Where the cluster lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Shuts the server down and waits until it is.
    pub async fn stop(mut self) {
        if let Err(error) = tokio::task::spawn_blocking(move || self.server.stop()).await {
            tracing::error!(%error, "the database server's shutdown panicked");
        }
    }
}

/// Makes the cluster unless it is there, and returns the role's password.
fn init(binaries: &Binaries, account: &Account, layout: &Layout<'_>) -> Result<SecretString, EmbeddedError> {
    let (data, password_file) = (layout.data(), layout.password());
    if let Ok(version) = fs::read_to_string(data.join("PG_VERSION")) {
        let cluster = version.trim().to_owned();
        if cluster != binaries.major.to_string() {
            return Err(EmbeddedError::Version { path: data, cluster, server: binaries.major });
        }
        let password = fs::read_to_string(&password_file).map_err(EmbeddedError::file("cannot read", password_file))?;
        return Ok(password.trim().into());
    }
    let password: String = rand::rng().sample_iter(Alphanumeric).take(PASSWORD_LENGTH).map(char::from).collect();
    write_private(&password_file, password.as_bytes())?;
    account.own(&password_file)?;
    if let Err(error) = run_initdb(binaries, account, layout, "C.UTF-8") {
        // Not every system has that locale; C sorts the same way but changes the case of ASCII letters alone.
        tracing::warn!(%error, "no locale C.UTF-8, using C");
        run_initdb(binaries, account, layout, "C")?;
    }
    Ok(password.into())
}

fn run_initdb(
    binaries: &Binaries,
    account: &Account,
    layout: &Layout<'_>,
    locale: &str,
) -> Result<(), EmbeddedError> {
    let data = layout.data();
    if data.exists() {
        fs::remove_dir_all(&data).map_err(EmbeddedError::file("cannot clear", &data))?;
    }
    let program = binaries.program("initdb");
    let mut command = Command::new(&program);
    command
        .arg("--pgdata")
        .arg(&data)
        .args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", locale, "--no-sync"])
        .arg("--pwfile")
        .arg(layout.password())
        .current_dir("/");
    let output =
        account.apply(&mut command).output().map_err(|source| EmbeddedError::Program { program, source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(EmbeddedError::Init(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn arguments(data: &Path, port: u16, durability: Durability) -> Vec<String> {
    let mut arguments = vec!["-D".to_owned(), data.display().to_string()];
    let mut set = |name: &str, value: &str| arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    set("listen_addresses", "127.0.0.1");
    set("port", &port.to_string());
    set("unix_socket_directories", "");
    set("max_connections", "200");
    set("shared_buffers", "64MB");
    set("password_encryption", "scram-sha-256");
    set("log_min_messages", "warning");
    if durability == Durability::Volatile {
        set("fsync", "off");
        set("synchronous_commit", "off");
        set("full_page_writes", "off");
        set("autovacuum_naptime", "600");
    }
    arguments
}

/// A server whose owner was killed needs a moment to shut down. PostgreSQL itself recognises a stale lock file.
fn wait_for_predecessor(data: &Path) -> Result<(), EmbeddedError> {
    let lock = data.join("postmaster.pid");
    let deadline = Instant::now() + PREDECESSOR_TIMEOUT;
    while let Some(pid) = running_owner(&lock) {
        if Instant::now() > deadline {
            let log = format!("another server (process {pid}) is running on the same files");
            return Err(EmbeddedError::NotReady { path: data.to_owned(), log });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The process that a lock file names, if there is one of that number.
fn running_owner(lock: &Path) -> Option<i32> {
    let pid: i32 = fs::read_to_string(lock).ok()?.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    let alive = match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) {
        Ok(()) => true,
        Err(error) => error == nix::errno::Errno::EPERM,
    };
    // The number may belong to another program by now.
    let program = fs::read_to_string(format!("/proc/{pid}/comm"));
    (alive && program.map_or(true, |name| name.trim() == "postgres")).then_some(pid)
}

/// The port of the last run if it is free, so that a noted `psql` command stays valid; else any.
fn free_port(file: &Path) -> u16 {
    let last = fs::read_to_string(file).ok().and_then(|port| port.trim().parse().ok());
    let bound = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    last.and_then(|port| bound(port).ok()).or_else(|| bound(0).ok()).map_or(5432, |address| address.port())
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), EmbeddedError> {
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(EmbeddedError::file("cannot write", path))
}

fn log_tail(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_default();
    let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
    String::from_utf8_lossy(tail).trim().replace('\n', " | ")
}
