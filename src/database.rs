//! The mirror's database: connections and migrations.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::Instant;

/// The schema of the daemon's own state, which also holds the record of its migrations.
const SCHEMA: &str = "nxt_mirror";
const RECORD: &str = "nxt_mirror.migration";
/// Connections of one daemon, the receiver's own aside.
const CONNECTIONS_MAX: u32 = 16;
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest PostgreSQL that is supported.
const VERSION_MIN: i32 = 140_000;
/// How long a migration may wait for a lock, and be waited for by receivers meanwhile.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// Time between two tries of a migration, for those who waited.
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);
/// How long a migration is tried.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is not one.
    #[error("DATABASE_URL is wrong: it cannot be read as a PostgreSQL URL")]
    Url,
    /// No connection or a failed statement.
    #[error("the database cannot be reached")]
    Sql(#[from] sqlx::Error),
    /// Too old.
    #[error("the database is PostgreSQL {found}, but 14 or newer is needed")]
    TooOld {
        /// Its version, such as 13.4.
        found: String,
    },
    /// It cannot store every text.
    #[error(
        "the database's encoding is {found}, but UTF8 is needed: create it with encoding 'UTF8' and template template0"
    )]
    Encoding {
        /// Its encoding.
        found: String,
    },
    /// Made by a version whose state is not ours.
    #[error(
        "the database holds the state of another version of nxt-mirror, which cannot be taken over: start with a new database"
    )]
    Foreign,
    /// A migration failed.
    #[error("the database cannot be brought up to date")]
    Migrate(#[from] MigrateError),
}

/// How the database's record of migrations compares with this binary's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Behind,
    Current,
    /// Some migration was run that this binary does not have.
    Foreign,
}

/// The migrations of `migrations/`, part of the binary.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!();
    // Beside the state it speaks of, wherever the role's search path leads.
    migrations.dangerous_set_table_name(RECORD);
    migrations.create_schema(SCHEMA);
    migrations
}

/// How to connect. What a session's defaults could change about the meaning of a statement is pinned.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, DatabaseError> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| DatabaseError::Url)?;
    Ok(options.application_name("nxt-mirror").options([
        ("TimeZone", "UTC"),
        ("DateStyle", "ISO"),
        ("search_path", "public"),
        ("default_transaction_isolation", "read committed"),
        // A plan made while a mirrored table was empty would be kept until the table is analyzed, and read all of it
        // for each batch meanwhile.
        ("plan_cache_mode", "force_custom_plan"),
        ("statement_timeout", "0"),
        // A process that stands still must not keep its locks.
        ("idle_in_transaction_session_timeout", "4000"),
    ]))
}

/// A pool that has connected once, to a database that can be used.
pub async fn connect(options: PgConnectOptions) -> Result<PgPool, DatabaseError> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await?;
    let server = sqlx::query!(
        r#"select current_setting('server_version_num')::int as "number!",
                  current_setting('server_version') as "version!", current_setting('server_encoding') as "encoding!""#
    )
    .fetch_one(&pool)
    .await?;
    match () {
        () if server.number < VERSION_MIN => Err(DatabaseError::TooOld { found: server.version }),
        () if server.encoding != "UTF8" => Err(DatabaseError::Encoding { found: server.encoding }),
        () => Ok(pool),
    }
}

/// Runs pending migrations. Replicas that start together wait for each other.
///
/// A migration that cannot have a lock soon steps back and tries again, so that receivers do not queue behind it while
/// somebody reads a table for long.
pub async fn migrate(pool: &PgPool) -> Result<(), DatabaseError> {
    match record(pool).await? {
        Record::Foreign => return Err(DatabaseError::Foreign),
        Record::Current => return Ok(()),
        Record::Behind => {}
    }
    let deadline = Instant::now() + MIGRATION_TIMEOUT;
    loop {
        match migrate_once(pool).await {
            Err(DatabaseError::Migrate(error)) if was_locked_out(&error) && Instant::now() < deadline => {
                tracing::info!("a migration waits for a table that somebody reads, or for another replica");
                tokio::time::sleep(MIGRATION_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// One try, on a connection of its own, so that what it leaves behind ends with it.
async fn migrate_once(pool: &PgPool) -> Result<(), DatabaseError> {
    let options = pool.connect_options().as_ref().clone();
    let lock_timeout = MIGRATION_LOCK_TIMEOUT.as_millis().to_string();
    let mut connection = PgConnection::connect_with(&options.options([("lock_timeout", lock_timeout)])).await?;
    let done = migrations().run(&mut connection).await;
    let closed = connection.close().await;
    done?;
    Ok(closed?)
}

/// A lock was not to be had in time.
fn was_locked_out(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    cause.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

async fn record(pool: &PgPool) -> Result<Record, sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar!(r#"select to_regclass($1) is not null as "exists!""#, RECORD).fetch_one(pool).await?;
    if !exists {
        return Ok(Record::Behind);
    }
    let run = sqlx::query!("select version, checksum from nxt_mirror.migration where success").fetch_all(pool).await?;
    let own = migrations();
    let is_own =
        |version, checksum: &[u8]| own.iter().any(|own| own.version == version && own.checksum.as_ref() == checksum);
    Ok(match run.iter().all(|run| is_own(run.version, &run.checksum)) {
        false => Record::Foreign,
        true if run.len() == own.iter().count() => Record::Current,
        true => Record::Behind,
    })
}

/// Whether every migration of this binary has been run, and no other.
pub async fn is_current(pool: &PgPool) -> Result<bool, DatabaseError> {
    Ok(record(pool).await? == Record::Current)
}
