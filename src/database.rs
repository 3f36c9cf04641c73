//! The replica's database: connections and migrations.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The schema of the daemon's own state, which also holds the record of its migrations.
const SCHEMA: &str = "nxt_mirror";
const RECORD: &str = "nxt_mirror.migration";
/// A migration whose text was changed after databases had been made by it, and the checksum of the earlier one.
const AMENDED: (i64, &str) =
    (3, "2e5451742a3b590d2beb1fe577da0e33612138d3e97384fd6f9c95480eb09277b53b4d8ec1e886e72e6eecf4537146f2");
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
        // A plan made while a mirrored table was empty would be kept until the table is analyzed, and read all of it for
        // each batch meanwhile.
        ("plan_cache_mode", "force_custom_plan"),
    ]))
}

/// A pool that has connected once.
pub async fn connect(options: PgConnectOptions) -> Result<PgPool, DatabaseError> {
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await?;
    let (number, found): (i32, String) =
        sqlx::query_as("select current_setting('server_version_num')::int, current_setting('server_version')")
            .fetch_one(&pool)
            .await?;
    if number < VERSION_MIN { Err(DatabaseError::TooOld { found }) } else { Ok(pool) }
}

/// Runs pending migrations. Replicas that start together wait for each other.
pub async fn migrate(pool: &PgPool) -> Result<(), DatabaseError> {
    accept_amended(pool).await?;
    migrations().run(pool).await?;
    Ok(())
}

/// A database made by an earlier text of migration 3, which left behind a column that a later migration drops, would be
/// refused for that text. It is as good as one made by today's.
async fn accept_amended(pool: &PgPool) -> Result<(), DatabaseError> {
    let (version, earlier) = AMENDED;
    let known = migrations().iter().find(|migration| migration.version == version).map(|own| own.checksum.to_vec());
    if has_record(pool).await? {
        sqlx::query(
            "update nxt_mirror.migration set checksum = $1 where version = $2 and checksum = decode($3, 'hex')",
        )
        .bind(known)
        .bind(version)
        .bind(earlier)
        .execute(pool)
        .await?;
    }
    Ok(())
}

async fn has_record(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select to_regclass($1) is not null").bind(RECORD).fetch_one(pool).await
}

/// Whether every migration of this binary has been run.
pub async fn is_current(pool: &PgPool) -> Result<bool, DatabaseError> {
    if !has_record(pool).await? {
        return Ok(false);
    }
    let done: Option<i64> =
        sqlx::query_scalar("select max(version) from nxt_mirror.migration where success").fetch_one(pool).await?;
    let needed = migrations().iter().map(|migration| migration.version).max();
    Ok(done >= needed)
}
