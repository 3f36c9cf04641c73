//! The public listener's answers, word by word.

use std::{sync::Arc, time::Duration};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use nxt_mirror::{config::Role, database::Connector};
use nxt_testkit::{SECRET, Scratch, sign};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::app::TestApp;

/// A session that says nothing for so long is asked before it is used.
const IDLE: Duration = Duration::from_millis(1_500);

fn body(number: i64) -> Value {
    json!({
        "tableIdentifier": "Order", "customerNo": 1, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{"OrderNo": number}], "timestamp": "2026-01-01T00:00:00.1234567Z",
    })
}

async fn json_of(answer: reqwest::Response) -> Value {
    answer.json::<Value>().await.expect("every answer is JSON")
}

#[tokio::test]
async fn a_notification_is_stored_before_it_is_accepted_however_often_it_comes() {
    let app = TestApp::start().await;
    let other = app.another(Role::Receiver).await;
    for (turn, url) in [app.daemon.webhook_url(), other.webhook_url(), app.daemon.webhook_url()].iter().enumerate() {
        let body = body(1).to_string();
        let request = app.http.post(url).header("x-vwd-notification-id", "the-same");
        let signature = sign(SECRET, body.as_bytes());
        let answer = request.header("x-vwd-signature-v1", signature).body(body).send().await.unwrap();
        assert_eq!((answer.status(), json_of(answer).await), (StatusCode::ACCEPTED, json!({"status": "accepted"})));
        let stored = app.count("select count(*) from nxt_mirror.notification where delivery_id = 'the-same'").await;
        assert_eq!(stored, i64::try_from(turn).unwrap() + 1);
    }
    other.stop().await;
}

#[tokio::test]
async fn many_requests_at_once_over_two_replicas_are_all_stored() {
    let app = Arc::new(TestApp::start().await);
    let other = app.another(Role::Receiver).await;
    let urls = [app.daemon.webhook_url(), other.webhook_url()];
    let requests = (0..200).map(|turn| {
        let body = if turn % 10 == 9 { "not understood".to_owned() } else { body(turn).to_string() };
        let request = app.http.post(&urls[usize::try_from(turn).unwrap() % 2]);
        let request = request.header("x-vwd-signature-v1", sign(SECRET, body.as_bytes()));
        async move { json_of(request.body(body).send().await.unwrap()).await["status"].as_str().unwrap().to_owned() }
    });
    let statuses = futures_util::future::join_all(requests).await;
    assert_eq!(statuses.iter().filter(|status| *status == "accepted").count(), 180);
    assert_eq!(statuses.iter().filter(|status| *status == "quarantined").count(), 20);
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 180);
    assert_eq!(app.count("select count(distinct id) from nxt_mirror.notification").await, 180);
    assert_eq!(app.count("select count(*) from nxt_mirror.dead_letter where kind = 'body'").await, 20);
    other.stop().await;
}

/// Some senders, and proxies, keep a connection for two minutes. If the receiver let go of it sooner, what is sent at that
/// moment would be lost.
#[tokio::test]
async fn a_sender_may_be_silent_for_a_while_and_be_heard_on_the_connection_that_it_kept() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    let mut kept = TcpStream::connect(app.daemon.public.trim_start_matches("http://")).await.unwrap();
    for number in 0..2 {
        // Longer than the HTTP library would have kept it.
        tokio::time::sleep(Duration::from_secs(6 * number)).await;
        let body = body(1).to_string();
        let request = format!(
            "POST /webhooks/business-nxt HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nx-vwd-signature-v1: {}\r\n\r\n{body}",
            body.len(),
            sign(SECRET, body.as_bytes())
        );
        kept.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        kept.read_exact(&mut answer).await.expect("an answer on the same connection");
        assert_eq!(str::from_utf8(&answer).unwrap(), "HTTP/1.1 202");
        while kept.try_read(&mut [0; 4_096]).is_ok_and(|bytes| bytes > 0) {}
    }
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 2);
}

#[tokio::test]
async fn a_wrong_signature_stores_nothing() {
    let app = TestApp::start().await;
    let body = body(1).to_string();
    for signature in [None, Some(String::new()), Some(sign("wrong", body.as_bytes())), Some("no base64!".into())] {
        let mut request = app.http.post(app.daemon.webhook_url()).body(body.clone());
        if let Some(signature) = &signature {
            request = request.header("x-vwd-signature-v1", signature);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{signature:?}");
        assert!(json_of(answer).await["error"].is_string());
    }
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 0);
    assert_eq!(app.count("select count(*) from nxt_mirror.dead_letter").await, 0);
    let metrics = app.metrics().await;
    assert!(metrics.contains("nxt_mirror_webhook_requests_total{outcome=\"unsigned\"} 4"), "{metrics}");
}

#[tokio::test]
async fn a_signed_body_that_is_not_understood_is_kept_raw() {
    let app = TestApp::start().await;
    let mut wrong_event = body(1);
    wrong_event["event"] = json!("UPSERT");
    for raw in [b"not json".to_vec(), vec![0xff, 0xfe, 0x00], wrong_event.to_string().into_bytes(), vec![]] {
        let answer = app.post(raw.clone()).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        let answer = json_of(answer).await;
        assert_eq!(answer["status"], "quarantined");
        assert!(!answer["reason"].as_str().unwrap().is_empty());
        let kept: i64 =
            sqlx::query_scalar("select count(*) from nxt_mirror.dead_letter where body = $1 and reason = $2")
                .bind(raw)
                .bind(answer["reason"].as_str())
                .fetch_one(&app.pool)
                .await
                .unwrap();
        assert_eq!(kept, 1);
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_or_not_its_length_is_told() {
    let app = TestApp::builder().set("NXT_WEBHOOK_BODY_MAX", 1_000).start().await;
    let long = "x".repeat(1_001);
    assert_eq!(app.post(long.clone()).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let chunks = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(long)]));
    let answer = app.http.post(app.daemon.webhook_url()).body(chunks).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(json_of(answer).await["error"].is_string());
}

#[tokio::test]
async fn the_public_listener_has_two_paths_and_no_more() {
    let app = TestApp::start().await;
    let ask = |method: Method, path: &str| {
        let request = app.http.request(method, format!("{}{path}", app.daemon.public));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(Method::GET, "/healthz").await, 200);
    assert_eq!(ask(Method::GET, "/webhooks/business-nxt").await, 405);
    assert_eq!(ask(Method::PUT, "/webhooks/business-nxt").await, 405);
    for path in ["/readyz", "/metrics", "/", "/webhooks", "/webhooks/business-nxt/x"] {
        assert_eq!(ask(Method::GET, path).await, 404, "{path}");
        assert_eq!(ask(Method::POST, path).await, 404, "{path}");
    }
    let ready = app.http.get(format!("{}/readyz", app.daemon.ops)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_operators_token_guards_the_metrics() {
    let app = TestApp::builder().set("NXT_OPS_TOKEN", "operators only").start().await;
    let ask = |token: Option<&str>| {
        let request = app.http.get(format!("{}/metrics", app.daemon.ops));
        let request = token
            .map_or_else(|| app.http.get(format!("{}/metrics", app.daemon.ops)), |token| request.bearer_auth(token));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(None).await, 401);
    assert_eq!(ask(Some("operators onlY")).await, 401);
    assert_eq!(ask(Some("operators only")).await, 200);
}

/// Operators, time-outs and firewalls end sessions that were idle. Nobody who sends should notice.
#[tokio::test]
async fn a_session_that_has_ended_or_answers_no_more_refuses_nothing() {
    const RECEIVER: &str = "application_name = 'nxt-mirror receiver' and datname = current_database()";
    let app = TestApp::builder().role(Role::Receiver).start().await;
    app.accept(&body(1)).await;
    let end = format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where {RECEIVER}");
    for pause in [Duration::ZERO, IDLE] {
        let ended: i64 = sqlx::query_scalar(AssertSqlSafe(&*end)).fetch_one(&app.pool).await.unwrap();
        assert_eq!(ended, 1);
        tokio::time::sleep(pause).await;
        app.accept(&body(1)).await;
    }
    let find = format!("select pid from pg_stat_activity where {RECEIVER}");
    let process: i32 = sqlx::query_scalar(AssertSqlSafe(find)).fetch_one(&app.pool).await.unwrap();
    signal::kill(Pid::from_raw(process), Signal::SIGSTOP).unwrap();
    tokio::time::sleep(IDLE).await;
    app.accept(&body(1)).await;
    signal::kill(Pid::from_raw(process), Signal::SIGCONT).unwrap();
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 4);
}

#[tokio::test]
async fn without_its_database_the_receiver_asks_for_patience_and_recovers() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let pairs = [("NXT_LISTEN", "127.0.0.1:0"), ("NXT_OPS_LISTEN", "127.0.0.1:0"), ("NXT_WEBHOOK_SECRETS", SECRET)];
    let source = nxt_mirror::config::Source::from_pairs(pairs.map(|(name, value)| (name, value.to_owned())));
    let settings = nxt_mirror::config::Settings::read(&source, Role::Receiver).unwrap();
    let app = nxt_mirror::app::App::build(&settings, Connector::to(&server.url("nxt_mirror")).unwrap()).await.unwrap();
    let url = format!("http://{}/webhooks/business-nxt", app.public_address().unwrap());
    let stop = tokio_util::sync::CancellationToken::new();
    let daemon = tokio::spawn(app.run(stop.clone()));
    let http = reqwest::Client::new();
    let post = || {
        let body = body(1).to_string();
        http.post(&url).header("x-vwd-signature-v1", sign(SECRET, body.as_bytes())).body(body).send()
    };
    assert_eq!(post().await.unwrap().status(), StatusCode::ACCEPTED);
    server.stop().await.unwrap();
    let away = post().await.unwrap();
    assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(away.headers().contains_key("retry-after"));
    assert!(json_of(away).await["error"].is_string());
    let server = scratch.start().await;
    assert_eq!(post().await.unwrap().status(), StatusCode::ACCEPTED);
    stop.cancel();
    daemon.await.unwrap().unwrap();
    server.stop().await.unwrap();
}
