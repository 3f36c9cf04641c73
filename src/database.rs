//! The replica's database: connections and migrations.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The migrations of `migrations/`, part of the binary.
static MIGRATIONS: Migrator = sqlx::migrate!();
/// Connections of one daemon, the receiver's own aside.
const CONNECTIONS_MAX: u32 = 16;
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// The oldest PostgreSQL that is supported.
const VERSION_MIN: i32 = 140_000;

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
    /// A migration failed.
    #[error("the database cannot be brought up to date")]
    Migrate(#[from] MigrateError),
}

/// How to connect. The session's time zone and string syntax are pinned, whatever the server's defaults are.
pub fn options(url: &SecretString) -> Result<PgConnectOptions, DatabaseError> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(|_| DatabaseError::Url)?;
    Ok(options.application_name("nxt-mirror").options([("TimeZone", "UTC"), ("DateStyle", "ISO")]))
}

/// A pool that has connected once.
pub async fn connect(options: PgConnectOptions) -> Result<PgPool, DatabaseError> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await?;
    let (number, found): (i32, String) = sqlx::query_as(
        "select current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&pool)
    .await?;
    if number < VERSION_MIN { Err(DatabaseError::TooOld { found }) } else { Ok(pool) }
}

/// Runs pending migrations. Replicas that start together wait for each other.
pub async fn migrate(pool: &PgPool) -> Result<(), DatabaseError> {
    MIGRATIONS.run(pool).await?;
    Ok(())
}

/// Whether every migration of this binary has been run.
pub async fn is_current(pool: &PgPool) -> Result<bool, DatabaseError> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(pool).await?;
    if !exists {
        return Ok(false);
    }
    let done: Option<i64> =
        sqlx::query_scalar("select max(version) from _sqlx_migrations where success").fetch_one(pool).await?;
    let needed = MIGRATIONS.iter().map(|migration| migration.version).max();
    Ok(done >= needed)
}
