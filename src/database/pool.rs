//! The pools of connections, kept on a host that takes writes: one that all working parts share, and one for operators.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::time::Instant;

use super::{
    Connector, DatabaseError, State,
    connector::Opened,
    pooler,
    session::{self, Session},
};
use crate::telemetry::chain;

/// Connections of the working parts of one daemon, the receiver's own and the watching one aside.
const CONNECTIONS_MAX: u32 = 16;
/// The same for pages, metrics and all else that operators and their programs ask.
const OPERATORS_CONNECTIONS_MAX: u32 = 4;
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the host is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two searches for a host.
const SEARCH_INTERVAL: Duration = Duration::from_millis(250);
/// The oldest PostgreSQL that is supported.
const VERSION_MIN: i32 = 140_000;

/// A daemon's pools.
#[derive(Debug)]
pub struct Pools {
    /// Of the working parts.
    pub work: PgPool,
    /// Of those who look. However many there are and however long they ask, no working part waits for them.
    pub operators: PgPool,
}

/// A pool that has connected once, to a database that can be used. It follows the host that takes writes until it is
/// closed.
pub async fn connect(connector: &Connector) -> Result<PgPool, DatabaseError> {
    let opened = open(connector).await?;
    let pool = pool(&opened, CONNECTIONS_MAX);
    tokio::spawn(follow(connector.clone(), vec![pool.clone()], opened));
    Ok(pool)
}

/// The same for a daemon. Both pools follow together, until that of the working parts is closed.
pub async fn connect_daemon(connector: &Connector) -> Result<Pools, DatabaseError> {
    let opened = open(connector).await?;
    let (work, operators) = (pool(&opened, CONNECTIONS_MAX), pool(&opened, OPERATORS_CONNECTIONS_MAX));
    tokio::spawn(follow(connector.clone(), vec![work.clone(), operators.clone()], opened));
    Ok(Pools { work, operators })
}

/// A first connection, to a database that can be used.
async fn open(connector: &Connector) -> Result<Opened, DatabaseError> {
    for name in &connector.address().without_effect {
        tracing::warn!("DATABASE_URL: {name} has no effect here");
    }
    let mut opened = connector.open(&Session::WORK).await?;
    connector.note(State::Writable);
    // Before anything is prepared, which would stay behind in a session that others use.
    pooler::refuse_transaction_mode(connector, &mut opened.connection).await?;
    is_usable(&mut opened.connection).await?;
    Ok(opened)
}

fn pool(opened: &Opened, connections_max: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // The question below tells as much and costs the same.
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(async { Ok(session::may_be_used(connection).await) }))
        .after_connect(|connection, _| Box::pin(begin_or_leave(connection)))
        .connect_lazy_with(opened.options.clone())
}

async fn is_usable(connection: &mut PgConnection) -> Result<(), DatabaseError> {
    let server = sqlx::query!(
        r#"select current_setting('server_version_num')::int as "number!",
                  current_setting('server_version') as "version!", current_setting('server_encoding') as "encoding!""#
    )
    .fetch_one(connection)
    .await?;
    match () {
        () if server.number < VERSION_MIN => Err(DatabaseError::TooOld { found: server.version }),
        () if server.encoding != "UTF8" => Err(DatabaseError::Encoding { found: server.encoding }),
        () => Ok(()),
    }
}

/// Readies a new connection. One that only reads is left: the pool tries again, by then perhaps with another host.
async fn begin_or_leave(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match session::begin(connection, &Session::WORK).await? {
        true => Ok(()),
        false => {
            tokio::time::sleep(SEARCH_INTERVAL).await;
            Err(sqlx::Error::Configuration(DatabaseError::ReadOnly.into()))
        }
    }
}

/// Looks at the host through a connection of its own, and leads the pools to another one when it takes no writes any
/// more, until the first of them is closed. A connection that is asked now and then also notices a host that answers no
/// more.
async fn follow(connector: Connector, pools: Vec<PgPool>, mut opened: Opened) {
    let closed = pools[0].close_event();
    let following = async {
        loop {
            let reason = until_left(&mut opened.connection).await;
            connector.note(State::Nowhere(format!("{}: {reason}", opened.host)));
            tracing::warn!(host = %opened.host, %reason, "the database is left");
            let left = opened.host.clone();
            opened = search(&connector).await;
            pools.iter().for_each(|pool| pool.set_connect_options(opened.options.clone()));
            connector.note(State::Writable);
            if opened.host == left {
                tracing::info!(host = %opened.host, "the database takes writes again");
            } else {
                tracing::info!(host = %opened.host, left = %left, "another host of the database takes writes now");
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = closed => {}
    }
}

/// Ends when the session is lost or only reads, and says why.
async fn until_left(connection: &mut PgConnection) -> String {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        match tokio::time::timeout(LOOK_TIMEOUT, session::still_takes_writes(connection)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return DatabaseError::ReadOnly.to_string(),
            Ok(Err(error)) => return error.to_string(),
            Err(_elapsed) => return format!("it has not answered for {} s", LOOK_TIMEOUT.as_secs()),
        }
    }
}

/// Tries the hosts in turn until one takes writes.
async fn search(connector: &Connector) -> Opened {
    let mut told = Instant::now();
    loop {
        match connector.open(&Session::WORK).await {
            Ok(opened) => return opened,
            Err(error) => {
                let is_new = connector.note(State::Nowhere(chain(&error).to_string()));
                if is_new && told.elapsed() >= LOOK_INTERVAL {
                    told = Instant::now();
                    tracing::warn!(error = %chain(&error), "no host of the database takes writes");
                }
            }
        }
        tokio::time::sleep(SEARCH_INTERVAL).await;
    }
}
