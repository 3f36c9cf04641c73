//! What strangers and hostile data can and cannot do.

use std::time::Duration;

use nxt_mirror::config::Role;
use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::{SECRET, object};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    PROGRAM,
    app::{COMPANY, TestApp},
};

const OPS_TOKEN: &str = "operators-token-of-the-test";

/// Runs everything that prints, at the highest level of detail, with success and with every kind of failure.
#[tokio::test]
async fn no_secret_is_in_any_output() {
    let app = TestApp::builder()
        .role(Role::Receiver)
        .set("NXT_OPS_TOKEN", OPS_TOKEN)
        .set("NXT_TABLES", "Order")
        .start()
        .await;
    app.put("Order", json!({ "orderNo": 1, "name": "one" }));
    app.simulator.drain().await;
    let mut output = String::new();
    let mut run = async |arguments: &[&str], extra: &[(&str, &str)]| {
        let mut command = std::process::Command::new(PROGRAM);
        command.args(arguments).envs(app.environment()).env("NXT_LOG", "trace");
        command.envs(extra.iter().copied());
        let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        output.push_str(&String::from_utf8_lossy(&done.stdout));
        output.push_str(&String::from_utf8_lossy(&done.stderr));
    };
    run(&["--help"], &[]).await;
    for command in ["serve", "simulate", "demo", "backfill", "verify"] {
        run(&[command, "--help"], &[]).await;
    }
    run(&["backfill"], &[]).await;
    run(&["verify", "--repair", "--json"], &[]).await;
    run(&["status"], &[]).await;
    run(&["doctor"], &[]).await;
    run(&["explain", "Order", "1"], &[]).await;
    run(&["dead-letters", "list"], &[]).await;
    let unreachable = app.database.url().replacen("127.0.0.1:", "127.0.0.1:1", 1);
    run(&["migrate"], &[("DATABASE_URL", &unreachable)]).await;
    run(&["migrate"], &[("DATABASE_URL", "postgres//:secret-in-a-wrong-url@host")]).await;
    run(&["verify"], &[("NXT_TOKEN_URL", "http://127.0.0.1:1/")]).await;
    run(&["serve"], &[("NXT_SWEEP_SECONDS", "soon")]).await;
    run(&["serve"], &[("NXT_OPS_LISTEN", "0.0.0.0:0"), ("NXT_OPS_TOKEN", "")]).await;
    for kind in [FaultKind::Unauthorized, FaultKind::TokenAway, FaultKind::Html] {
        app.simulator.fault(Fault::new(kind).times(3));
        run(&["doctor"], &[]).await;
        app.simulator.clear_faults();
    }
    assert!(output.len() > 10_000, "the outputs were read: {output}");
    // A server that NXT_TEST_DATABASE_URL names may ask for none.
    let password = url::Url::parse(&app.database.url()).unwrap().password().map(str::to_owned);
    let tokens = app.simulator.tokens();
    assert!(!tokens.is_empty() && password.as_ref().is_none_or(|password| password.len() > 8), "secrets are there");
    let client_secret = nxt_simulator::Options::default().client_secret;
    // `simulate --help` shows the simulator's own default, which is no secret; here only lines of the log count.
    let log: String = output.lines().filter(|line| !line.contains("[default:")).collect::<Vec<_>>().join("\n");
    for secret in [SECRET, OPS_TOKEN, &client_secret, "secret-in-a-wrong-url"]
        .into_iter()
        .chain(password.as_deref())
        .chain(tokens.iter().map(String::as_str))
    {
        let found = log.lines().find(|line| line.contains(secret));
        assert!(found.is_none(), "a secret of {} characters is in: {}", secret.len(), found.unwrap_or_default());
    }
}

#[tokio::test]
async fn names_cannot_be_smuggled_into_sql_or_graphql() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1, "name": "one" }));
    app.settle().await;
    let before = app.simulator.counters().invalid_requests;
    let names = [
        "Order\"; drop table business_nxt.\"order\"; --",
        "Order'||pg_sleep(5)||'",
        "order(first: 1) { items { orderNo } } x: order",
        "__schema",
        "Order\u{0}",
        "Order}",
        "notification",
        "pg_class",
        "nxt_mirror.notification",
        "Ordér",
        "",
    ];
    let send = async |table: &str, key: serde_json::Value| {
        let body = json!({
            "tableIdentifier": table, "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
            "primaryKeys": [key], "timestamp": "2026-01-01T00:00:00Z", "changedByUser": "x'; --",
            "changedColumns": [{ "Name\"; --": "x" }],
        });
        let response = app.post(body.to_string()).await;
        assert_eq!(response.status().as_u16(), 202, "{table}");
    };
    for name in names {
        send(name, json!({ "OrderNo": 2 })).await;
        send("Order", json!({ name: 2 })).await;
    }
    send("Product", json!({ "ProductNo": "x'); drop schema business_nxt cascade; --" })).await;
    send("Product", json!({ "ProductNo": "\\N\t\n\"}]}) { __typename } #" })).await;
    app.simulator
        .put(COMPANY, "Product", object(json!({ "productNo": "'; --\t\\", "description": "\\.\n\t'" })))
        .unwrap();
    app.settle().await;
    assert_eq!(app.simulator.counters().invalid_requests, before, "a request was malformed");
    assert!(app.assert_equal().await >= 2);
    let foreign =
        "select count(*) from pg_tables where schemaname = 'business_nxt' and tablename not in ('order', 'product')";
    assert_eq!(app.count(foreign).await, 0);
    // Each is set aside with its reason, none is lost.
    assert!(app.dead_letters().await.len() >= names.len());
}

/// Sends this much and no more, and returns what comes until the daemon hangs up.
async fn dawdle(url: &str, sent: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    until_hung_up_on(stream).await
}

async fn until_hung_up_on(mut stream: TcpStream) -> String {
    let mut answer = vec![];
    // Whatever it ends with.
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection was still open after a minute");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_client_that_dawdles_is_hung_up_on() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    let (head, body) = tokio::join!(
        dawdle(&app.daemon.public, "POST /webhooks/business-nxt HTTP/1.1\r\nHost: x\r\nx-vwd-sig"),
        dawdle(
            &app.daemon.public,
            "POST /webhooks/business-nxt HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"table"
        ),
    );
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    let long = format!("POST /webhooks/business-nxt HTTP/1.1\r\nHost: x\r\nx-long: {}\r\n\r\n", "x".repeat(200_000));
    let answer = dawdle(&app.daemon.public, &long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 0);
}

/// One who sends half a second request would be waited for without end.
#[tokio::test]
async fn no_connection_of_a_stranger_is_kept_after_its_answer() {
    let app = TestApp::builder().role(Role::Receiver).set("NXT_OPS_TOKEN", OPS_TOKEN).start().await;
    let (public, ops) = (&app.daemon.public, &app.daemon.ops);
    let asked = [
        (public, "GET /healthz", "200"),
        (public, "GET /webhooks/business-nxt", "405"),
        (public, "GET /elsewhere", "404"),
        (public, "POST /webhooks/business-nxt", "401"),
        (ops, "GET /healthz", "200"),
        (ops, "GET /readyz", "200"),
        (ops, "GET /login", "200"),
        (ops, "GET /api/status", "401"),
        (ops, "GET /elsewhere", "401"),
    ];
    for (url, request, status) in asked {
        let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{request}");
        // Fails where it was hung up on already.
        _ = stream.write_all(b"POST /web").await;
        until_hung_up_on(stream).await;
    }
}

/// Strangers may keep a receiver from storing for as long as bodies may take, but they cannot fill its memory.
#[tokio::test]
async fn bodies_that_never_end_fill_no_memory() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    let host = app.daemon.public.trim_start_matches("http://").to_owned();
    let head = "POST /webhooks/business-nxt HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n";
    let almost_all = vec![b' '; 1_048_575];
    let (mut dawdling, mut refused) = (vec![], None);
    for _ in 0..160 {
        let mut stream = TcpStream::connect(&host).await.unwrap();
        // Fails once the answer is there and the connection closed.
        let sent = async { stream.write_all(head.as_bytes()).await.and(stream.write_all(&almost_all).await) }.await;
        let mut start = [0; 12];
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read_exact(&mut start)).await;
        if sent.is_err() || read.is_ok() {
            refused = Some(String::from_utf8_lossy(&start).into_owned());
            break;
        }
        dawdling.push(stream);
    }
    // 128 MiB are the bound.
    assert_eq!(refused.as_deref(), Some("HTTP/1.1 503"), "{} bodies were taken", dawdling.len());
    drop(dawdling);
    let body = json!({ "tableIdentifier": "Order" }).to_string();
    for _ in 0..100 {
        if app.post(body.clone()).await.status().as_u16() == 202 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the room is not given back");
}
