//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use nxt_simulator::SimulateArgs;
use secrecy::SecretString;
use url::Url;

use crate::{config::Role, demo::DemoArgs};

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

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// Print a line for each
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print one in full
    Show {
        /// Its number
        id: i64,
        /// Print it on one line
        #[arg(long)]
        json: bool,
    },
    /// Try them again, and forget those that are under way
    Retry(ChosenLetters),
    /// Forget them for good
    Drop(ChosenLetters),
}

/// Which dead letters something is done with.
#[derive(Debug, clap::Args)]
pub struct ChosenLetters {
    /// Their numbers
    pub ids: Vec<i64>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which part of the sync log to print.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Go on with what comes
    #[arg(long, short)]
    pub follow: bool,
    /// Begin with the latest N entries, instead of all that are kept
    #[arg(long, value_name = "N")]
    pub tail: Option<u32>,
    /// Only of this company
    #[arg(long, value_name = "N")]
    pub company: Option<i64>,
    /// Only of this table
    #[arg(long, value_name = "T")]
    pub table: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// How the schema is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaFormat {
    /// Statements that make the tables, with comments
    Sql,
    /// An entity-relationship diagram of Mermaid
    Mermaid,
    /// A graph of Graphviz
    Dot,
}

/// Which notifications to replay.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// Received at or after this time, such as 2026-02-01T10:00:00Z
    #[arg(long, value_name = "T")]
    pub since: String,
    /// Received before this time
    #[arg(long, value_name = "T")]
    pub until: Option<String>,
    /// Only of this company
    #[arg(long, value_name = "N")]
    pub company: Option<i64>,
    /// Only of this table
    #[arg(long, value_name = "T")]
    pub table: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// What `init` need not ask. A secret is better given as a setting: options are seen by others on this machine.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// Id of the service application, or NXT_CLIENT_ID
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// Its secret, or NXT_CLIENT_SECRET, or NXT_CLIENT_SECRET_FILE
    #[arg(long, value_name = "SECRET")]
    pub client_secret: Option<SecretString>,
    /// Signature keys of the webhook subscriptions, comma-separated, or NXT_WEBHOOK_SECRETS
    #[arg(long, value_name = "KEYS")]
    pub webhook_secrets: Option<SecretString>,
    /// Companies to mirror, comma-separated, or `all`
    #[arg(long, value_name = "NUMBERS")]
    pub companies: Option<String>,
    /// Tables to mirror, comma-separated, or `all` for every table that a notification comes of
    #[arg(long, value_name = "TABLES")]
    pub tables: Option<String>,
    /// Address of the PostgreSQL database, or `own` for that of Docker Compose or an embedded server
    #[arg(long, value_name = "URL")]
    pub database_url: Option<SecretString>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = ".env")]
    pub out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    pub force: bool,
}

/// How the doctor looks, and tells.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Post signed bodies to the address that Business NXT posts to, such as `https://your.host`. They make no work, and
    /// are taken out again
    #[arg(long, value_name = "URL")]
    pub public_url: Option<Url>,
    /// Print one JSON document: a list of findings
    #[arg(long)]
    pub json: bool,
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
    /// Set up: ask for what is needed, try it, and write it to a file
    Init(InitArgs),
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
    /// Show lag, backlog, budget and each table
    Status {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print the sync log from the database, oldest first
    Logs(LogsArgs),
    /// What was set aside, why, and the way back
    DeadLetters {
        /// What to do with them
        #[command(subcommand)]
        command: DeadLetterCommand,
    },
    /// Compare the webhook subscriptions in Business NXT with what is mirrored; exit code 0 all ok, 1 not, 2 could not
    /// tell
    Subscriptions {
        #[command(flatten)]
        targets: Targets,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print what is mirrored: tables, keys, relations
    Schema {
        /// As SQL, or as a drawing for Mermaid or Graphviz
        #[arg(long, value_enum, default_value = "sql")]
        format: SchemaFormat,
    },
    /// Let an existing database role read what people read; given again, it replaces what was given before
    Grant {
        /// The role
        role: String,
        /// Only the rows of this company; may be given several times
        #[arg(long, value_name = "N")]
        company: Vec<i64>,
    },
    /// Fetch the rows of stored notifications again
    Replay(ReplayArgs),
    /// Tell every event, fetch and write known about one row, in order
    Explain {
        /// Table identifier, such as OrderLine
        table: String,
        /// Values of the key, in the order of its columns
        #[arg(required = true, allow_negative_numbers = true)]
        key: Vec<String>,
        /// Only of this company
        #[arg(long, value_name = "N")]
        company: Option<i64>,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Check settings, database, token, API, tables, time zone and subscriptions, and say what to do
    Doctor(DoctorArgs),
    /// Ask the running daemon whether it is ready; for container health checks
    Healthcheck,
    /// Write what completes commands in a shell, into a folder
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
        /// The folder
        folder: PathBuf,
    },
    /// Write a manual page for each command into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}
