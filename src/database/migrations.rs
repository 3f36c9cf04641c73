//! Bringing the database up to date.

use std::time::Duration;

use sqlx::{
    Connection, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
};
use tokio::time::Instant;

use super::{
    DatabaseError,
    session::{self, Session},
};

/// The schema of the daemon's own state, which also holds the record of its migrations.
const SCHEMA: &str = "nxt_mirror";
const RECORD: &str = "nxt_mirror.migration";
/// A migration waits for a lock for as long as receivers may be kept waiting meanwhile.
const SESSION: Session = Session { label: "migration", settings: &[("lock_timeout", "500")] };
/// Time between two tries of a migration, for those who waited.
const MIGRATION_PAUSE: Duration = Duration::from_secs(1);
/// How long a migration is tried.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);

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
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    if !session::begin(&mut connection, &SESSION).await? {
        return Err(DatabaseError::ReadOnly);
    }
    let done = migrations().run(&mut connection).await;
    let closed = connection.close().await;
    done?;
    Ok(closed?)
}

/// A lock was not to be had in time, or only by whoever waited for one of ours.
fn was_locked_out(error: &MigrateError) -> bool {
    let (MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _)) = error else { return false };
    cause
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| matches!(code.as_ref(), "55P03" | "40P01"))
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
