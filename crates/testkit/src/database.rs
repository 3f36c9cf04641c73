//! A fresh database for each test, on a real server.
//!
//! The server is the one that `NXT_TEST_DATABASE_URL` names, or else an embedded one: one per test process, started
//! when first needed and gone with the process.

use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{cluster, place};

const SERVER_VARIABLE: &str = "NXT_TEST_DATABASE_URL";
const NAME_PREFIX: &str = "nxt_test_";
/// A role without special rights.
const PLAIN_ROLE: &str = "nxt_test_plain";
/// Another one.
pub const OTHER_ROLE: &str = "nxt_test_other";

/// An empty database, dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    options: PgConnectOptions,
    /// The other nodes, where the server is the coordinator of a cluster.
    workers: Vec<PgConnectOptions>,
}

impl TestDatabase {
    /// Makes a database that no other test sees.
    pub async fn create() -> Self {
        let name = new_name();
        let server = server_options().await;
        administer(&server, format!("create database {name}")).await;
        let workers = cluster::workers(&server).await;
        let options = server.database(&name);
        cluster::join(&options, &workers, &name).await;
        Self { name, options, workers }
    }

    /// A copy of this database, to which nobody may be connected. Takes a third of the time that migrations take.
    pub async fn copy(&self) -> Self {
        assert!(self.workers.is_empty(), "what lies on several nodes cannot be copied");
        let name = new_name();
        administer(
            &self.options.clone().database("postgres"),
            format!("create database {name} template {}", self.name),
        )
        .await;
        Self { options: self.options.clone().database(&name), name, workers: vec![] }
    }

    /// Whether its tables may be distributed over several nodes.
    pub fn is_distributed(&self) -> bool {
        !self.workers.is_empty()
    }

    /// The database's address, password included.
    pub fn url(&self) -> String {
        use sqlx::ConnectOptions;
        self.options.to_url_lossy().to_string()
    }

    /// The address for a role that owns the database and is no superuser, as most daemons have.
    pub async fn url_of_plain_role(&self) -> String {
        use sqlx::ConnectOptions;
        for role in [PLAIN_ROLE, OTHER_ROLE] {
            let make = format!(
                "do $$ begin create role {role} login password '{role}';
                 exception when duplicate_object or unique_violation then null; end $$"
            );
            administer(&self.options, make).await;
        }
        administer(&self.options, format!("alter database {} owner to {PLAIN_ROLE}", self.name)).await;
        self.options.clone().username(PLAIN_ROLE).password(PLAIN_ROLE).to_url_lossy().to_string()
    }

    /// A small pool of its own, in the caller's runtime.
    pub async fn pool(&self) -> PgPool {
        self.pool_of(5).await
    }

    /// As [`TestDatabase::pool`], with so many connections.
    pub async fn pool_of(&self, connections_max: u32) -> PgPool {
        PgPoolOptions::new()
            .max_connections(connections_max)
            // The server stays, and looking for it costs as much as a question.
            .test_before_acquire(false)
            .connect_with(self.options.clone())
            .await
            .expect("the test database accepts connections")
    }
}

impl Drop for TestDatabase {
    /// Drops the database in the background, even if the test failed or left connections open. Nobody waits for it:
    /// the server may wait for a connection that this very thread was opening. What the end of the process cuts off
    /// goes with an embedded server.
    fn drop(&mut self) {
        let statement = format!("drop database if exists {} with (force)", self.name);
        let is_on_nodes = self.is_distributed();
        let of_workers = self.workers.iter().map(|worker| worker.clone().database(&self.name));
        let servers: Vec<_> = std::iter::once(self.options.clone()).chain(of_workers).collect();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async {
                for server in servers {
                    if is_on_nodes {
                        cluster::end_prepared(&server).await;
                    }
                    if let Ok(mut connection) = PgConnection::connect_with(&server.database("postgres")).await {
                        _ = connection.execute(AssertSqlSafe(&*statement)).await;
                    }
                }
            });
        });
    }
}

fn new_name() -> String {
    format!("{NAME_PREFIX}{}", Uuid::new_v4().simple())
}

/// Whether the tests run on a server that is not theirs, where nobody removes what they leave behind.
pub fn is_server_given() -> bool {
    std::env::var_os(SERVER_VARIABLE).is_some()
}

/// Whether the test server is the coordinator of a cluster. An embedded one never is.
pub async fn is_cluster() -> bool {
    match std::env::var(SERVER_VARIABLE) {
        Ok(url) => !cluster::workers(&options(&url)).await.is_empty(),
        Err(_) => false,
    }
}

/// Makes a database anew, whatever was in it. `server` is the address of another one on the same server.
///
/// # Errors
/// When the server does not let us.
pub async fn recreate(server: &SecretString, name: &str) -> Result<(), sqlx::Error> {
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name:?} needs quotes");
    let mut connection = PgConnection::connect(server.expose_secret()).await?;
    for sql in [format!("drop database if exists {name} with (force)"), format!("create database {name}")] {
        connection.execute(AssertSqlSafe(sql)).await?;
    }
    connection.close().await
}

pub(crate) async fn administer(server: &PgConnectOptions, statement: String) {
    let mut connection = PgConnection::connect_with(server).await.expect("the test server accepts connections");
    connection.execute(AssertSqlSafe(statement)).await.expect("the test server lets us create and drop databases");
    connection.close().await.expect("a connection closes");
}

/// How to reach the server's own database, from which others are created.
async fn server_options() -> PgConnectOptions {
    let url = match std::env::var(SERVER_VARIABLE) {
        Ok(url) => url,
        Err(_) => embedded_url().await,
    };
    options(&url)
}

fn options(url: &str) -> PgConnectOptions {
    url.parse().unwrap_or_else(|error| panic!("{SERVER_VARIABLE} is not a PostgreSQL address: {error}"))
}

/// The embedded server of this process. A static is never dropped; the server notices that the process is gone.
async fn embedded_url() -> String {
    static SERVER: OnceCell<EmbeddedPostgres> = OnceCell::const_new();
    let start = || EmbeddedPostgres::start(EmbeddedOptions::new(place::folder().join("server")).volatile());
    match SERVER.get_or_try_init(start).await {
        Ok(server) => server.url("postgres").expose_secret().to_owned(),
        Err(error) => panic!("no database server for the tests: {error} ({error:?})"),
    }
}
