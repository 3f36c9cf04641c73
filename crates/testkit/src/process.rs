//! Daemons as processes of their own, to be killed.

use std::{
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use nxt_simulator::{Options, Simulator};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::process::{Child, Command};

use crate::{Comparison, SECRET, compare};

/// How long a state may be waited for. Long, because it only ends a test that has failed anyway.
const PATIENCE: Duration = Duration::from_secs(120);

/// A simulator, a database, and the address where a daemon is, whenever one runs.
#[derive(Debug)]
pub struct Site {
    /// The source.
    pub simulator: Simulator,
    /// The database.
    pub pool: PgPool,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    /// A simulator that sends its notifications to where a daemon will be. `program` is the daemon, `settings` are those
    /// of its settings that are not about where its source and its database are.
    pub async fn new(
        program: impl Into<PathBuf>,
        options: Options,
        database_url: &str,
        settings: &[(&'static str, &str)],
    ) -> Self {
        let public = free_address();
        let simulator = Simulator::start(options.clone()).await.expect("the simulator starts");
        simulator.set_knobs(|knobs| {
            knobs.url = Some(format!("http://{public}/webhooks/business-nxt"));
            knobs.secrets = vec![SECRET.into()];
            knobs.retries = 40;
        });
        let mut environment = vec![
            ("DATABASE_URL", database_url.to_owned()),
            ("NXT_LISTEN", public),
            ("NXT_OPS_LISTEN", "127.0.0.1:0".to_owned()),
            ("NXT_WEBHOOK_SECRETS", SECRET.to_owned()),
            ("NXT_CLIENT_ID", options.client_id),
            ("NXT_CLIENT_SECRET", options.client_secret),
            ("NXT_TOKEN_URL", simulator.token_url()),
            ("NXT_GRAPHQL_URL", simulator.graphql_url()),
            ("NXT_LOG", std::env::var("NXT_LOG").unwrap_or_else(|_| "off".into())),
        ];
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let pool = PgPoolOptions::new()
            .max_connections(5)
            .acquire_timeout(Duration::from_secs(60))
            .connect_lazy(database_url)
            .expect("the address is one");
        Self { simulator, pool, program: program.into(), environment }
    }

    /// Starts a daemon, with settings of its own beside those of the site.
    pub fn spawn(&self, settings: &[(&str, &str)]) -> Daemon {
        let mut command = Command::new(&self.program);
        command
            .arg("serve")
            .env_clear()
            .envs(self.environment.iter().cloned())
            .envs(settings.iter().copied())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Daemon(command.spawn().expect("the program runs"))
    }

    /// Gives back at once what a killed daemon had claimed, as the end of its leases would.
    pub async fn expire_leases(&self) {
        sqlx::query("update nxt_mirror.dirty_row set due_at = now() where due_at > now()")
            .execute(&self.pool)
            .await
            .expect("the database answers");
    }

    /// Waits until a query that counts gives 0.
    pub async fn wait_for_none(&self, what: &str, sql: &'static str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let count: Result<i64, _> = sqlx::query_scalar(sql).fetch_one(&self.pool).await;
            if matches!(count, Ok(0)) {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                panic!("{what}: still {count:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a query counts.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("the database answers")
    }

    /// Waits until every notification is delivered and every row settled.
    pub async fn settle(&self) {
        self.simulator.drain().await;
        self.wait_for_none("rows that wait", "select count(*) from nxt_mirror.dirty_row").await;
    }

    /// Compares mirror and source.
    pub async fn compare(&self) -> Comparison {
        compare(&self.pool, &self.simulator).await.expect("mirror and source can be read")
    }
}

/// A running daemon, killed when dropped.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// As `kill -9` does.
    pub async fn kill(mut self) {
        self.0.kill().await.expect("the process can be killed");
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.0.wait()).await;
        ended.expect("the process ends").expect("the process can be waited for")
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("the process can be waited for").is_none()
    }
}

/// An address that stays free while nothing listens there: below the ports that outgoing connections are given.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).expect("small");
    for _ in 0..2_000 {
        let port = 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
    panic!("no port is free");
}
