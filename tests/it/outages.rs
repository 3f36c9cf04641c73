//! What is away, full or wrong for a long time, and what is left of it afterwards.

use std::{path::Path, sync::mpsc, time::Duration};

use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_mirror::{
    clocks,
    config::Role,
    queue::{Claimable, Claims, Priority, Queue, Wanted, maintenance},
};
use nxt_simulator::{Clock, Fault, FaultKind};
use nxt_testkit::object;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{
    PROGRAM,
    app::{COMPANY, TestApp},
    cluster, site,
};

/// Puts orders one after the other, each received before the next.
async fn put_in_order(app: &TestApp, numbers: std::ops::RangeInclusive<i64>) {
    for number in numbers {
        let row = object(json!({ "orderNo": number, "name": format!("Order {number}") }));
        app.simulator.put(COMPANY, "Order", row).unwrap();
        app.simulator.drain().await;
    }
}

async fn status(app: &TestApp) -> Value {
    let output = app.command(&["status", "--json"]).await;
    serde_json::from_slice(&output.stdout).expect("the status is a JSON document")
}

/// The keys of the next rows, in the order in which they are claimed: live ones, then those of a replay.
async fn claimed_in_turn(pool: &PgPool, rows_max: usize) -> Vec<Vec<String>> {
    let (queue, claims) = (Queue::new(pool.clone()), Claims::new());
    let me = queue.register().await.unwrap();
    let overview = queue.overview(me, &claims, Claimable::All, 10).await.unwrap();
    let [due] = overview.due.as_slice() else { panic!("{overview:?}") };
    let (mut turns, mut held) = (vec![], vec![]);
    for priority in [Priority::Live, Priority::Live, Priority::Live, Priority::Deferred] {
        let wanted = Wanted { target: due.target.id, priority, rows_max };
        let claim = queue.claim(me, &claims, &[wanted], Claimable::All).await.unwrap().pop();
        turns.push(claim.iter().flat_map(|claim| &claim.rows).map(|row| row.key.canonical()).collect());
        held.extend(claim);
    }
    queue.leave(me).await.unwrap();
    turns
}

#[tokio::test]
async fn while_the_api_is_away_rows_wait_by_age_and_deletions_go_on() {
    for kind in [FaultKind::Unavailable, FaultKind::Dropped, FaultKind::TokenAway] {
        let mut app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 10).simulator(|o| o.token_seconds = 1).start().await;
        let old = json!({ "orderNo": 1, "changedTimestamp": "2025-01-01T00:00:00" });
        app.put("Order", old);
        put_in_order(&app, 2..=5).await;
        app.assert_equal().await;

        app.simulator.fault(Fault::new(kind));
        if kind == FaultKind::TokenAway {
            // The token that there is does not help.
            app.simulator.fault(Fault::new(FaultKind::Unauthorized).times(1));
        }
        put_in_order(&app, 6..=35).await;
        app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
        app.wait_for("the deletion", 4, "select count(*) from business_nxt.\"order\"").await;
        app.wait_for("a noted outage", 1, "select count(*) from nxt_mirror.api_budget where away_since is not null")
            .await;
        let told = status(&app).await;
        assert_eq!((&told["backlog"], &told["state"]), (&json!(30), &json!("degraded")), "{kind:?}: {told}");
        let table = &told["tables"][0];
        assert_eq!(table["state"], "degraded", "{kind:?}: {told}");
        assert!(table["paused_because"].as_str().unwrap().starts_with("the API is away: "), "{kind:?}: {told}");
        assert!(told["api_away_because"].is_string() && told["api_away_since"].is_string(), "{kind:?}: {told}");
        assert!(app.metrics().await.contains("nxt_mirror_api_away 1"), "{kind:?}");
        let said = String::from_utf8(app.command(&["status"]).await.stdout).unwrap();
        assert!(said.contains("the API is away since"), "{kind:?}: {said}");
        // No row is blamed, however often it was tried.
        let blamed =
            "select count(*) from nxt_mirror.dirty_row where attempts > 0 or found_rechecks + missing_rechecks > 0";
        assert_eq!(app.count(blamed).await, 0, "{kind:?}");

        // Everybody comes back in the order of age, and a replay only behind what is live.
        let replay = ["replay", "--since", "2020-01-01T00:00:00Z", "--table", "Order"];
        let receiver = app.another(Role::Receiver).await;
        std::mem::replace(&mut app.daemon, receiver).stop().await;
        assert!(app.command(&replay).await.status.success());
        let turns = claimed_in_turn(&app.pool, 10).await;
        for (turn, first) in turns.iter().zip([6, 16, 26]) {
            let mut expected: Vec<String> =
                (first..first + 10).map(|number| format!(r#"{{"orderno":{number}}}"#)).collect();
            let mut turn = turn.clone();
            expected.sort();
            turn.sort();
            assert_eq!(turn, expected, "{kind:?}");
        }
        assert_eq!(turns[3].len(), 5, "{kind:?}");

        app.simulator.clear_faults();
        let worker = app.another(Role::Worker).await;
        assert_eq!(app.assert_equal().await, 34, "{kind:?}");
        app.wait_for(
            "the end of the outage",
            0,
            "select count(*) from nxt_mirror.api_budget where away_since is not null",
        )
        .await;
        let told = status(&app).await;
        assert_eq!(told["api_away_since"], Value::Null);
        assert_eq!(
            (&told["tables"][0]["state"], &told["tables"][0]["paused_because"]),
            (&json!("current"), &Value::Null)
        );
        assert!(app.dead_letters().await.is_empty(), "{kind:?}");
        worker.stop().await;
    }
}

/// The same daemon goes on when the API is back, without being told.
#[tokio::test]
async fn an_outage_ends_by_itself() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").start().await;
    app.simulator.fault(Fault::new(FaultKind::ServerError));
    put_in_order(&app, 1..=20).await;
    app.wait_for("a noted outage", 1, "select count(*) from nxt_mirror.api_budget where away_since is not null").await;
    app.simulator.clear_faults();
    assert_eq!(app.assert_equal().await, 20);
    app.wait_for("the end of the outage", 0, "select count(*) from nxt_mirror.api_budget where away_since is not null")
        .await;
    // What nobody has seen for minutes is over, whoever forgot to say so.
    sqlx::query(
        "update nxt_mirror.api_budget
            set away_since = now() - interval '1 hour', away_noted_at = now() - interval '10 minutes', away_reason = 'x'",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    assert_eq!(status(&app).await["api_away_since"], Value::Null);
}

/// Lets every insert into a table fail as on a full disk.
const FULL: [&str; 3] = [
    "create function public.disk_full() returns trigger language plpgsql as $$
     begin raise exception 'could not extend file: No space left on device' using errcode = 'disk_full'; end $$",
    "create trigger disk_full before insert on nxt_mirror.ledger_block for each row execute function public.disk_full()",
    "create trigger disk_full before insert or update on business_nxt.\"order\"
        for each row execute function public.disk_full()",
];

#[tokio::test]
async fn a_full_disk_refuses_and_blames_no_row() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let app = TestApp::start().await;
    put_in_order(&app, 1..=3).await;
    app.assert_equal().await;
    for sql in FULL {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    let body = json!({
        "tableIdentifier": "Order", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{ "OrderNo": 1 }], "timestamp": "2026-01-01T00:00:00Z",
        "changedByUser": "x", "changedColumns": [],
    });
    let refused = app.post(body.to_string()).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 3);

    // The ledger has room again, the mirror has not.
    sqlx::query("drop trigger disk_full on nxt_mirror.ledger_block").execute(&app.pool).await.unwrap();
    put_in_order(&app, 4..=6).await;
    let fetched = app.row_requests();
    app.wait_until("the rows to be tried several times", |app| app.row_requests() > fetched + 2).await;
    assert_eq!(app.count("select count(*) from nxt_mirror.dirty_row where attempts = 0").await, 3);
    sqlx::query("drop trigger disk_full on business_nxt.\"order\"").execute(&app.pool).await.unwrap();
    assert_eq!(app.assert_equal().await, 6);
    assert!(app.dead_letters().await.is_empty());
}

/// `mount -t tmpfs -o size=200m none DIR` as root, then
/// `NXT_SMALL_DISK=DIR cargo test --test it outages::a_disk_that_is_really_full -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a small file system, see its documentation"]
async fn a_disk_that_is_really_full() {
    let disk = std::env::var("NXT_SMALL_DISK").expect("NXT_SMALL_DISK names a folder on a small file system");
    let options = EmbeddedOptions::new(Path::new(&disk).join("postgres"));
    let mut server = EmbeddedPostgres::start(options.clone()).await.expect("the server starts");
    let url = server.url("nxt_mirror").expose_secret().to_owned();
    let simulator = nxt_simulator::Options { published_example: false, ..Default::default() };
    let site = site(simulator, &url, &[]).await;
    site.simulator.set_knobs(|knobs| (knobs.retries, knobs.retry_ms) = (400, 250));
    let mut daemon = site.spawn(&[]);
    let put = |numbers: std::ops::Range<i64>| {
        for number in numbers {
            let row = object(json!({ "orderNo": number, "name": "x".repeat(200) }));
            site.simulator.put(COMPANY, "Order", row).unwrap();
        }
    };
    put(0..100);
    site.settle().await;

    // Everything that is left goes to one file, and notifications come until no segment of the log is free.
    let ballast = Path::new(&disk).join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    let written = std::io::copy(&mut std::io::repeat(0), &mut file);
    assert!(written.is_err(), "the disk takes no more");
    let refused_before = site.simulator.sender_counters().failed;
    let mut next = 100;
    while site.simulator.sender_counters().failed < refused_before + 500 {
        put(next..next + 500);
        next += 500;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(next < 2_000_000, "the disk never fills");
    }
    let refused = site.simulator.sender_counters().failed - refused_before;
    let outlived = server.server_pid().is_some() && sqlx::query("select 1").execute(&site.pool).await.is_ok();
    println!("{refused} refusals after {next} rows; PostgreSQL {}", if outlived { "went on" } else { "had given up" });

    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    if !outlived {
        drop(server);
        server = loop {
            match EmbeddedPostgres::start(options.clone()).await {
                Ok(server) => break server,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
    }
    assert!(daemon.is_running(), "the daemon outlives a full disk");
    site.settle().await;
    let comparison = site.compare().await;
    println!("{comparison}");
    assert!(comparison.is_equal() && comparison.rows == usize::try_from(next).unwrap(), "{comparison}");
    daemon.kill().await;
    site.pool.close().await;
    server.stop().await.expect("the server stops");
}

#[tokio::test]
async fn a_source_whose_clocks_are_an_hour_wrong_is_mirrored_and_told() {
    for (rows, notifications, expected) in [
        (3_600, 0, Some("after they were received")),
        (-3_600, 0, Some("after their changes")),
        (0, 3_600, None),
        (0, 0, None),
    ] {
        let app = TestApp::builder().simulator(|options| options.clock = Clock::ahead_by(rows)).start().await;
        app.simulator.set_knobs(|knobs| knobs.stamp_ahead_seconds = notifications);
        put_in_order(&app, 1..=4).await;
        app.assert_equal().await;
        app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
        app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 2 }))).unwrap();
        app.assert_equal().await;
        // Made again, with the old deletion still on its way.
        put_in_order(&app, 1..=1).await;
        assert_eq!(app.assert_equal().await, 3, "{rows} {notifications}");
        let told = status(&app).await["clocks"].to_string();
        assert_eq!(told.contains(expected.unwrap_or("received")), expected.is_some(), "{rows}: {told}");
    }
}

/// Rows come and go as they should although every one of them is dated hours off.
#[tokio::test]
async fn a_source_whose_zone_is_set_wrong_is_mirrored_and_told() {
    for (zone, shift) in [("America/New_York", "h from what"), ("UTC", "")] {
        let app = TestApp::builder().set("NXT_SOURCE_TIMEZONE", zone).start().await;
        put_in_order(&app, 1..=4).await;
        app.settle().await;
        for number in [1, 2] {
            app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": number }))).unwrap();
        }
        app.settle().await;
        put_in_order(&app, 1..=1).await;
        app.settle().await;
        let left: Vec<i32> = sqlx::query_scalar("select order_no from business_nxt.\"order\" order by 1")
            .fetch_all(&app.pool)
            .await
            .unwrap();
        assert_eq!(left, [1, 3, 4], "{zone}");
        let told = status(&app).await["clocks"].to_string();
        assert!(told.contains(shift), "{zone}: {told}");
        assert_eq!(told == "[]", shift.is_empty(), "{zone}: {told}");
        let said = String::from_utf8(app.command(&["status"]).await.stdout).unwrap();
        assert_eq!(said.contains("NXT_SOURCE_TIMEZONE"), !shift.is_empty(), "{zone}: {said}");
    }
}

#[tokio::test]
async fn a_database_clock_that_was_set_back_holds_nothing_up() {
    let app = TestApp::start().await;
    put_in_order(&app, 1..=3).await;
    app.settle().await;
    // The hour by which the clock was set back lies before everything that was planned.
    for sql in [
        "update nxt_mirror.api_slot set free_at = now() + interval '1 hour', in_flight_until = now() + interval '1 hour'",
        "update nxt_mirror.api_budget set paused_until = now() + interval '1 hour'",
        "insert into nxt_mirror.dirty_row (target_id, row_key, due_at, waiting_since, announced)
         select id, '{\"orderno\":1}', now() + interval '1 hour', now() + interval '1 hour', false from nxt_mirror.target",
        "update nxt_mirror.target set paused_until = now() + interval '1 hour', paused_because = 'x'",
        "insert into nxt_mirror.worker (alive_until) values (now() + interval '1 hour')",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    let slots = app.count("select count(*) from nxt_mirror.api_slot").await.unsigned_abs();
    assert_eq!(clocks::recall(&app.pool).await.unwrap(), slots + 4);
    assert_eq!(clocks::recall(&app.pool).await.unwrap(), 0);
    // A slot is free no earlier than a minute after its request: by how much does not matter here.
    let held = "select count(*) from nxt_mirror.api_slot where free_at > now() + interval '61 seconds'";
    assert_eq!(app.count(held).await, 0);
    sqlx::query("update nxt_mirror.api_slot set free_at = '-infinity'").execute(&app.pool).await.unwrap();
    assert_eq!(app.assert_equal().await, 3);
}

#[tokio::test]
async fn what_is_past_its_retention_goes_and_the_rest_stays() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    app.post("not understood, long ago").await;
    app.post("not understood").await;
    put_in_order(&app, 1..=1).await;
    Queue::new(app.pool.clone()).fold().await.unwrap();
    for sql in [
        "update nxt_mirror.quarantine set received_at = now() - interval '31 days' where id = 1",
        "insert into nxt_mirror.tombstone values
             (1, 'old', now() - interval '32 days', now() - interval '32 days'),
             (1, 'young', now() - interval '32 days', now() - interval '29 days')",
        "insert into nxt_mirror.sync_log (at, target_id, key, action, reason)
         select now() - age, 1, '{}', 'updated', 'x' from unnest(array[interval '32 days', interval '29 days']) as age",
        "insert into nxt_mirror.change_log (at, target_id, key, action)
         select now() - age, 1, '{}', 'update' from unnest(array[interval '32 days', interval '29 days']) as age",
        // One that is old, one that is not quite, and one of today, in this order, all folded.
        "insert into nxt_mirror.ledger_block
             (id, stream_id, received_at, is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at,
              changed_by, delivery_id, body)
         overriding system value
         select id + 100 - age, stream_id, received_at - interval '1 day' * age, is_company, tenant_no, table_name,
                row_key, event, changed_at, deleted_at, changed_by, delivery_id, body
           from nxt_mirror.ledger_block, unnest(array[32, 29, 0]) as age",
        "delete from nxt_mirror.ledger_block where id < 60",
        "insert into nxt_mirror.fold (stream_id, through_id) select distinct stream_id, 1000 from nxt_mirror.ledger_block",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    maintenance::run(&app.pool, Duration::from_hours(30 * 24)).await.unwrap();
    let left = async |table: &str| -> i64 {
        let sql = sqlx::AssertSqlSafe(format!("select count(*) from nxt_mirror.{table}"));
        sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap()
    };
    assert_eq!(left("dead_letter").await, 1);
    assert_eq!(left("tombstone").await, 1);
    assert_eq!(left("sync_log").await, 1);
    assert_eq!(left("change").await, 1);
    assert_eq!(left("notification").await, 2);
}

/// A server with a certificate that it signed itself. Tells what it could read.
fn impostor() -> (u16, mpsc::Receiver<std::io::Result<usize>>) {
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, read) = mpsc::channel();
    std::thread::spawn(move || {
        let config = std::sync::Arc::new(config);
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let mut bytes = [0; 1_024];
            if sender.send(std::io::Read::read(&mut tls, &mut bytes)).is_err() {
                return;
            }
        }
    });
    (port, read)
}

#[tokio::test]
async fn an_api_whose_certificate_nobody_vouches_for_is_told_nothing() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    let (port, read) = impostor();
    for variable in ["NXT_TOKEN_URL", "NXT_GRAPHQL_URL"] {
        let mut command = std::process::Command::new(PROGRAM);
        command.arg("doctor").envs(app.environment()).env(variable, format!("https://localhost:{port}/x"));
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && text.contains("certificate"), "{variable}: {text}");
        let received = read.recv_timeout(Duration::from_secs(60)).expect("the daemon came by");
        assert!(received.is_err(), "{variable}: {received:?} bytes were told to a stranger");
    }
}
