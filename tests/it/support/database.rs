//! A fresh database for each test, on one server for all tests of the process.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use nxt_mirror::embedded::{Durability, EmbeddedOptions, EmbeddedPostgres};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

/// Names a server to use instead of one of our own; databases are made in it and stay behind.
const SERVER_VARIABLE: &str = "NXT_TEST_DATABASE_URL";

static SERVER: OnceLock<EmbeddedPostgres> = OnceLock::new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An empty database.
#[derive(Debug)]
pub struct TestDatabase {
    url: SecretString,
}

impl TestDatabase {
    /// Makes one.
    pub async fn create() -> Self {
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        match std::env::var(SERVER_VARIABLE) {
            Ok(server) => {
                let mut connection = PgConnection::connect(&server).await.expect("the test server answers");
                let sql = format!("create database {name}");
                sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect("a database can be made");
                let mut url = url::Url::parse(&server).expect("the test server's URL is one");
                url.set_path(&name);
                Self { url: url.to_string().into() }
            }
            Err(_) => {
                let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start_server)).await.unwrap();
                server.create_database(&name).await.expect("a database can be made");
                Self { url: server.url(&name) }
            }
        }
    }

    pub fn url(&self) -> &SecretString {
        &self.url
    }

    pub async fn pool(&self) -> PgPool {
        PgPool::connect(self.url.expose_secret()).await.expect("the test database answers")
    }
}

/// A folder that an unprivileged account can reach, for files of this process alone.
pub fn scratch(name: &str) -> PathBuf {
    let parent = std::env::temp_dir().join("nxt-mirror-tests");
    remove_leftovers(&parent);
    parent.join(std::process::id().to_string()).join(name)
}

/// Folders of processes that are gone: no test process can clean up after itself, since statics are never dropped.
fn remove_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let alive = Path::new("/proc").join(entry.file_name()).exists();
        if Path::new("/proc/self").exists() && !alive {
            _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Starts the server from a runtime of its own, since each test has another one that ends with it.
fn start_server() -> EmbeddedPostgres {
    let options = EmbeddedOptions { folder: scratch("server"), durability: Durability::Volatile };
    let start = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(EmbeddedPostgres::start(options))
    };
    match std::thread::spawn(start).join().unwrap() {
        Ok(server) => server,
        Err(error) => panic!("{}", nxt_mirror::telemetry::chain(&error)),
    }
}
