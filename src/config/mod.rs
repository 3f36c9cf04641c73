//! Settings: read and checked once, before the first socket opens.
//!
//! Every setting is an environment variable; the same names may stand in a TOML file. The environment wins. An
//! empty value counts as absent. See [`Settings`] for what each means.

mod database_address;
mod parse;
mod source;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use chrono_tz::Tz;
use secrecy::SecretString;
use url::Url;

pub use database_address::{DatabaseAddress, DatabaseHost, Place, Tls, TlsMode};
pub use source::Source;

use crate::domain::{Exclusions, ExtensionColumn, Language, TableName, Target, Tenant, naming};

/// One line that names the setting and says what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting without a default.
    #[error("{variable} is not set: {purpose}")]
    Missing {
        /// The variable.
        variable: &'static str,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// A value that cannot be used. Never carries the value of a secret.
    #[error("{variable} is wrong: {problem}")]
    Wrong {
        /// The variable.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// The settings file.
    #[error("settings file {path}: {problem}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// What becomes of a mirrored row that the source deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletes {
    /// The row is removed.
    Hard,
    /// The row stays and `_deleted_at` is set.
    Soft,
}

/// The tables whose versions are kept (`NXT_HISTORY`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryScope {
    /// These.
    Tables(Vec<TableName>),
    /// `*`
    All,
}

impl Default for HistoryScope {
    fn default() -> Self {
        Self::Tables(vec![])
    }
}

impl HistoryScope {
    /// Whether no table's are kept.
    pub fn is_off(&self) -> bool {
        matches!(self, Self::Tables(tables) if tables.is_empty())
    }

    /// Whether the versions of this table's rows are kept.
    pub fn includes(&self, table: &TableName) -> bool {
        match self {
            Self::Tables(tables) => tables.iter().any(|own| naming::is_same_name(own.as_str(), table.as_str())),
            Self::All => true,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which part of the work a `serve` process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Receives and works.
    All,
    /// Only accepts webhooks.
    Receiver,
    /// Only fetches and mirrors.
    Worker,
}

impl Role {
    /// Whether webhooks are accepted.
    pub fn receives(self) -> bool {
        matches!(self, Self::All | Self::Receiver)
    }

    /// Whether rows are fetched and mirrored.
    pub fn works(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

/// How log lines are filtered and written (`NXT_LOG`, `NXT_LOG_FORMAT`).
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A filter of `tracing-subscriber`, such as `info` or `nxt_mirror=debug`.
    pub filter: String,
    /// `None`: text on a terminal, JSON otherwise.
    pub format: Option<LogFormat>,
}

/// Where the replica lives.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// `DATABASE_URL`; without it a server of our own is started.
    pub address: Option<DatabaseAddress>,
    /// `NXT_DATA_DIR`: files of the embedded server.
    pub data_dir: PathBuf,
}

/// The public listener.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// `NXT_LISTEN`.
    pub listen: SocketAddr,
    /// `NXT_WEBHOOK_PATH`, starting with a slash.
    pub path: String,
    /// `NXT_WEBHOOK_SECRETS`: any of them may have signed.
    pub secrets: Vec<SecretString>,
    /// `NXT_WEBHOOK_BODY_MAX`, in bytes.
    pub body_bytes_max: usize,
}

/// The operators' listener.
#[derive(Debug, Clone)]
pub struct OpsSettings {
    /// `NXT_OPS_LISTEN`.
    pub listen: SocketAddr,
    /// `NXT_OPS_TOKEN`; always present when `listen` is not a loopback address.
    pub token: Option<SecretString>,
    /// `NXT_REQUESTS_PER_MINUTE`, beside which the use of the budget is shown.
    pub requests_per_minute: u32,
    /// How long a reader of a stream may take for one part of it. No variable sets it.
    pub taking_max: Duration,
}

/// Access to the API.
#[derive(Debug, Clone)]
pub struct UpstreamSettings {
    /// `NXT_CLIENT_ID`.
    pub client_id: String,
    /// `NXT_CLIENT_SECRET`.
    pub client_secret: SecretString,
    /// `NXT_TOKEN_URL`.
    pub token_url: Url,
    /// `NXT_SCOPE`.
    pub scope: String,
    /// `NXT_TENANT_ID`, sent as a form field when set.
    pub tenant_id: Option<String>,
    /// `NXT_GRAPHQL_URL`.
    pub graphql_url: Url,
    /// `NXT_REQUESTS_PER_MINUTE`: requests in any 60 seconds, over all replicas.
    pub requests_per_minute: u32,
    /// `NXT_IN_FLIGHT_MAX`: requests under way for one company, over all replicas.
    pub in_flight_max: u32,
    /// `NXT_FETCH_ROWS_MAX`: keys in one request.
    pub fetch_rows_max: u32,
    /// `NXT_SOURCE_TIMEZONE`: zone of timestamps that carry none.
    pub timezone: Tz,
}

/// What is mirrored.
#[derive(Debug, Clone)]
pub struct MirrorSettings {
    /// `NXT_TABLES`; empty: every table a webhook arrives for.
    pub tables: Vec<TableName>,
    /// `NXT_COMPANIES`; empty: all.
    pub companies: Vec<i64>,
    /// `NXT_KEYS`: key columns by table identifier, which override everything else that tells them.
    pub keys: BTreeMap<TableName, Vec<String>>,
    /// `NXT_EXTENSION_COLUMNS`: the customer's own columns by table identifier, none of them twice.
    pub extensions: BTreeMap<TableName, Vec<ExtensionColumn>>,
    /// `NXT_LANGUAGE`: language of labels.
    pub language: Language,
    /// `NXT_RELATION_INDEXES`: whether indexes are made for joins.
    pub relation_indexes: bool,
    /// `NXT_DELETES`.
    pub deletes: Deletes,
    /// `NXT_EXCLUDE`.
    pub exclusions: Arc<Exclusions>,
    /// `NXT_HISTORY`.
    pub history: HistoryScope,
    /// `NXT_HISTORY_DAYS`: how long versions are kept after their end; `None`: for ever.
    pub history_days: Option<u32>,
    /// `NXT_SWEEP_SECONDS`; `None` when off.
    pub sweep_interval: Option<Duration>,
    /// `NXT_WALK_SECONDS`; `None` when off.
    pub walk_interval: Option<Duration>,
    /// `NXT_LEDGER_DAYS`: how long ledger, sync log, feed, tombstones and dead letters are kept.
    pub ledger_days: u32,
}

/// All settings of the daemon.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Database.
    pub database: DatabaseSettings,
    /// Public listener; present for receivers.
    pub webhook: Option<WebhookSettings>,
    /// Operators' listener.
    pub ops: OpsSettings,
    /// API; present for workers.
    pub upstream: Option<UpstreamSettings>,
    /// What is mirrored.
    pub mirror: MirrorSettings,
    /// Log.
    pub log: LogSettings,
}

impl Settings {
    /// Reads the settings that a role needs. What a role does not need may be absent, but not wrong.
    pub fn read(source: &Source, role: Role) -> Result<Self, ConfigError> {
        let webhook = parse::webhook(source, role.receives())?;
        let upstream = parse::upstream(source, role.works())?;
        Ok(Self {
            database: parse::database(source)?,
            webhook: webhook.filter(|_| role.receives()),
            ops: parse::ops(source)?,
            upstream: upstream.filter(|_| role.works()),
            mirror: parse::mirror(source)?,
            log: parse::log(source)?,
        })
    }

    /// Whether what is given can be used. Nothing needs to be given.
    pub fn check(source: &Source) -> Result<(), ConfigError> {
        parse::webhook(source, false)?;
        parse::upstream(source, false)?;
        parse::database(source)?;
        parse::ops(source)?;
        parse::mirror(source)?;
        parse::log(source)?;
        Ok(())
    }
}

impl DatabaseSettings {
    /// Reads the database settings alone.
    pub fn read(source: &Source) -> Result<Self, ConfigError> {
        parse::database(source)
    }
}

impl MirrorSettings {
    /// Reads what is mirrored alone.
    pub fn read(source: &Source) -> Result<Self, ConfigError> {
        parse::mirror(source)
    }

    /// Reads what is left out alone.
    pub fn exclusions(source: &Source) -> Result<Arc<Exclusions>, ConfigError> {
        parse::exclusions(source).map(Arc::new)
    }

    /// Why a target is not mirrored; `None` for one that is.
    pub fn why_not(&self, target: &Target) -> Option<&'static str> {
        let is_named = |table: &TableName| table.as_str().eq_ignore_ascii_case(target.table.as_str());
        if self.exclusions.has_table(target.table.as_str()) {
            return Some("the table is in NXT_EXCLUDE");
        }
        if !self.tables.is_empty() && !self.tables.iter().any(is_named) {
            return Some("the table is not in NXT_TABLES");
        }
        match target.tenant {
            Tenant::Company(number) if !self.companies.is_empty() && !self.companies.contains(&number) => {
                Some("the company is not in NXT_COMPANIES")
            }
            Tenant::Company(_) | Tenant::Customer(_) => None,
        }
    }
}

impl WebhookSettings {
    /// Reads the settings of the public listener alone; `None` without a key.
    pub fn read(source: &Source) -> Result<Option<Self>, ConfigError> {
        parse::webhook(source, false)
    }
}

impl UpstreamSettings {
    /// Reads the access to the API alone; `None` without a client.
    pub fn read(source: &Source) -> Result<Option<Self>, ConfigError> {
        parse::upstream(source, false)
    }

    /// Reads the request budget alone.
    pub fn requests_per_minute(source: &Source) -> Result<u32, ConfigError> {
        parse::requests_per_minute(source)
    }
}

impl LogSettings {
    /// Reads the log settings alone.
    pub fn read(source: &Source) -> Result<Self, ConfigError> {
        parse::log(source)
    }
}

impl OpsSettings {
    /// Reads the settings of the operators' listener alone.
    pub fn read(source: &Source) -> Result<Self, ConfigError> {
        parse::ops(source)
    }
}
