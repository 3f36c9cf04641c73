//! The harness, and what it needs to know of this package.

pub mod app;
pub mod cluster;
pub mod terminal;

use nxt_mirror::database::{self, Connector};
use nxt_simulator::Options;
use nxt_testkit::{Site, TestDatabase};
use tokio::sync::OnceCell;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nxt-mirror");

/// An empty database, dropped with its value.
pub async fn database() -> TestDatabase {
    TestDatabase::create().await
}

/// A database with the daemon's schema, dropped with its value.
pub async fn migrated() -> TestDatabase {
    /// What the tests of this process get copies of. It goes with their server.
    static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();
    let make = async || {
        let database = self::database().await;
        let connector = Connector::to(&database.url().into()).expect("the address is one");
        let pool = database::connect(&connector).await.expect("the test database accepts connections");
        database::migrate(&pool).await.expect("an empty database can be migrated");
        pool.close().await;
        database
    };
    match nxt_testkit::is_server_given() {
        true => make().await,
        false => TEMPLATE.get_or_init(make).await.copy().await,
    }
}

/// A simulator and a database for daemons that are processes of their own.
pub async fn site(options: Options, database_url: &str, settings: &[(&'static str, &str)]) -> Site {
    Site::new(PROGRAM, options, database_url, settings).await
}
