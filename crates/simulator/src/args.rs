//! A simulator as a process of its own.

use std::net::SocketAddr;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{Clock, Knobs, Oddities, Options, Simulator, Wording};

/// Options of the simulator as a process of its own.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Address of the token endpoint and the GraphQL API
    #[arg(long, env = "SIM_LISTEN", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Address of the admin API; keep it away from strangers
    #[arg(long, env = "SIM_ADMIN_LISTEN", default_value = "127.0.0.1:8091")]
    admin_listen: SocketAddr,
    /// Where notifications are posted
    #[arg(long, env = "SIM_WEBHOOK_URL", default_value = "http://127.0.0.1:8080/webhooks/business-nxt")]
    webhook_url: String,
    /// Signing key; may be given several times, the keys are used in turn
    #[arg(
        long,
        env = "SIM_WEBHOOK_SECRET",
        default_value = "simulated-signature-key",
        value_delimiter = ',',
        hide_env_values = true
    )]
    webhook_secret: Vec<String>,
    /// The client that gets tokens
    #[arg(long, env = "SIM_CLIENT_ID", default_value = "isv_simulated")]
    client_id: String,
    /// Its secret
    #[arg(long, env = "SIM_CLIENT_SECRET", default_value = "simulated-secret", hide_env_values = true)]
    client_secret: String,
    /// Seconds that a token lives
    #[arg(long, default_value_t = 3_600)]
    token_seconds: u64,
    /// Changes a second that a trading company makes; 0 for none
    #[arg(long, env = "SIM_TRADING", default_value_t = 0.0)]
    trading: f64,
    /// Further tables named Extra1 and so on, for whoever needs many
    #[arg(long, default_value_t = 0)]
    extra_tables: u32,
    /// Requests in any 60 seconds
    #[arg(long, default_value_t = 600)]
    requests_per_minute: usize,
    /// Seconds that the source's clock is ahead of the true time; negative when it is behind
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    clock_ahead_seconds: i64,
    /// Speak another dialect of the API: what may be so where the documentation is silent
    #[arg(long)]
    second_dialect: bool,
    /// Seed of everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs a simulator until told to stop, and tells where it listens, line by line.
pub async fn run(args: SimulateArgs, stop: CancellationToken, tell: impl Fn(&str)) -> anyhow::Result<()> {
    let options = Options {
        listen: args.listen,
        admin_listen: args.admin_listen,
        client_id: args.client_id,
        client_secret: args.client_secret,
        token_seconds: args.token_seconds,
        knobs: Knobs { url: Some(args.webhook_url), secrets: args.webhook_secret, ..Knobs::default() },
        seed: args.seed,
        extra_tables: args.extra_tables,
        clock: Clock::ahead_by(args.clock_ahead_seconds),
        requests_per_minute: args.requests_per_minute,
        oddities: match args.second_dialect {
            true => Oddities::second_dialect(Wording::Numbered),
            false => Oddities::default(),
        },
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.context("start the simulator")?;
    tell(&format!("token endpoint  {}", simulator.token_url()));
    tell(&format!("GraphQL         {}", simulator.graphql_url()));
    tell(&format!("admin API       {}", simulator.admin_url()));
    let trading = (args.trading > 0.0).then(|| -> anyhow::Result<_> {
        simulator.stock_up()?;
        Ok(simulator.trade(args.trading, stop.clone()))
    });
    let trading = trading.transpose().context("start trading")?;
    stop.cancelled().await;
    if let Some(trading) = trading {
        trading.await.context("the trading company panicked")?;
    }
    simulator.stop().await;
    Ok(())
}
