//! The server of our own.

use nxt_mirror::embedded::{Durability, EmbeddedOptions, EmbeddedPostgres};
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection};

use crate::support::database::scratch;

fn options(name: &str) -> EmbeddedOptions {
    EmbeddedOptions { folder: scratch(name), durability: Durability::Volatile }
}

async fn connect(server: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect(server.url("nxt_mirror").expose_secret()).await.unwrap()
}

#[tokio::test]
async fn data_password_and_port_survive_a_restart() {
    let server = EmbeddedPostgres::start(options("restart")).await.unwrap();
    let url = server.url("nxt_mirror");
    let mut connection = connect(&server).await;
    sqlx::query("create table kept (no int)").execute(&mut connection).await.unwrap();
    server.stop().await;
    let server = EmbeddedPostgres::start(options("restart")).await.unwrap();
    assert_eq!(server.url("nxt_mirror").expose_secret(), url.expose_secret());
    let mut connection = connect(&server).await;
    let count: i64 = sqlx::query_scalar("select count(*) from kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_stale_lock_file_does_not_prevent_a_start() {
    let server = EmbeddedPostgres::start(options("stale")).await.unwrap();
    let lock = server.folder().join("postgresql/postmaster.pid");
    let content = std::fs::read_to_string(&lock).unwrap();
    server.stop().await;
    // The lock of a server that was killed, its process gone.
    let stale: Vec<&str> = std::iter::once("4194000").chain(content.lines().skip(1)).collect();
    std::fs::write(&lock, stale.join("\n")).unwrap();
    EmbeddedPostgres::start(options("stale")).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_password_is_needed_and_only_its_owner_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let server = EmbeddedPostgres::start(options("password")).await.unwrap();
    let url = server.url("nxt_mirror").expose_secret().replacen(':', ":", 1);
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, host) = rest.split_once('@').unwrap();
    let wrong = format!("{scheme}://nxt_mirror:wrong@{host}");
    assert!(PgConnection::connect(&wrong).await.is_err());
    for file in ["password", "url"] {
        let mode = std::fs::metadata(server.folder().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
    server.stop().await;
}
