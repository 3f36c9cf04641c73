//! What operators ask and do.

use std::collections::BTreeMap;

use nxt_mirror::config::Role;
use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::{SECRET, object};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;

use crate::support::{
    PROGRAM,
    app::{COMPANY, TestApp},
    database,
};

async fn json_of(app: &TestApp, arguments: &[&str]) -> Value {
    let output = app.command(arguments).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test]
async fn a_row_that_was_set_aside_finds_its_way_back() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 4).start().await;
    let key = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: key.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.settle().await;
    let letters = json_of(&app, &["dead-letters", "list", "--json"]).await;
    assert_eq!(letters[0]["key"], json!({ "order_no": 2 }));
    let lines = app.command(&["dead-letters", "list"]).await.stdout;
    assert_eq!(String::from_utf8_lossy(&lines).lines().count(), 1);
    let id = letters[0]["id"].to_string();
    let shown = json_of(&app, &["dead-letters", "show", &id, "--json"]).await;
    assert!(shown["reason"].as_str().unwrap().contains("unexpected failure"), "{shown}");
    app.simulator.clear_faults();
    assert_eq!(json_of(&app, &["dead-letters", "retry", &id, "--json"]).await["rows"], 1);
    assert_eq!(app.assert_equal().await, 3);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn what_commands_do_stands_in_the_sync_log_with_who_asked() {
    let mut app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 4).start().await;
    app.set("SUDO_USER", "kari");
    let key = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: key.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    assert_eq!(app.post("not json").await.status(), 202);
    app.settle().await;
    app.simulator.clear_faults();
    let letters: Vec<(i64, String)> = sqlx::query_as("select id, kind from nxt_mirror.dead_letter order by kind desc")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    let [(row, _), (body, _)] = letters.as_slice() else { panic!("{letters:?}") };
    // The body stays, since it is still not understood: nothing was done, and nothing is logged.
    assert!(!app.command(&["dead-letters", "retry", "--all"]).await.status.success());
    assert_eq!(json_of(&app, &["dead-letters", "drop", "--all", "--json"]).await["dropped"], 1);
    json_of(&app, &["replay", "--since", "2020-01-01T00:00:00Z", "--company", "2000001", "--json"]).await;
    app.settle().await;
    json_of(&app, &["verify", "--table", "Order", "--company", "2000001", "--json"]).await;

    let logged: Vec<(Option<String>, Option<String>, String)> = sqlx::query_as(
        "select table_name, key::text, reason from nxt_mirror.recent_activity where action = 'operator' order by id",
    )
    .fetch_all(&app.pool)
    .await
    .unwrap();
    let who = "asked by a command of kari, database role ";
    let told: Vec<_> = logged
        .iter()
        .map(|(table, key, reason)| {
            let (what, asker) = reason.split_once(", asked").unwrap_or_else(|| panic!("{reason}"));
            assert!(format!("asked{asker}").starts_with(who) && !asker.ends_with(' '), "{reason}");
            (table.as_deref(), key.as_deref(), what.to_owned())
        })
        .collect();
    let order = Some("Order");
    assert_eq!(
        told,
        [
            (order, Some(r#"{"order_no": 2}"#), format!("retry dead letter {row}")),
            (None, None, format!("drop dead letter {body}")),
            (None, None, "replay since 2020-01-01T00:00:00.000000Z of company 2000001: 3 rows".to_owned()),
            (None, None, "verify of Order of company 2000001".to_owned()),
            (order, None, "verify: 3 rows compared, 0 differences, 0 repaired, 0 left".to_owned()),
        ]
    );
}

#[tokio::test]
async fn a_row_that_comes_right_by_itself_leaves_the_dead_letters() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 4).start().await;
    let row = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: row.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    app.simulator.put(COMPANY, "Order", row.clone()).unwrap();
    app.settle().await;
    assert_eq!(app.dead_letters().await.len(), 1);
    app.simulator.clear_faults();
    app.simulator.put(COMPANY, "Order", row).unwrap();
    assert_eq!(app.assert_equal().await, 1);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_body_that_is_still_not_understood_stays_until_it_is_dropped() {
    let app = TestApp::start().await;
    app.post("not json").await;
    let retried = app.command(&["dead-letters", "retry", "--all", "--json"]).await;
    assert!(!retried.status.success());
    assert_eq!(app.dead_letters().await.len(), 1);
    let refused = app.command(&["dead-letters", "drop", "999"]).await;
    assert!(!refused.status.success());
    assert_eq!(json_of(&app, &["dead-letters", "drop", "--all", "--json"]).await["dropped"], 1);
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_replay_mends_rows_from_the_ledger_and_explain_tells_their_story() {
    let app = TestApp::start().await;
    for number in 1..=4 {
        app.put("Order", json!({ "orderNo": number, "name": "right" }));
    }
    app.settle().await;
    sqlx::query("update business_nxt.\"order\" set name = 'damaged'").execute(&app.pool).await.unwrap();
    let replayed = json_of(
        &app,
        &["replay", "--since", "2020-01-01T00:00:00Z", "--table", "Order", "--company", "2000001", "--json"],
    );
    assert_eq!(replayed.await["rows"], 4);
    assert_eq!(app.assert_equal().await, 4);
    let story = json_of(&app, &["explain", "Order", "3", "--json"]).await;
    let sources: Vec<_> =
        story["events"].as_array().unwrap().iter().map(|event| event["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["notification", "sync", "sync"], "{story}");
    let wrong = app.command(&["explain", "Order", "3", "4"]).await;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("orderNo"));
    for table in ["order", "ORDER"] {
        let named = json_of(&app, &["replay", "--since", "2020-01-01T00:00:00Z", "--table", table, "--json"]).await;
        assert_eq!(named["rows"], 4, "{table}");
    }
}

#[tokio::test]
async fn the_budget_is_told_by_who_uses_it() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_SWEEP_SECONDS", 1).start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    assert!(app.command(&["verify", "--table", "Order"]).await.status.success());
    let purposes = "select count(distinct purpose) from nxt_mirror.api_slot where free_at > now()";
    app.wait_for("requests of each kind", 5, purposes).await;
    let budget = json_of(&app, &["status", "--json"]).await["budget"].take();
    let by_purpose: BTreeMap<String, u64> = serde_json::from_value(budget["by_purpose"].clone()).unwrap();
    assert_eq!(by_purpose.keys().collect::<Vec<_>>(), ["live", "load", "other", "sweep", "verify"]);
    assert!(by_purpose.values().all(|requests| *requests > 0), "{budget}");
    assert_eq!(budget["used"], by_purpose.values().sum::<u64>());
    let told = String::from_utf8(app.command(&["status"]).await.stdout).unwrap();
    let (_, made) = told.lines().next().and_then(|line| line.split_once('(')).expect("requests by purpose");
    for purpose in by_purpose.keys() {
        assert!(made.contains(&format!(" {purpose}")), "{told}");
    }
}

#[tokio::test]
async fn the_status_tells_backlog_and_each_table() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    let status = json_of(&app, &["status", "--json"]).await;
    assert_eq!((&status["backlog"], &status["lag_seconds"]), (&json!(0), &json!(0)));
    assert_eq!((&status["state"], &status["dead_letters"]), (&json!("current"), &json!(0)));
    assert!(status["budget"]["used"].as_i64().unwrap() > 0);
    assert_eq!(status["budget"]["per_minute"], 600);
    let table = &status["tables"][0];
    assert_eq!((&table["table"], &table["rows"], &table["partial"]), (&json!("Order"), &json!(1), &json!(true)));
    assert_eq!((&table["company_no"], &table["customer_no"]), (&json!(2_000_001), &Value::Null));
    let told = String::from_utf8(app.command(&["status"]).await.stdout).unwrap();
    assert!(told.starts_with("current: lag 0 s") && !told.contains('\x1b'), "{told}");
    assert!(told.contains("to do") && told.contains("nxt-mirror backfill --company 2000001 --table Order"), "{told}");
}

#[tokio::test]
async fn the_sync_log_is_printed_from_the_database_and_followed() {
    let app = TestApp::start().await;
    for number in 1..=3 {
        app.put("OrderLine", json!({ "orderNo": 7, "lineNo": number }));
        app.put("Order", json!({ "orderNo": number }));
    }
    app.settle().await;
    let lines = async |arguments: &[&str]| {
        let output = app.command(arguments).await.stdout;
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&["logs"]).await.len(), 6);
    assert_eq!(lines(&["logs", "--tail", "2", "--table", "Order"]).await.len(), 2);
    assert_eq!(lines(&["logs", "--company", "2000002"]).await.len(), 0);
    let chosen = lines(&["logs", "--json", "--table", "order_line", "--company", "2000001"]).await;
    assert_eq!(chosen.len(), 3);
    assert!(chosen[0].contains(r#""key":{"order_no":7,"line_no":"#), "{chosen:?}");
    let entry: Value = serde_json::from_str(&chosen[0]).unwrap();
    assert_eq!((&entry["table_name"], &entry["action"]), (&json!("OrderLine"), &json!("inserted")));

    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(["logs", "--follow", "--json", "--table", "Product"]).envs(app.environment()).kill_on_drop(true);
    let mut following = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    app.put("Product", json!({ "productNo": "followed" }));
    let mut output = tokio::io::BufReader::new(following.stdout.take().unwrap()).lines();
    let line = output.next_line().await.unwrap().expect("the log goes on");
    assert!(line.contains("followed"), "{line}");
    following.kill().await.unwrap();
}

/// Runs the program with its output into a pipe that is read up to its first line, or not at all.
async fn run_unread(app: &TestApp, arguments: &[&str], is_first_read: bool) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(PROGRAM);
    command.args(arguments).envs(app.environment()).kill_on_drop(true);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut running = command.spawn().unwrap();
    let output = running.stdout.take().unwrap();
    if is_first_read {
        tokio::io::BufReader::with_capacity(1, output).lines().next_line().await.unwrap().expect("a line");
    } else {
        drop(output);
    }
    let ended = running.wait_with_output().await.unwrap();
    (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
}

#[tokio::test]
async fn every_command_ends_quietly_when_nobody_reads_what_it_prints() {
    let app = TestApp::start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.post("not json").await;
    app.settle().await;
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["explain", "Order", "1"],
        &["dead-letters", "list"],
        &["schema"],
        &["schema", "--format", "dot"],
        &["logs"],
        &["logs", "--follow"],
        &["subscriptions", "--table", "Order"],
        &["doctor"],
        &["verify", "--table", "Order"],
        &["backfill", "--table", "Order"],
        &["replay", "--since", "2020-01-01T00:00:00Z"],
        &["migrate"],
        &["simulate", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"],
    ] {
        let (code, errors) = run_unread(&app, arguments, false).await;
        assert_eq!(code, Some(141), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked") && !errors.contains("roken pipe"), "{arguments:?}: {errors}");
    }
    // What goes on printing notices it later. Whatever has been written already may have been all.
    app.put("Order", json!({ "orderNo": 2 }));
    app.settle().await;
    let (code, errors) = run_unread(&app, &["status"], true).await;
    assert!(matches!(code, Some(0 | 141)) && !errors.contains("panicked"), "{code:?}: {errors}");
}

#[tokio::test]
async fn the_doctor_finds_a_wrong_time_zone_and_nothing_where_all_is_well() {
    for (zone, healthy) in [("UTC", true), ("Asia/Tokyo", false)] {
        let app = TestApp::builder().set("NXT_SOURCE_TIMEZONE", zone).start().await;
        app.put("Order", json!({ "orderNo": 1 }));
        app.settle().await;
        let output = app.command(&["doctor"]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.success(), healthy, "{text}");
        assert_eq!(text.contains("NXT_SOURCE_TIMEZONE"), !healthy, "{text}");
        let told = json_of(&app, &["status", "--json"]).await["clocks"].to_string();
        assert_eq!(told.contains("-9.0 h"), !healthy, "{told}");
    }
}

#[tokio::test]
async fn the_doctor_posts_to_the_public_address_and_leaves_nothing_behind() {
    let app = TestApp::start().await;
    let findings = async |url: &str| {
        let output = app.command(&["doctor", "--json", "--public-url", url]).await;
        let list: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a JSON list");
        (output.status.code(), list)
    };
    let about_the_address = |list: &[Value]| {
        let is_about = |finding: &&Value| finding["what"].as_str().unwrap().starts_with("public address");
        list.iter().find(is_about).cloned().unwrap_or_else(|| panic!("{list:?}"))
    };
    let (code, list) = findings(&app.daemon.public).await;
    assert_eq!((code, &about_the_address(&list)["level"]), (Some(0), &json!("ok")), "{list:?}");
    assert!(app.dead_letters().await.is_empty());
    assert_eq!(app.count("select count(*) from nxt_mirror.notification").await, 0);

    // The address of another daemon, of no daemon, and of none of its paths.
    let other = TestApp::start().await;
    for (url, words) in [
        (other.daemon.public.clone(), "another database"),
        ("http://127.0.0.1:1".to_owned(), "cannot be reached"),
        (format!("{}/elsewhere", app.daemon.public), "is not where notifications are received"),
    ] {
        let (code, list) = findings(&url).await;
        let first = &list[0];
        assert_eq!((code, first), (Some(1), &about_the_address(&list)));
        assert!(first["level"] == "problem" && first["what"].as_str().unwrap().contains(words), "{first}");
        assert!(first["remedy"].is_string(), "{first}");
    }
    let mut changed = std::process::Command::new(PROGRAM);
    let url = app.daemon.public.as_str();
    changed
        .args(["doctor", "--public-url", url])
        .envs(app.environment())
        .env("NXT_WEBHOOK_SECRETS", format!("{SECRET},new"));
    let output = tokio::task::spawn_blocking(move || changed.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.starts_with("PROBLEM") && text.contains("signed by key 2"), "{text}");
    assert!(!text.contains('\x1b'), "colours are for terminals");
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_failure_names_its_trace_whatever_its_status() {
    let app = TestApp::start().await;
    for (kind, status) in [(FaultKind::Unauthorized, "401"), (FaultKind::ServerError, "500")] {
        app.simulator.fault(Fault::new(kind));
        let output = app.command(&["verify", "--table", "Order"]).await;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_traced = |line: &str| line.contains(status) && line.contains("(trace ");
        assert!(output.status.code() == Some(2) && told.lines().any(is_traced), "{told}");
        app.simulator.clear_faults();
    }
}

#[tokio::test]
async fn a_missing_setting_is_one_line_and_an_exit_code() {
    let mut app = TestApp::start().await;
    app.simulator.put(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.settle().await;
    for (arguments, variable) in
        [(vec!["serve"], "NXT_WEBHOOK_SECRETS"), (vec!["serve", "--role", "worker"], "NXT_CLIENT_ID")]
    {
        let output = std::process::Command::new(PROGRAM).args(&arguments).env_clear().output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "wrong settings");
        assert!(errors.lines().count() == 1 && errors.contains(variable), "{errors}");
    }
    for wrong in [
        &["replay", "--since", "yesterday"][..],
        &["dead-letters", "retry"],
        &["backfill", "--table", "No Table"],
        &["explain"],
        &["explain", "Order", "x"],
        &["explain", "Order", "1", "2"],
    ] {
        let output = app.command(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let health = app.command(&["healthcheck"]).await;
    assert!(!health.status.success());

    // A server that answers and knows no such database: the address is wrong, and the line names the setting.
    let elsewhere = app.database.url().replace("?", "_of_nobody?");
    let elsewhere = if elsewhere == app.database.url() { format!("{elsewhere}_of_nobody") } else { elsewhere };
    app.set("DATABASE_URL", elsewhere);
    let output = app.command(&["status"]).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && errors.contains("DATABASE_URL"), "{output:?}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named_by_its_setting() {
    let app = TestApp::start().await;
    for (setting, taken) in [("NXT_LISTEN", &app.daemon.public), ("NXT_OPS_LISTEN", &app.daemon.ops)] {
        let mut settings = app.environment();
        settings.extend([("NXT_LISTEN", "127.0.0.1:0".to_owned()), ("NXT_OPS_LISTEN", "127.0.0.1:0".to_owned())]);
        settings.push((setting, taken.trim_start_matches("http://").to_owned()));
        let output = std::process::Command::new(PROGRAM).arg("serve").envs(settings).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && errors.contains(&format!("{setting}: ")), "{errors}");
    }
}

/// What of a row cannot be matched with its table has no mirrored names: then those count that its notification gives.
#[tokio::test]
async fn keys_of_what_was_set_aside_are_written_as_everywhere_and_in_the_table_s_order() {
    let app = TestApp::builder().set("NXT_FETCH_ROWS_MAX", 4).start().await;
    let row = object(json!({ "orderNo": 7, "lineNo": 2 }));
    app.simulator.put(COMPANY, "OrderLine", object(json!({ "orderNo": 1, "lineNo": 1 }))).unwrap();
    app.simulator.fault(Fault { key: row.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("OrderLine")) });
    app.simulator.put(COMPANY, "OrderLine", row).unwrap();
    app.accept(&json!({
        "tableIdentifier": "OrderLine", "companyNo": 2_000_001, "customerNo": 0, "event": "UPDATE",
        "primaryKeys": [{ "OrderNo": 7 }, { "SubLineNo": 3 }], "timestamp": "2026-11-25T08:00:00Z",
    }))
    .await;
    app.wait_for("both set aside", 2, "select count(*) from nxt_mirror.dead_letter").await;
    let ids: Vec<i64> = sqlx::query_scalar("select id from nxt_mirror.dead_letter order by key ? 'sub_line_no'")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    let shown = app.command(&["dead-letters", "show", &ids[0].to_string(), "--json"]).await.stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains(r#""key":{"order_no":7,"line_no":2}"#), "{shown}");
    for relation in ["dead_letter", "recent_activity where action = 'dead_letter'"] {
        let sql = format!("select key::text from nxt_mirror.{relation}");
        let keys: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&app.pool).await.unwrap();
        assert!(keys.contains(&r#"{"order_no": 7, "sub_line_no": 3}"#.to_owned()), "{relation}: {keys:?}");
    }
}

#[tokio::test]
async fn verify_prints_a_document_also_when_it_could_not_tell() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").start().await;
    let mut elsewhere = app.environment();
    elsewhere.retain(|(name, _)| *name != "NXT_TOKEN_URL");
    elsewhere.push(("NXT_TOKEN_URL", "http://127.0.0.1:1/token".to_owned()));
    let output = std::process::Command::new(PROGRAM).args(["verify", "--json"]).envs(elsewhere).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((output.status.code(), &document["equal"]), (Some(2), &json!(false)), "{document}");
    assert_eq!((&document["tables"], &document["failures"][0]["table"]), (&json!([]), &Value::Null), "{document}");
    assert!(document["failures"][0]["error"].as_str().unwrap().contains("no access token"), "{document}");
}

#[tokio::test]
async fn a_database_of_another_schema_is_refused_by_one_line() {
    let app = TestApp::builder().role(Role::Receiver).start().await;
    for sql in [
        // Made by another text of the same migration, or by a version that had more of them.
        "update nxt_mirror.migration set checksum = decode('00', 'hex')",
        "insert into nxt_mirror.migration (version, description, success, checksum, execution_time)
         values (4, 'of another version', true, decode('00', 'hex'), 0)",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
        let output = app.command(&["migrate"]).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{sql}");
        assert!(errors.lines().count() == 1 && errors.contains("new database"), "{errors}");
        sqlx::query("delete from nxt_mirror.migration where version = 4").execute(&app.pool).await.unwrap();
    }
}

#[tokio::test]
async fn the_database_role_needs_no_superuser() {
    let app = TestApp::builder().role(Role::Receiver).set("NXT_TABLES", "Order").start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    let name = format!("nxt_plain_{}", uuid::Uuid::new_v4().simple());
    let plain = database().await;
    let pool = plain.pool().await;
    for sql in [
        format!("create role {name} login password 'plain' nosuperuser nocreatedb nocreaterole"),
        format!("do $$ begin execute format('grant create on database %I to {name}', current_database()); end $$"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
    let mut url: url::Url = plain.url().parse().unwrap();
    url.set_username(&name).unwrap();
    url.set_password(Some("plain")).unwrap();
    for arguments in [&["migrate"][..], &["backfill", "--company", "2000001"], &["verify", "--company", "2000001"]] {
        let mut command = std::process::Command::new(PROGRAM);
        command.args(arguments).envs(app.environment()).env("DATABASE_URL", url.as_str());
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from business_nxt.\"order\"").fetch_one(&pool).await.unwrap();
    assert_eq!(rows, 1);
    for sql in [format!("drop owned by {name} cascade"), format!("drop role {name}")] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    }
}
