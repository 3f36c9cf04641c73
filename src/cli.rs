//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{config::Role, demo::DemoArgs, simulator::SimulateArgs};

/// Keeps a PostgreSQL replica of Visma Business NXT companies in step with the source.
///
/// Settings are environment variables; see `.env.example` or the README.
#[derive(Debug, Parser)]
#[command(name = "nxt-mirror", version, arg_required_else_help = true)]
pub struct Cli {
    /// A TOML file with settings; the environment wins over it
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Which tables of which companies.
#[derive(Debug, Clone, clap::Args)]
pub struct Targets {
    /// Company number; may be given several times. Without it: NXT_COMPANIES, else all that the service may see
    #[arg(long, value_name = "N")]
    pub company: Vec<i64>,
    /// Table identifier such as OrderLine; may be given several times. Without it: NXT_TABLES
    #[arg(long, value_name = "T")]
    pub table: Vec<String>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Receive webhooks and mirror rows, until stopped
    Serve {
        /// Which part of the work this process does
        #[arg(long, value_enum, default_value = "all")]
        role: Role,
    },
    /// Show the product at work: a database, a simulated Business NXT and the daemon, all on this machine
    Demo(DemoArgs),
    /// Run the Business NXT simulator as a process of its own
    Simulate(SimulateArgs),
    /// Bring the database up to date
    Migrate,
    /// Walk whole tables into the mirror; goes on where an earlier walk was interrupted
    Backfill(Targets),
    /// Compare mirror and source; exit code 0 equal, 1 differences, 2 could not tell
    Verify {
        #[command(flatten)]
        targets: Targets,
        /// Mend what differs, through the normal path; exit code 0 if nothing is left different
        #[arg(long)]
        repair: bool,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Ask the running daemon whether it is ready; for container health checks
    Healthcheck,
}
