//! Transactions that nobody waits for any more while they begin.

use std::time::Duration;

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use nxt_mirror::database::{self, Connector};
use nxt_testkit::Wait;
use sqlx::Connection;

use crate::support::database;

/// A walk that ends, a request that its client gives up: any of them may be about to begin a transaction.
#[tokio::test]
async fn what_is_written_after_a_transaction_that_nobody_waited_for_is_committed() {
    let database = database().await;
    let other = database.pool().await;
    sqlx::query("create table written (number int)").execute(&other).await.unwrap();
    let pool = database::connect(&Connector::to(&database.url().into()).unwrap()).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
    let process = Pid::from_raw(process);
    signal::kill(process, Signal::SIGSTOP).unwrap();
    let has_begun = tokio::time::timeout(Duration::from_millis(100), connection.begin()).await.is_ok();
    assert!(!has_begun, "a process that stands still begins nothing");
    drop(connection);
    signal::kill(process, Signal::SIGCONT).unwrap();
    Wait::seconds(60).for_true("it is given back", async || pool.num_idle() == 1).await.unwrap();
    sqlx::query("insert into written values (1)").execute(&pool).await.unwrap();
    let written: i64 = sqlx::query_scalar("select count(*) from written").fetch_one(&other).await.unwrap();
    assert_eq!(written, 1, "it was written in a transaction that nobody ends");
    pool.close().await;
}
