//! The files of one embedded server: cluster, password, port, log and lock.
//!
//! ```text
//! nxt-data/
//!   lock            held by the process that runs the server
//!   cluster/        the PostgreSQL cluster, owned by the server's user
//!   pgpass          the password, in the form psql reads
//!   port            the port of the last run, asked for again so that addresses stay valid
//!   server.log      the server's messages of this run; server.log.old of the one before
//!   postgresql/     a fetched server, where none is installed
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use secrecy::{ExposeSecret, SecretString};

use super::Durability;
use super::account::Account;
use super::binaries::Binaries;
use super::error::EmbeddedError;

/// The database role everything runs as; it owns the cluster.
pub(super) const ROLE: &str = "nxt_mirror";

/// Paths within a data folder.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
}

impl Files {
    pub(super) fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    pub(super) fn pgpass(&self) -> PathBuf {
        self.folder.join("pgpass")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    pub(super) fn fetched(&self) -> PathBuf {
        self.folder.join("postgresql")
    }

    /// The major version that made the cluster, if there is one.
    pub(super) fn cluster_version(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.cluster().join("PG_VERSION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Takes the folder for this process. The lock goes with the process, however it ends.
    pub(super) fn lock(&self) -> Result<File, EmbeddedError> {
        let path = self.folder.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(EmbeddedError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { path: self.folder.clone() }),
            Err(TryLockError::Error(source)) => Err(EmbeddedError::io("lock", path)(source)),
        }
    }

    /// A fresh log file for this run; the last run's is kept.
    pub(super) fn new_log(&self) -> Result<File, EmbeddedError> {
        let log = self.log();
        if log.exists() {
            let old = self.folder.join("server.log.old");
            std::fs::rename(&log, old).map_err(EmbeddedError::io("rename", &log))?;
        }
        create_private(&log)
    }

    /// The last lines of the server's log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// The port of the last run.
    pub(super) fn last_port(&self) -> Option<u16> {
        std::fs::read_to_string(self.folder.join("port")).ok()?.trim().parse().ok()
    }

    /// The port of the last run if nobody took it meanwhile, otherwise a free one.
    pub(super) fn choose_port(&self) -> Result<u16, EmbeddedError> {
        let path = self.folder.join("port");
        let last = self.last_port();
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = last
            .and_then(|port| bind(port).ok())
            .map_or_else(|| bind(0), Ok)
            .and_then(|listener| listener.local_addr())
            .map_err(EmbeddedError::io("find a free port for", &self.folder))?;
        std::fs::write(&path, format!("{}\n", listener.port())).map_err(EmbeddedError::io("write", path))?;
        Ok(listener.port())
    }

    /// The password of [`ROLE`], made with the cluster.
    pub(super) fn password(&self) -> Result<SecretString, EmbeddedError> {
        let path = self.pgpass();
        let text = std::fs::read_to_string(&path).map_err(EmbeddedError::io("read", &path))?;
        let password = text.trim().rsplit(':').next().unwrap_or_default();
        Ok(password.into())
    }

    /// Makes the cluster unless it exists. It appears under its name only when complete, so that a kill half-way
    /// leaves nothing that looks like one.
    pub(super) fn ensure_cluster(
        &self,
        binaries: &Binaries,
        account: &Account,
        durability: Durability,
    ) -> Result<(), EmbeddedError> {
        if self.cluster_version().is_some() {
            return Ok(());
        }
        let password = new_password();
        let unfinished = self.folder.join("cluster.unfinished");
        let initdb = Initdb {
            binaries,
            account,
            durability,
            into: &unfinished,
            password_file: &self.folder.join("password.unfinished"),
        };
        initdb.run(&password)?;
        let line = format!("127.0.0.1:*:*:{ROLE}:{}\n", password.expose_secret());
        write_private(&self.pgpass(), &line)?;
        std::fs::rename(&unfinished, self.cluster()).map_err(EmbeddedError::io("put in place", self.cluster()))
    }
}

/// One making of a cluster.
struct Initdb<'a> {
    binaries: &'a Binaries,
    account: &'a Account,
    durability: Durability,
    into: &'a Path,
    password_file: &'a Path,
}

impl Initdb<'_> {
    fn run(&self, password: &SecretString) -> Result<(), EmbeddedError> {
        write_private(self.password_file, password.expose_secret())?;
        self.account.give(self.password_file)?;
        let mut result = self.attempt("C.UTF-8");
        if let Err(error) = &result {
            tracing::warn!(
                %error,
                "initdb refuses the locale C.UTF-8, trying C: letters beyond ASCII will not change case in SQL"
            );
            result = self.attempt("C");
        }
        std::fs::remove_file(self.password_file).map_err(EmbeddedError::io("remove", self.password_file))?;
        result
    }

    fn attempt(&self, locale: &str) -> Result<(), EmbeddedError> {
        if self.into.exists() {
            std::fs::remove_dir_all(self.into).map_err(EmbeddedError::io("clear", self.into))?;
        }
        std::fs::create_dir(self.into).map_err(EmbeddedError::io("create", self.into))?;
        self.account.give(self.into)?;
        let output =
            self.command(locale).output().map_err(EmbeddedError::io("run", self.binaries.program("initdb")))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(EmbeddedError::Initdb { output: text.trim().replace('\n', " | ") })
    }

    fn command(&self, locale: &str) -> Command {
        let mut command = server_command(&self.binaries.program("initdb"), self.account);
        command
            .arg("--pgdata")
            .arg(self.into)
            .arg("--pwfile")
            .arg(self.password_file)
            .args(["--username", ROLE])
            .args(["--encoding", "UTF8", "--locale", locale]);
        match self.durability {
            Durability::Durable => command.args(["--auth", "scram-sha-256"]),
            // Tests connect some thousand times, and SCRAM would have each connection compute 4,096 rounds of SHA-256.
            Durability::Volatile => command.args(["--auth", "md5", "--no-sync"]),
        };
        command
    }
}

/// A command run as the server's user with a clean environment: `PGDATA`, `PGOPTIONS` and their kin must not reach a
/// private server, and its messages stay in one language.
pub(super) fn server_command(program: &Path, account: &Account) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/");
    for kept in ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    account.apply(&mut command);
    command
}

fn new_password() -> SecretString {
    let words: [u128; 2] = rand::random();
    format!("{:032x}{:032x}", words[0], words[1]).into()
}

fn create_private(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(EmbeddedError::io("create", path))
}

fn write_private(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    create_private(path)?.write_all(text.as_bytes()).map_err(EmbeddedError::io("write", path))
}
