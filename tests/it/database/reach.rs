//! Encryption as libpq has it, and sockets.

use std::{path::Path, process::Command};

use futures_util::StreamExt;
use nxt_embedded_postgres::{DATABASE, EmbeddedPostgres};
use nxt_mirror::database::{Connector, DatabaseError, Session};
use nxt_testkit::Scratch;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sqlx::{Connection, PgConnection};
use tokio::net::{TcpStream, UnixListener};

use super::{give, password, port, tell};

/// An authority, and a certificate for `localhost` that it signed: each as PEM, with the certificate's key.
fn certificate() -> (String, String, String) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let signed = own.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    (authority_pem, signed.pem(), key.serialize_pem())
}

/// A self-signed certificate of X.509 version 1, as many guides have people make it.
fn old_certificate(folder: &Path) -> (String, String) {
    std::fs::create_dir_all(folder).unwrap();
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
        let done = done.expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    openssl("req -new -newkey rsa:2048 -nodes -keyout key -out request -subj /CN=localhost");
    openssl("x509 -req -in request -signkey key -out certificate -days 2");
    (std::fs::read_to_string(folder.join("certificate")).unwrap(), std::fs::read_to_string(folder.join("key")).unwrap())
}

async fn encrypt(server: &EmbeddedPostgres, certificate: &str, key: &str) {
    give(server, "server.crt", certificate);
    give(server, "server.key", key);
    tell(server, &["alter system set ssl = on", "select pg_reload_conf()"]).await;
}

/// Lets connections over the network in by this kind of line alone, in whatever form the password is stored.
async fn let_in(server: &EmbeddedPostgres, kind: &str) {
    give(server, "pg_hba.conf", &format!("{kind} all all all md5\n"));
    tell(server, &["select pg_reload_conf()"]).await;
}

async fn connect(server: &EmbeddedPostgres, parameters: &str) -> Result<bool, DatabaseError> {
    connect_to("localhost", server, parameters).await
}

fn url(host: &str, server: &EmbeddedPostgres, parameters: &str) -> String {
    format!("postgresql://nxt_mirror:{}@{host}:{}/{DATABASE}?{parameters}", password(server), port(server))
}

/// Whether the connection is encrypted.
async fn connect_to(host: &str, server: &EmbeddedPostgres, parameters: &str) -> Result<bool, DatabaseError> {
    let mut connection = Connector::to(&url(host, server, parameters).into())?.connect(&Session::WORK).await?;
    let sql = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let is_encrypted = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(is_encrypted)
}

#[tokio::test]
async fn every_sslmode_does_as_libpq_does() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    assert!(!connect(&server, "sslmode=prefer").await.unwrap());
    assert!(connect(&server, "sslmode=require").await.is_err(), "the server cannot encrypt");

    let (authority, certificate, key) = certificate();
    encrypt(&server, &certificate, &key).await;
    let authority = give(&server, "authority.pem", &authority).display().to_string();
    let other = give(&server, "other.pem", &self::certificate().0).display().to_string();
    for (parameters, encrypted) in [
        ("sslmode=disable".to_owned(), Some(false)),
        ("sslmode=allow".to_owned(), Some(false)),
        ("sslmode=prefer".to_owned(), Some(true)),
        (String::new(), Some(true)),
        ("sslmode=require".to_owned(), Some(true)),
        ("sslmode=verify-ca".to_owned(), None),
        (format!("sslmode=verify-ca&sslrootcert={authority}"), Some(true)),
        (format!("sslmode=verify-ca&sslrootcert={other}"), None),
        (format!("sslmode=require&sslrootcert={other}"), None),
        (format!("sslmode=verify-full&sslrootcert={authority}"), Some(true)),
    ] {
        assert_eq!(connect(&server, &parameters).await.ok(), encrypted, "{parameters}");
    }
    let unnamed = format!("sslmode=verify-full&sslrootcert={authority}");
    assert!(connect_to("127.0.0.1", &server, &unnamed).await.is_err(), "the certificate does not name it");
    assert!(connect_to("127.0.0.1", &server, &unnamed.replace("full", "ca")).await.unwrap());

    let_in(&server, "hostssl").await;
    for (mode, encrypted) in [("disable", None), ("allow", Some(true)), ("prefer", Some(true))] {
        assert_eq!(connect(&server, &format!("sslmode={mode}")).await.ok(), encrypted, "{mode}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_version_1_encrypts_where_none_is_verified_and_is_named_where_one_is() {
    let (scratch, files) = (Scratch::new(), Scratch::new());
    let server = scratch.start().await;
    let (certificate, key) = old_certificate(&files.0);
    encrypt(&server, &certificate, &key).await;
    for mode in ["prefer", "require"] {
        assert!(connect(&server, &format!("sslmode={mode}")).await.unwrap(), "{mode}");
    }
    let refused = connect(&server, "sslmode=verify-full").await.unwrap_err();
    assert!(matches!(refused, DatabaseError::OldCertificate), "{refused:?}");

    let pool = nxt_mirror::database::connect(&Connector::to(&url("localhost", &server, "").into()).unwrap()).await;
    let pool = pool.unwrap();
    let long = "x".repeat(1_000_000);
    let asked = (0..20).map(|_| {
        sqlx::query_as("select ssl, $1 from pg_stat_ssl where pid = pg_backend_pid()").bind(&long).fetch_one(&pool)
    });
    // Some at once. Whoever waits five seconds for a connection fails, and a busy machine encrypts slowly.
    let mut answers = futures_util::stream::iter(asked).buffered(4);
    while let Some(answer) = answers.next().await {
        let (is_encrypted, same): (bool, String) = answer.unwrap();
        assert!(is_encrypted && same == long);
    }
    pool.close().await;

    let_in(&server, "hostnossl").await;
    assert!(!connect(&server, "sslmode=prefer").await.unwrap());
    assert!(connect(&server, "sslmode=require").await.is_err());
    let_in(&server, "hostssl").await;
    assert!(connect(&server, "sslmode=allow").await.unwrap());
    server.stop().await.unwrap();
}

/// Hands connections of a socket over to the server, which itself listens on the network alone.
fn stand_in(listener: UnixListener, port: u16) {
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server accepts connections");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
}

#[tokio::test]
async fn sockets_are_reached_in_all_forms_that_libpq_has() {
    let (scratch, folder) = (Scratch::new(), Scratch::new());
    let server = scratch.start().await;
    std::fs::create_dir(&folder.0).unwrap();
    let path = folder.0.display().to_string();
    stand_in(UnixListener::bind(folder.0.join(".s.PGSQL.6001")).unwrap(), port(&server));
    // In Linux's abstract space.
    stand_in(UnixListener::bind(format!("\0{path}/.s.PGSQL.6001")).unwrap(), port(&server));
    let (encoded, password) = (path.replace('/', "%2F"), password(&server));
    for url in [
        format!("postgresql:///{DATABASE}?host={path}&port=6001&user=nxt_mirror&password={password}"),
        format!("postgresql://nxt_mirror:{password}@{encoded}:6001/{DATABASE}"),
        format!("postgresql://nxt_mirror:{password}@/{DATABASE}?host={encoded}&port=6001&sslmode=require"),
        format!("postgresql://nxt_mirror:{password}@%40{encoded}:6001/{DATABASE}"),
        format!("host=/nowhere,{path} port=6001 user=nxt_mirror password='{password}' dbname={DATABASE}"),
        format!("host='@{path}' port = 6001 user=nxt_mirror password={password} dbname={DATABASE}"),
    ] {
        let connector = Connector::to(&url.clone().into()).unwrap();
        let mut connection: PgConnection =
            connector.connect(&Session::WORK).await.unwrap_or_else(|error| panic!("{url}: {error:?}"));
        let database: String =
            sqlx::query_scalar("select current_database()::text").fetch_one(&mut connection).await.unwrap();
        assert_eq!(database, DATABASE);
    }
    server.stop().await.unwrap();
}
