//! What a session is like. Its defaults, which the server or the role may have changed, are pinned by statements and
//! not by the connection's options, because poolers refuse or drop those.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row};

/// How long an idle connection may take to say that it is alive.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a session's defaults could change about the meaning of a statement, or about what it costs.
const EVERY: [(&str, &str); 9] = [
    ("search_path", "public"),
    ("default_transaction_isolation", "'read committed'"),
    // A plan made while a mirrored table was empty would be kept until the table is analyzed, and read all of it
    // for each batch meanwhile.
    ("plan_cache_mode", "force_custom_plan"),
    // By the guesses of a planner that has no statistics yet, looking at all targets is worth compiling: two seconds of a
    // processor each time, for what runs in milliseconds.
    ("jit", "'off'"),
    ("statement_timeout", "0"),
    // A process that stands still must not keep its locks.
    ("idle_in_transaction_session_timeout", "4000"),
    // Without the extension these have no effect. With it, time-outs of locks hold on the other nodes, too, and one
    // transaction may change tables of every kind. Other nodes are sent the whole text that a setting is part of, even
    // its `begin`, and would warn each time.
    ("citus.propagate_set_commands", "'local'"),
    ("citus.multi_shard_modify_mode", "'sequential'"),
    ("citus.worker_min_messages", "'error'"),
];

/// Asked for by whoever is about to use a session.
pub(super) const TAKES_WRITES: &str = "select current_setting('transaction_read_only') = 'off'";
/// The same, and whether no transaction is open: there the statement is the first one since it began. The library leaves
/// one open where whoever wanted it was gone before it had begun, and what the next one writes would never be committed.
const IS_FREE: &str = "select current_setting('transaction_read_only') = 'off' and now() = statement_timestamp()";

/// What a connection is for, and what it sets beside what every session sets.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// What the server's list of sessions says after the application's name; empty for ordinary work.
    pub label: &'static str,
    /// Names and values, in the form that SQL has them.
    pub settings: &'static [(&'static str, &'static str)],
}

impl Session {
    /// Ordinary work.
    pub const WORK: Self = Self { label: "", settings: &[] };
}

/// As whom the server knows this process.
#[derive(Debug)]
pub struct Client {
    /// The role that logged in.
    pub role: String,
    /// Where it connects from; `None` through a socket of the server's own machine.
    pub address: Option<String>,
}

/// Asks the server.
pub async fn client(pool: &PgPool) -> Result<Client, sqlx::Error> {
    sqlx::query_as!(Client, r#"select session_user::text as "role!", host(inet_client_addr()) as "address?""#)
        .fetch_one(pool)
        .await
}

/// Pins a new session's settings, and returns whether it takes writes. One request.
pub(super) async fn begin(connection: &mut PgConnection, session: &Session) -> Result<bool, sqlx::Error> {
    let settings = EVERY.iter().chain(session.settings).map(|(name, value)| format!("set {name} = {value}; "));
    let statements = settings.collect::<String>() + TAKES_WRITES;
    let rows = sqlx::raw_sql(AssertSqlSafe(statements)).fetch_all(connection).await?;
    takes_writes(rows.first())
}

/// Whether a session still takes writes: neither has its host become a standby, nor was it told to only read.
pub(super) async fn still_takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let rows = sqlx::raw_sql(TAKES_WRITES).fetch_all(connection).await?;
    takes_writes(rows.first())
}

/// Whether an idle connection is alive, and its session takes writes and has no transaction open.
pub async fn may_be_used(connection: &mut PgConnection) -> bool {
    match tokio::time::timeout(IDLE_TIMEOUT, sqlx::raw_sql(IS_FREE).fetch_all(connection)).await {
        Ok(Ok(rows)) => takes_writes(rows.first()).unwrap_or(false),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an idle connection was lost");
            false
        }
        Err(_elapsed) => false,
    }
}

fn takes_writes(row: Option<&sqlx::postgres::PgRow>) -> Result<bool, sqlx::Error> {
    row.ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}
