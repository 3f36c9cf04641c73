//! A database that was brought back from a dump, as `docs/operate.md` tells it.

use std::process::Command;

use nxt_testkit::{Scratch, object};
use serde_json::json;
use url::Url;

use crate::support::app::{COMPANY, TestApp};

/// Runs one of PostgreSQL's own programs.
async fn run(program: &'static str, arguments: Vec<String>) {
    let output = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A database of the test's server, as PostgreSQL's own programs understand it.
fn address(url: &Url, database: &str) -> String {
    let mut address = url.clone();
    let known = url.query_pairs().filter(|(name, _)| name != "statement-cache-capacity");
    let known: Vec<_> = known.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    address.query_pairs_mut().clear().extend_pairs(known);
    address.set_path(database);
    address.to_string()
}

/// Says so where the dump would be refused: programs dump no server that is newer than they are.
async fn is_too_new_for_pg_dump(app: &TestApp) -> bool {
    let server = app.count("select current_setting('server_version_num')::bigint / 10000").await;
    let output = Command::new("pg_dump").arg("--version").output().expect("pg_dump is installed");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = told.split_whitespace().nth(2).and_then(|version| version.split('.').next()).map(str::parse::<i64>);
    let Some(Ok(version)) = version else { panic!("{told}") };
    if version < server {
        eprintln!("skipped: pg_dump {version} dumps no server of version {server}");
    }
    version < server
}

fn put(app: &TestApp, number: i64, name: &str) {
    app.put("Order", json!({ "orderNo": number, "name": name }));
}

#[tokio::test]
async fn a_daemon_on_a_restored_database_goes_on_and_catches_up_with_what_the_dump_lacks() {
    let settings = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_COMPANIES", "2000001");
    let mut app = settings.set("NXT_SWEEP_SECONDS", 1).start().await;
    if is_too_new_for_pg_dump(&app).await {
        return;
    }
    for number in 1..=5 {
        put(&app, number, "before");
    }
    app.settle().await;
    let walked = "select count(*) from nxt_mirror.freshness where last_walked is not null";
    app.wait_for("the first load", 1, walked).await;

    // A dump is taken while the daemon works.
    let (folder, url) = (Scratch::new(), app.database.url().parse::<Url>().unwrap());
    let name = url.path().trim_start_matches('/').to_owned();
    let (own, maintenance) = (address(&url, &name), format!("--maintenance-db={}", address(&url, "postgres")));
    let dump = folder.0.join("nxt_mirror.dump").display().to_string();
    std::fs::create_dir_all(&folder.0).unwrap();
    run("pg_dump", vec![format!("--dbname={own}"), "--format=custom".into(), format!("--file={dump}")]).await;
    let dumped = app.count("select max(id) from nxt_mirror.sync_log").await;
    put(&app, 1, "after");
    put(&app, 6, "after");
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 2 }))).unwrap();
    app.assert_equal().await;

    app.restart(async |_| {
        run("dropdb", vec![maintenance.clone(), "--force".into(), name.clone()]).await;
        run("createdb", vec![maintenance, name]).await;
        run("pg_restore", vec![format!("--dbname={own}"), "--exit-on-error".into(), dump]).await;
    })
    .await;

    // It works on, and looks from the dump's own watermark for what has changed since.
    put(&app, 7, "live");
    app.settle().await;
    let caught_up = "select count(*) from business_nxt.\"order\" where name = 'after'";
    app.wait_for("what changed after the dump", 2, caught_up).await;
    assert!(app.count("select max(id) from nxt_mirror.sync_log").await > dumped);
    // Deletions leave nothing that could be swept for.
    let repaired = app.command(&["verify", "--repair", "--table", "Order", "--company", "2000001"]).await;
    assert!(repaired.status.success(), "{}", String::from_utf8_lossy(&repaired.stdout));
    assert_eq!(app.assert_equal().await, 6);
    assert!(app.dead_letters().await.is_empty());
}
