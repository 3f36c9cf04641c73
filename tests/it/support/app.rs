//! A daemon against a simulator.

use std::process::{Command, Output};

use nxt_mirror::{
    app::App,
    config::{LogFormat, LogSettings, Role, Settings, Source},
    database::Connector,
    telemetry,
};
use nxt_simulator::{Options, Owner, Simulator};
use nxt_testkit::{SECRET, TestDatabase, Wait, compare, deliver, object, sign};
use reqwest::{Client, Response};
use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{PROGRAM, database, migrated};

/// How long a state may be waited for. Long, because it only ends a test that has failed anyway.
const WAIT: Wait = Wait::seconds(240);
/// The company of most tests.
pub const COMPANY: Owner = Owner::Company(2_000_001);

/// What a test says about its daemon before it starts.
pub struct Builder {
    settings: Vec<(&'static str, String)>,
    options: Options,
    role: Role,
    is_plain: bool,
    adjust: fn(&mut Settings),
}

impl Builder {
    pub fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Has the daemon connect as a role that owns the database and is no superuser, as most do.
    pub fn plain_role(mut self) -> Self {
        self.is_plain = true;
        self
    }

    pub fn simulator(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Changes what no variable sets, of the daemon that is started first.
    pub fn adjust(mut self, adjust: fn(&mut Settings)) -> Self {
        self.adjust = adjust;
        self
    }

    pub async fn start(self) -> TestApp {
        // Quiet unless asked, as by `NXT_LOG=debug cargo test`.
        if let Ok(filter) = std::env::var("NXT_LOG") {
            telemetry::start(&LogSettings { filter, format: Some(LogFormat::Text) });
        }
        let database = if self.is_plain { database().await } else { migrated().await };
        let url = if self.is_plain { database.url_of_plain_role().await } else { database.url() };
        let simulator = Simulator::start(self.options.clone()).await.expect("the simulator starts");
        let daemon =
            Daemon::start_adjusted(&self.settings, &self.options, &simulator, &url, self.role, self.adjust).await;
        deliver(&simulator, daemon.webhook_url(), SECRET);
        let pool = database.pool().await;
        TestApp {
            database,
            url,
            simulator,
            daemon,
            pool,
            settings: self.settings,
            options: self.options,
            role: self.role,
            http: Client::new(),
        }
    }
}

/// A running daemon.
pub struct Daemon {
    pub public: String,
    pub ops: String,
    stop: CancellationToken,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Daemon {
    async fn start(
        settings: &[(&'static str, String)],
        options: &Options,
        simulator: &Simulator,
        url: &str,
        role: Role,
    ) -> Self {
        Self::start_adjusted(settings, options, simulator, url, role, |_| {}).await
    }

    async fn start_adjusted(
        settings: &[(&'static str, String)],
        options: &Options,
        simulator: &Simulator,
        url: &str,
        role: Role,
        adjust: fn(&mut Settings),
    ) -> Self {
        // reqwest needs a provider before the first client is made, whoever makes it.
        let pairs = nxt_testkit::settings(simulator, options, &format!("other,{SECRET}"));
        let source = Source::from_pairs(pairs.into_iter().chain(settings.iter().cloned()));
        let mut settings = Settings::read(&source, role).expect("the test's settings are right");
        adjust(&mut settings);
        let app = App::build(&settings, Connector::to(&url.to_owned().into()).expect("the address is one"))
            .await
            .expect("the daemon can be built");
        let address = |address: std::net::SocketAddr| format!("http://{address}");
        let public = app.public_address().map(address).unwrap_or_default();
        let ops = address(app.ops_address());
        let stop = CancellationToken::new();
        let task = Some(tokio::spawn(app.run(stop.clone())));
        Self { public, ops, stop, task }
    }

    pub fn webhook_url(&self) -> String {
        format!("{}/webhooks/business-nxt", self.public)
    }

    pub async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let task = self.task.take().expect("a daemon is stopped once");
        task.await.expect("the daemon does not panic").expect("the daemon ends in order");
    }
}

impl Drop for Daemon {
    /// A test that ends without stopping its daemon must not leave it running beside the next.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A daemon, its simulator and its database.
pub struct TestApp {
    pub database: TestDatabase,
    pub simulator: Simulator,
    pub daemon: Daemon,
    pub pool: PgPool,
    pub http: Client,
    /// Where the daemon finds the database, by its own role.
    url: String,
    settings: Vec<(&'static str, String)>,
    options: Options,
    role: Role,
}

impl TestApp {
    pub fn builder() -> Builder {
        let options = Options { published_example: false, ..Options::default() };
        Builder { settings: vec![], options, role: Role::All, is_plain: false, adjust: |_| {} }
    }

    /// Changes a setting of the daemons and commands that are started from here on.
    pub fn set(&mut self, name: &'static str, value: impl ToString) {
        self.settings.push((name, value.to_string()));
    }

    /// Stops the daemon, does something, and starts it again.
    pub async fn restart(&mut self, meanwhile: impl AsyncFnOnce(&PgPool)) {
        self.daemon.end().await;
        meanwhile(&self.pool).await;
        let Self { settings, options, simulator, url, .. } = self;
        self.daemon = Daemon::start(settings, options, simulator, url, self.role).await;
        deliver(&self.simulator, self.daemon.webhook_url(), SECRET);
    }

    /// With the row of the published example in the source.
    pub async fn with_example() -> Self {
        Self::builder().simulator(|options| options.published_example = true).start().await
    }

    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The settings of a command on the same database and API.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut pairs = nxt_testkit::settings(&self.simulator, &self.options, SECRET);
        pairs.extend([
            ("DATABASE_URL", self.url.clone()),
            ("NXT_LOG", "warn".to_owned()),
            // Nothing listens there.
            ("NXT_OPS_LISTEN", "127.0.0.1:1".to_owned()),
        ]);
        pairs.extend(self.settings.iter().cloned());
        pairs
    }

    /// Runs the program on the same database and API.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(self.environment());
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the program runs")
    }

    /// Another daemon on the same database.
    pub async fn another(&self, role: Role) -> Daemon {
        Daemon::start(&self.settings, &self.options, &self.simulator, &self.url, role).await
    }

    /// Inserts or changes a row of [`COMPANY`] in the source, which announces it.
    pub fn put(&self, table: &str, row: Value) {
        self.simulator.put(COMPANY, table, object(row)).unwrap();
    }

    /// Posts a body as Visma Connect would.
    pub async fn post(&self, body: impl Into<Vec<u8>>) -> Response {
        self.post_with_id(body, None).await
    }

    pub async fn post_with_id(&self, body: impl Into<Vec<u8>>, id: Option<&str>) -> Response {
        let body = body.into();
        let mut request =
            self.http.post(self.daemon.webhook_url()).header("x-vwd-signature-v1", sign(SECRET, &body)).body(body);
        if let Some(id) = id {
            request = request.header("x-vwd-notification-id", id);
        }
        request.send().await.expect("the daemon answers")
    }

    /// Posts a body and expects it to be accepted.
    pub async fn accept(&self, body: &Value) {
        let answer = self.post(body.to_string()).await;
        assert_eq!(answer.status(), 202);
        assert_eq!(answer.text().await.unwrap(), r#"{"status":"accepted"}"#);
    }

    /// Waits until a count is reached.
    pub async fn wait_for(&self, what: &str, wanted: i64, count_sql: &'static str) {
        WAIT.for_count(what, &self.pool, wanted, count_sql).await.unwrap_or_else(|late| panic!("{late}"));
    }

    /// Waits until something holds.
    pub async fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        WAIT.for_true(what, async || holds(self)).await.unwrap_or_else(|late| panic!("{late}"));
    }

    /// Waits until every notification is delivered and no row needs a fetch.
    pub async fn settle(&self) {
        self.simulator.drain().await;
        WAIT.for_settled(&self.pool).await.unwrap_or_else(|late| panic!("{late}"));
    }

    /// Settles, then demands that the mirror equals the source. Returns the number of rows compared.
    pub async fn assert_equal(&self) -> usize {
        self.settle().await;
        let comparison = compare(&self.pool, &self.simulator).await.expect("the comparison works");
        assert!(comparison.is_equal(), "{comparison}");
        comparison.rows
    }

    /// Rows of a mirrored table as JSON, in key order.
    pub async fn mirrored(&self, table: &str) -> Vec<Map<String, Value>> {
        let sql = format!("select row_to_json(m)::text from business_nxt.\"{table}\" m order by 1");
        let rows: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&self.pool).await.expect("the table exists");
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("the count works")
    }

    /// Requests that rows cost so far: for rows, and for descriptions of their tables. What is asked about the model comes
    /// when it comes.
    pub fn row_requests(&self) -> u64 {
        let operations = self.simulator.counters().operations;
        ["FetchRows", "TableDescription", "TableDescriptions"].iter().filter_map(|name| operations.get(*name)).sum()
    }

    pub async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.daemon.ops)).send().await.unwrap().text().await.unwrap()
    }

    /// Reasons of the dead letters.
    pub async fn dead_letters(&self) -> Vec<String> {
        let sql = "select reason from nxt_mirror.dead_letter order by id";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.expect("the dead letters can be read")
    }
}
