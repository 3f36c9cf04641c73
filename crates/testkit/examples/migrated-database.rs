//! Runs a command beside a database that has the tables of a folder of migrations, and tells it the address in
//! `NXT_STATEMENTS_DESCRIBED_BY`. For `.ci/sqlx`.
//!
//! ```text
//! migrated-database MIGRATIONS COMMAND [ARGUMENT]...
//! ```

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Context;
use nxt_testkit::TestDatabase;
use sqlx::migrate::Migrator;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(migrations), Some(command)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: migrated-database MIGRATIONS COMMAND [ARGUMENT]...");
    };
    let database = TestDatabase::create().await;
    migrate(&database, migrations.into()).await?;
    // Names are looked up as the daemon does it, and without regard to the role's own name.
    let address = format!("{}&options[search_path]=public", database.url());
    let status = Command::new(&command).args(arguments).env("NXT_STATEMENTS_DESCRIBED_BY", address).status();
    let status = status.with_context(|| format!("run {}", command.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// As the daemon does it.
async fn migrate(database: &TestDatabase, migrations: PathBuf) -> anyhow::Result<()> {
    let mut migrator = Migrator::new(migrations).await.context("read the migrations")?;
    migrator.dangerous_set_table_name("nxt_mirror.migration");
    migrator.create_schema("nxt_mirror");
    migrator.run(&database.pool().await).await.context("run the migrations")
}
