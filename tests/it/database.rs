//! The database as people run it: several hosts, encryption, sockets, poolers.

mod failover;
mod pooler;
mod reach;
mod unbegun;

use std::{
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
};

use nxt_embedded_postgres::{DATABASE, EmbeddedPostgres};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use url::Url;

/// A server's own address, piece by piece.
fn address(server: &EmbeddedPostgres) -> Url {
    Url::parse(server.url(DATABASE).expose_secret()).expect("a server's address is a URL")
}

fn port(server: &EmbeddedPostgres) -> u16 {
    address(server).port().expect("it names its port")
}

fn password(server: &EmbeddedPostgres) -> String {
    address(server).password().expect("it holds the password").to_owned()
}

/// Runs statements on a server, each by itself.
async fn tell(server: &EmbeddedPostgres, statements: &[&str]) {
    let mut connection = PgConnection::connect(address(server).as_str()).await.expect("the server accepts connections");
    for statement in statements {
        connection.execute(AssertSqlSafe((*statement).to_owned())).await.expect("the statement runs");
    }
    connection.close().await.expect("a connection closes");
}

/// Writes a file that the server can read, and nobody else.
fn give(server: &EmbeddedPostgres, name: &str, content: &str) -> PathBuf {
    let cluster = server.data_dir().join("cluster");
    let path = cluster.join(name);
    std::fs::write(&path, content).expect("the file can be written");
    own_like(&cluster, &path);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it can be private");
    path
}

fn own_like(example: &Path, path: &Path) {
    let owner = std::fs::metadata(example).expect("the example exists");
    chown(path, Some(owner.uid()), Some(owner.gid())).expect("the file can be given away");
}
