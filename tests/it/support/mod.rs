//! The harness, and what it needs to know of this package.

pub mod app;
pub mod cluster;
pub mod terminal;

use std::path::Path;

use nxt_simulator::Options;
use nxt_testkit::{Site, TestDatabase};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nxt-mirror");

/// An empty database, dropped with its value.
pub async fn database() -> TestDatabase {
    TestDatabase::create(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres")).await
}

/// A simulator and a database for daemons that are processes of their own.
pub async fn site(options: Options, database_url: &str, settings: &[(&'static str, &str)]) -> Site {
    Site::new(PROGRAM, options, database_url, settings).await
}
