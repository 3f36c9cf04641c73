//! Daemons as processes of their own, to be killed and measured.

use std::{
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use nxt_simulator::{Options, Simulator};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::process::{Child, Command};

use crate::{Comparison, SECRET, Wait, compare, deliver, settings, webhook_url};

/// How long a state may be waited for. Long, because it only ends a test that has failed anyway.
const PATIENCE: Duration = Duration::from_secs(300);
const WAIT: Wait = Wait::seconds(PATIENCE.as_secs());
const CONNECTIONS_MAX: u32 = 10;

/// A simulator, a database, and the address where a daemon is, whenever one runs.
#[derive(Debug)]
pub struct Site {
    /// The source.
    pub simulator: Simulator,
    /// The database.
    pub pool: PgPool,
    /// Where the daemon receives: host and port.
    pub public: String,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Site {
    /// A simulator that sends its notifications to where a daemon will be. `program` is the daemon, `more` are those of
    /// its settings that are not about where its source and its database are.
    pub async fn new(
        program: impl Into<PathBuf>,
        options: Options,
        database_url: &str,
        more: &[(&'static str, &str)],
    ) -> Self {
        let public = free_address();
        let simulator = Simulator::start(options.clone()).await.expect("the simulator starts");
        deliver(&simulator, webhook_url(&public), SECRET);
        simulator.set_knobs(|knobs| knobs.retries = 40);
        let mut environment = settings(&simulator, &options, SECRET);
        environment.extend([
            ("DATABASE_URL", database_url.to_owned()),
            ("NXT_LISTEN", public.clone()),
            ("NXT_LOG", std::env::var("NXT_LOG").unwrap_or_else(|_| "off".into())),
        ]);
        environment.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(60))
            .connect_lazy(database_url)
            .expect("the address is one");
        Self { simulator, pool, public, program: program.into(), environment }
    }

    /// The program with these arguments and the site's settings, and with nothing else of this process's environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        self.equip(command.args(arguments));
        command
    }

    fn equip(&self, command: &mut Command) {
        command
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .kill_on_drop(true);
    }

    /// Starts a daemon, with settings of its own beside those of the site.
    pub fn spawn(&self, more: &[(&str, &str)]) -> Daemon {
        Daemon::start(self.command(&["serve"]).envs(more.iter().copied()))
    }

    /// Starts a daemon of one role, `receiver` or `worker`.
    pub fn spawn_as(&self, role: &str) -> Daemon {
        Daemon::start(&mut self.command(&["serve", "--role", role]))
    }

    /// Starts a daemon that may have this many files and connections open.
    pub fn spawn_with_files(&self, files: usize) -> Daemon {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" serve")]).arg(&self.program);
        self.equip(&mut command);
        Daemon::start(&mut command)
    }

    /// Runs the program until it ends by itself.
    pub async fn output(&self, arguments: &[&str]) -> Output {
        let ended = tokio::time::timeout(PATIENCE, self.command(arguments).output()).await;
        ended.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("the program runs")
    }

    /// Waits until a query that counts gives 0.
    pub async fn wait_for_none(&self, what: &str, sql: &'static str) {
        WAIT.for_count(what, &self.pool, 0, sql).await.unwrap_or_else(|late| panic!("{late}"));
    }

    /// What a query counts.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("the database answers")
    }

    /// Waits until every notification is delivered and every row settled.
    pub async fn settle(&self) {
        self.simulator.drain().await;
        WAIT.for_settled(&self.pool).await.unwrap_or_else(|late| panic!("{late}"));
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
    /// Starts one by a command of [`Site::command`].
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the program runs"))
    }

    /// Its process id, as long as nobody has seen it end.
    pub fn id(&self) -> Option<u32> {
        self.0.id()
    }

    /// As `kill -9` does.
    pub async fn kill(mut self) {
        self.0.kill().await.expect("the process can be killed");
    }

    /// As service managers do: it ends in its own time.
    pub fn terminate(&self) {
        signal::kill(self.pid(), Signal::SIGTERM).expect("the process can be signalled");
    }

    /// As a machine does that stands still: nothing is closed, and nothing said.
    pub fn freeze(&self) {
        signal::kill(self.pid(), Signal::SIGSTOP).expect("the process can be stopped");
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        signal::kill(self.pid(), Signal::SIGCONT).expect("the process can go on");
    }

    /// The most memory that it ever had, in MB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
        kilobytes / 1_000
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }

    fn pid(&self) -> Pid {
        let id = self.0.id().expect("the process has not ended");
        Pid::from_raw(i32::try_from(id).expect("process ids are small"))
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
pub fn free_address() -> String {
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
