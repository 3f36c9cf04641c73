//! Several replicas on one database.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use nxt_mirror::config::Role;
use nxt_testkit::{SECRET, object, sign};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::{COMPANY, Daemon, TestApp};

/// What a newer version does to the daemon's own tables while older replicas still run.
const NEXT_VERSION: &str = "do $$ declare name text; begin
        set local lock_timeout = '500ms';
        for name in select oid::regclass::text from pg_class
                     where relnamespace = 'nxt_mirror'::regnamespace and relkind in ('r', 'p')
                       and not relispartition loop
            execute format('alter table %s add column from_the_next_version text', name);
        end loop;
    end $$";
/// Rows of the source that are notified in turn.
const ROWS: i64 = 50;

/// Changes the schema as a migration does: one that cannot have a lock soon steps back and tries again.
pub(crate) async fn change_schema(pool: &PgPool) {
    while let Err(error) = sqlx::query(NEXT_VERSION).execute(pool).await {
        let code = error.as_database_error().and_then(|error| error.code().map(String::from));
        assert!(matches!(code.as_deref(), Some("55P03" | "40P01")), "{error}");
    }
}

/// A sender behind a proxy that tries the next receiver when a connection is refused, which is all that proxies repeat.
struct Sender {
    receivers: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    /// Returns how many notifications were accepted; panics when one was not.
    task: JoinHandle<i64>,
}

impl Sender {
    fn start(http: reqwest::Client, receivers: &[Daemon]) -> Self {
        let receivers = Arc::new(Mutex::new(receivers.iter().map(Daemon::webhook_url).collect::<Vec<_>>()));
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (receivers, stop) = (Arc::clone(&receivers), stop.clone());
            async move {
                let mut accepted = 0;
                while !stop.is_cancelled() {
                    let urls: Vec<String> = receivers.lock().unwrap().clone();
                    assert_eq!(send(&http, &urls, accepted).await, 202, "notification {accepted}");
                    accepted += 1;
                }
                accepted
            }
        });
        Self { receivers, stop, task }
    }

    /// Waits until twenty more notifications are stored.
    async fn goes_on(&self, app: &TestApp) {
        let stored = async || app.count("select count(*) from nxt_mirror.notification").await;
        let before = stored().await;
        while stored().await < before + 20 {
            assert!(!self.task.is_finished(), "sending has failed");
            tokio::task::yield_now().await;
        }
    }
}

/// Posts to one receiver after the other until one accepts the connection. Returns the status of its answer.
async fn send(http: &reqwest::Client, urls: &[String], number: i64) -> u16 {
    let body = json!({
        "tableIdentifier": "Order", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{ "OrderNo": number % ROWS + 1 }], "timestamp": "2026-01-01T00:00:00Z",
        "changedByUser": "x", "changedColumns": [],
    })
    .to_string();
    let first = usize::try_from(number).expect("not negative") % urls.len();
    for url in urls[first..].iter().chain(&urls[..first]) {
        let signature = sign(SECRET, body.as_bytes());
        let request = http.post(url).header("x-vwd-signature-v1", signature).header("connection", "close");
        match request.body(body.clone()).send().await {
            Ok(answer) => return answer.status().as_u16(),
            Err(error) if error.is_connect() => {}
            Err(error) => panic!("a connection that was accepted is not answered: {error:?}"),
        }
    }
    panic!("nobody accepts connections");
}

#[tokio::test]
async fn three_receivers_and_three_workers_are_upgraded_without_a_refused_notification() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    let rows: Vec<_> = (1..=ROWS).map(|number| object(json!({ "orderNo": number, "name": "at first" }))).collect();
    app.simulator.put_all(COMPANY, "Order", &rows, false).unwrap();
    let (mut receivers, mut workers) = (vec![], vec![]);
    for _ in 0..3 {
        receivers.push(app.another(Role::Receiver).await);
        workers.push(app.another(Role::Worker).await);
    }
    let sender = Sender::start(app.http.clone(), &receivers);
    sender.goes_on(&app).await;

    // The first process of a newer version changes the schema below all others, and runs the migrations that they lacked.
    change_schema(&app.pool).await;
    sqlx::query("delete from nxt_mirror.migration where version >= 6").execute(&app.pool).await.unwrap();
    sender.goes_on(&app).await;
    for place in 0..3 {
        receivers.remove(0).stop().await;
        sender.goes_on(&app).await;
        receivers.push(app.another(Role::Receiver).await);
        *sender.receivers.lock().unwrap() = receivers.iter().map(Daemon::webhook_url).collect();
        workers.remove(0).stop().await;
        workers.push(app.another(Role::Worker).await);
        let changed = object(json!({ "orderNo": place + 1, "name": "while it was upgraded" }));
        app.simulator.put_all(COMPANY, "Order", &[changed], false).unwrap();
        sender.goes_on(&app).await;
    }
    assert_eq!(app.count("select count(*) from nxt_mirror.migration where version = 7").await, 1);
    sender.stop.cancel();
    let accepted = sender.task.await.expect("nothing was refused");
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, accepted);
    app.settle().await;
    assert_eq!(app.count("select count(*) from business_nxt.\"order\"").await, ROWS.min(accepted));
    assert!(app.dead_letters().await.is_empty());
}

/// Waits until a timer has found a row that no notification told of.
async fn found_by_a_timer(app: &TestApp, number: i64) {
    app.put("Order", json!({ "orderNo": number }));
    for _ in 0..4_500 {
        let rows = sqlx::query_scalar("select count(*) from business_nxt.\"order\"").fetch_one(&app.pool).await;
        // Fails until the table is made.
        if rows.unwrap_or(0_i64) == number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no timer found row {number}");
}

#[tokio::test]
async fn timers_run_on_one_replica_and_move_on_when_it_stops() {
    let mut app = TestApp::builder()
        .set("NXT_TABLES", "Order")
        .set("NXT_COMPANIES", 2_000_001)
        .set("NXT_SWEEP_SECONDS", 1)
        .start()
        .await;
    app.simulator.set_knobs(|knobs| knobs.loss = 1.0);
    let mut replicas = vec![app.another(Role::All).await, app.another(Role::All).await];
    found_by_a_timer(&app, 1).await;
    // Each of the three stops once, so that whoever had the timers has passed them on.
    for number in 2..=3 {
        let next = replicas.pop().expect("there are two more");
        std::mem::replace(&mut app.daemon, next).stop().await;
        found_by_a_timer(&app, number).await;
    }
}
