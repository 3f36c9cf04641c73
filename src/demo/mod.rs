//! Everything at once on one machine: a database of our own, a simulated Business NXT with a trading company at
//! work, and the daemon. Nothing outside is needed, and nothing of it is left when it ends but the database's files.

mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_simulator::{Options, Simulator};
use nxt_testkit::{Comparison, Wait, compare, deliver, recreate, webhook_url};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    config::{LogFormat, LogSettings, Role, Settings, Source},
    database::{self, Connector},
    shutdown, telemetry,
};

/// The demo's secrets guard nothing.
const WEBHOOK_SECRET: &str = "demo-signature-key";
/// The demo's database, made anew each time.
const DATABASE: &str = "nxt_mirror_demo";
/// Loaded from the start; what happens afterwards arrives by webhook.
const TABLES: &str = "Order,OrderLine,OpenCustomerEntry,Product,Associate,StockBalance,Text,GeneralLedgerAccount,\
                      GeneralLedgerTransaction,User";
/// What is worth a look. `docs/queries.md` has more.
const QUERIES: [&str; 5] = [
    "select * from business_nxt_readable.\"order\" order by _changed_at desc limit 5;",
    "select * from business_nxt_history.order_line order by _valid_from desc limit 10;",
    "select * from nxt_mirror.change order by position desc limit 10;",
    "select * from nxt_mirror.freshness;",
    "\\d+ business_nxt.\"order\"",
];
/// How long the mirror may take to settle after the last change.
const SETTLE: Wait = Wait::seconds(60).every_millis(100);

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// End after this many seconds with a comparison; exit code 0 only if the mirror equals the source
    #[arg(long)]
    seconds: Option<u64>,
    /// Changes a second that the trading company makes
    #[arg(long, default_value_t = 8.0)]
    rate: f64,
    /// Where the database's files lie
    #[arg(long, env = "NXT_DATA_DIR", default_value = "./nxt-data/demo")]
    data_dir: PathBuf,
}

/// Runs the demo until its time is over or it is told to stop.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let filter = std::env::var("NXT_LOG").unwrap_or_else(|_| "warn".into());
    telemetry::start(&LogSettings { filter, format: Some(LogFormat::Text) });
    let stop = shutdown::on_signal()?;
    say!("starting a PostgreSQL of our own ...");
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(&args.data_dir)).await?;
    let result = play(&args, &server, stop).await;
    server.stop().await?;
    result
}

async fn play(args: &DemoArgs, server: &EmbeddedPostgres, stop: CancellationToken) -> anyhow::Result<ExitCode> {
    // Each demo tells its own story from the start: the simulated company begins anew, so must its mirror.
    recreate(&server.url("postgres"), DATABASE).await?;
    let simulator = Simulator::start(Options::default()).await.context("start the simulator")?;
    simulator.stock_up().context("stock up")?;
    let settings = settings(&simulator)?;
    let app = App::build(&settings, Connector::to(&server.url(DATABASE))?).await?;
    let public = app.public_address().context("the demo receives")?;
    deliver(&simulator, webhook_url(public), WEBHOOK_SECRET);
    simulator.set_knobs(|knobs| {
        knobs.duplicate = 0.02;
        knobs.delay_ms_max = 300;
    });
    introduce(args, server, &simulator, &app);
    let daemon = tokio::spawn(app.run(stop.child_token()));
    let pool = database::connect(&Connector::to(&server.url(DATABASE))?).await?;
    let trading = CancellationToken::new();
    let work = simulator.trade(args.rate, trading.clone());
    let end = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = watch::show(&pool, &simulator) => {}
        () = end => {}
        () = stop.cancelled() => {}
    }
    trading.cancel();
    work.await.context("the trading company panicked")?;
    let code = if stop.is_cancelled() {
        ExitCode::SUCCESS
    } else {
        say!("\nthe company has closed; waiting for the mirror to settle ...");
        simulator.drain().await;
        SETTLE.for_settled(&pool).await?;
        let partial = "select count(*) from nxt_mirror.freshness where partial";
        SETTLE.for_count("tables that are not loaded", &pool, 0, partial).await?;
        conclude(&compare(&pool, &simulator).await?, &simulator)
    };
    pool.close().await;
    stop.cancel();
    daemon.await.context("the daemon panicked")??;
    simulator.stop().await;
    Ok(code)
}

fn settings(simulator: &Simulator) -> anyhow::Result<Settings> {
    let mut pairs = nxt_testkit::settings(simulator, &Options::default(), WEBHOOK_SECRET);
    pairs.extend([("NXT_TABLES", TABLES.to_owned()), ("NXT_HISTORY", "*".to_owned())]);
    Ok(Settings::read(&Source::from_pairs(pairs), Role::All)?)
}

fn introduce(args: &DemoArgs, server: &EmbeddedPostgres, simulator: &Simulator, app: &App) {
    let webhook = app.public_address().map(webhook_url);
    say!("");
    say!("  nxt-mirror demo: a trading company is at work, and PostgreSQL follows");
    say!("");
    say!("  webhooks      {}", webhook.unwrap_or_default());
    say!("  operators     http://{}/", app.ops_address());
    say!("  simulated API {}", simulator.graphql_url());
    say!("  its admin API {}", simulator.admin_url());
    say!("  look inside   {}", server.psql_command(DATABASE));
    for query in QUERIES {
        say!("                {query}");
    }
    say!("");
    match args.seconds {
        Some(seconds) => say!("  ends by itself in {seconds} s with a comparison; Ctrl-C ends it before"),
        None => say!("  Ctrl-C ends it"),
    }
    say!("");
}

fn conclude(comparison: &Comparison, simulator: &Simulator) -> ExitCode {
    let (api, webhooks) = (simulator.counters(), simulator.sender_counters());
    say!("");
    say!("{comparison}");
    say!(
        "webhooks sent {}, accepted {}; GraphQL requests {}; over a limit {}",
        webhooks.sent,
        webhooks.accepted,
        api.graphql_requests,
        api.rate_violations + api.in_flight_violations,
    );
    if comparison.is_equal() {
        say!("the mirror equals the source");
        ExitCode::SUCCESS
    } else {
        say!("the mirror DIFFERS from the source");
        ExitCode::FAILURE
    }
}
