//! Whole tables: load, resync, sweep, and the proof that the mirror is right.

use std::time::Duration;

use nxt_mirror::config::Role;
use nxt_simulator::{Fault, FaultKind, Owner};
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::app::{COMPANY, TestApp};

const OTHER: Owner = Owner::Company(2_000_002);

fn order(number: i64) -> serde_json::Map<String, Value> {
    object(json!({ "orderNo": number, "name": format!("Order {number}") }))
}

fn put_silently(app: &TestApp, owner: Owner, numbers: std::ops::RangeInclusive<i64>) {
    let rows: Vec<_> = numbers.map(order).collect();
    app.simulator.put_all(owner, "Order", &rows, false).unwrap();
}

/// A daemon that only receives, so that nothing but the command under test writes.
async fn quiet() -> TestApp {
    TestApp::builder().role(Role::Receiver).set("NXT_FETCH_ROWS_MAX", 7).start().await
}

async fn verify(app: &TestApp, arguments: &[&str]) -> (i32, Value) {
    let arguments = [&["verify", "--json", "--table", "Order"], arguments].concat();
    let output = app.command(&arguments).await;
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code().unwrap(), document)
}

#[tokio::test]
async fn a_backfill_loads_what_was_there_before_and_verify_says_equal() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=40);
    put_silently(&app, OTHER, 1..=15);
    let output = app.command(&["backfill", "--table", "Order"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(app.assert_equal().await, 55);
    let (code, document) = verify(&app, &[]).await;
    assert_eq!((code, &document["equal"]), (0, &json!(true)));
    let certified: i64 =
        app.count("select sum(rows_compared)::bigint from nxt_mirror.verification where left_different = 0").await;
    assert_eq!(certified, 55);
    let fresh: (i64, bool, i64) =
        sqlx::query_as("select rows, partial, differences from nxt_mirror.freshness where company_no = 2000001")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert_eq!(fresh, (40, false, 0));
}

#[tokio::test]
async fn nothing_is_left_behind_of_a_company_that_the_service_cannot_read() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=3);
    let targets = "select count(*) from nxt_mirror.target";
    let (code, document) = verify(&app, &["--company", "2999999", "--company", "2000001"]).await;
    assert_eq!((code, &document["failures"][0]["company_no"]), (1, &json!(2_999_999)), "{document}");
    assert_eq!(document["tables"].as_array().unwrap().len(), 1, "{document}");
    assert_eq!(app.count(targets).await, 1);
    let (code, document) = verify(&app, &["--company", "2999999"]).await;
    assert_eq!((code, &document["failures"][0]["table"]), (2, &json!("Order")), "{document}");
    let output = app.command(&["backfill", "--table", "Order", "--company", "2999999"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Order of company 2999999") && said.contains("no access"), "{said}");
    assert_eq!(app.count(targets).await, 1);
}

#[tokio::test]
async fn damage_is_named_row_by_row_and_mended_by_repair() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=30);
    assert!(app.command(&["backfill", "--table", "Order", "--company", "2000001"]).await.status.success());
    for damage in [
        "update business_nxt.\"order\" set name = 'damaged' where order_no in (3, 4)",
        "delete from business_nxt.\"order\" where order_no = 9",
        "insert into business_nxt.\"order\" (_company_no, order_no, _fetched_at) values (2000001, 99, '2020-01-01')",
    ] {
        sqlx::query(damage).execute(&app.pool).await.unwrap();
    }
    let (code, document) = verify(&app, &["--company", "2000001"]).await;
    assert_eq!(code, 1, "{document}");
    assert_eq!(
        document["tables"][0]["differences"],
        json!([
            { "key": { "order_no": 3 }, "kind": "different", "columns": ["name"] },
            { "key": { "order_no": 4 }, "kind": "different", "columns": ["name"] },
            { "key": { "order_no": 9 }, "kind": "missing" },
            { "key": { "order_no": 99 }, "kind": "extra" },
        ])
    );
    let named = app.command(&["verify", "--table", "Order", "--company", "2000001"]).await.stdout;
    let named = String::from_utf8_lossy(&named).into_owned();
    assert!(named.contains(r#"  {"order_no": 9}: missing in the mirror"#), "{named}");
    // A row of live work, of which nothing comes for as long as this takes.
    let stuck = "insert into nxt_mirror.dirty_row (target_id, row_key, due_at, waiting_since, announced)
                 select id, '{\"orderno\":1}', now() + interval '5 minutes', now(), true
                   from nxt_mirror.target where tenant_no = 2000001";
    sqlx::query(stuck).execute(&app.pool).await.unwrap();
    let output = app.command(&["verify", "--table", "Order", "--company", "2000001", "--repair"]).await;
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && told.contains("4 repaired, 0 left"), "{told}");
    let output = app.command(&["backfill", "--table", "Order", "--company", "2000001"]).await;
    let told = told + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !told.contains("not settled") && !told.contains("still wait"), "{told}");
    assert_eq!(app.count("select count(*) from nxt_mirror.dirty_row").await, 1, "and nobody has waited for it");
    sqlx::query("update nxt_mirror.dirty_row set due_at = now()").execute(&app.pool).await.unwrap();
    let (code, document) = verify(&app, &["--company", "2000001", "--repair"]).await;
    assert_eq!((code, &document["equal"]), (0, &json!(true)), "{document}");
    sqlx::query("delete from nxt_mirror.dirty_row").execute(&app.pool).await.unwrap();
    assert_eq!(app.assert_equal().await, 30);
}

#[tokio::test]
async fn a_walk_removes_what_the_source_no_longer_has_whatever_its_collation() {
    let app = quiet().await;
    let keys = ["Z", "a", "B", "æ", "Å", "aa", "A b", "a'b", "-1", "10", "9", "ø  x", "_", "%", "\\", "ß", "İ"];
    for key in keys {
        let row = object(json!({ "productNo": key, "description": key }));
        app.simulator.put_all(COMPANY, "Product", &[row], false).unwrap();
    }
    let walk = ["backfill", "--table", "Product", "--company", "2000001"];
    assert!(app.command(&walk).await.status.success());
    assert_eq!(app.assert_equal().await, keys.len());
    for key in ["æ", "a", "ß", "%"] {
        app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": key }))).unwrap();
    }
    assert!(app.command(&walk).await.status.success());
    app.assert_equal().await;
    assert_eq!(app.mirrored("product").await.len(), keys.len() - 4);
}

#[tokio::test]
async fn an_interrupted_walk_goes_on_where_it_stopped() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=700);
    let walk = ["backfill", "--table", "Order", "--company", "2000001"];
    // Five pages of seventy rows, the last of each of which is read once more with the next; then nothing but errors.
    app.simulator.fault(Fault { after: 5, ..Fault::new(FaultKind::PartialError).on(COMPANY, Some("Order")) });
    assert!(!app.command(&walk).await.status.success());
    assert_eq!(app.count("select rows_walked from nxt_mirror.walk").await, 5 * 69);
    app.simulator.clear_faults();
    let before = app.simulator.counters().graphql_requests;
    assert!(app.command(&walk).await.status.success());
    assert_eq!(app.assert_equal().await, 700);
    // Six pages were left; the rest is metadata and the list of companies.
    assert!(app.simulator.counters().graphql_requests - before <= 6 + 4, "pages were walked twice");
}

#[tokio::test]
async fn a_table_without_access_is_told_and_the_others_are_walked() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=3);
    put_silently(&app, OTHER, 1..=3);
    app.simulator.fault(Fault::new(FaultKind::Deny).on(OTHER, None));
    let output = app.command(&["backfill", "--table", "Order", "--table", "Unicorn"]).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        errors.contains("Unicorn: skipped") && errors.contains("Order of company 2000002: not finished"),
        "{errors}"
    );
    assert_eq!(app.mirrored("order").await.len(), 3);
    let (code, _) = verify(&app, &["--company", "2000002"]).await;
    assert_eq!(code, 2);
}

#[tokio::test]
async fn chosen_tables_are_loaded_by_themselves_and_lost_notifications_are_found() {
    let app = TestApp::builder()
        .set("NXT_TABLES", "Order")
        .set("NXT_SWEEP_SECONDS", 1)
        .set("NXT_WALK_SECONDS", 3)
        .simulator(|options| options.companies = vec![(1_000_001, 2_000_001)])
        .start()
        .await;
    put_silently(&app, COMPANY, 1..=20);
    app.wait_for("loaded tables", 1, "select count(*) from nxt_mirror.walk where last_finished_at is not null").await;
    app.assert_equal().await;
    app.simulator.set_knobs(|knobs| knobs.loss = 1.0);
    app.put("Order", json!({ "orderNo": 5, "name": "changed unannounced" }));
    app.simulator.put(COMPANY, "Order", order(21)).unwrap();
    app.wait_for("new rows", 1, "select count(*) from business_nxt.\"order\" where order_no = 21").await;
    app.wait_for("changed rows", 1, "select count(*) from business_nxt.\"order\" where name = 'changed unannounced'")
        .await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 7 }))).unwrap();
    app.wait_for("deleted rows", 0, "select count(*) from business_nxt.\"order\" where order_no = 7").await;
    app.assert_equal().await;
    assert_eq!(app.simulator.sender_counters().accepted, 0);
}

#[tokio::test]
async fn a_first_load_beside_live_changes_overwrites_nothing_newer() {
    let app = TestApp::builder()
        .set("NXT_TABLES", "Order")
        .set("NXT_FETCH_ROWS_MAX", 10)
        .simulator(|options| options.companies = vec![(1_000_001, 2_000_001)])
        .start()
        .await;
    put_silently(&app, COMPANY, 1..=300);
    for turn in 0..200 {
        let number = turn * 7 % 300 + 1;
        if turn % 5 == 4 {
            app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": number }))).unwrap();
        } else {
            let row = object(json!({ "orderNo": number, "name": format!("turn {turn}") }));
            app.simulator.put(COMPANY, "Order", row).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.wait_for("loaded tables", 1, "select count(*) from nxt_mirror.walk where last_finished_at is not null").await;
    assert!(app.assert_equal().await >= 260);
}

#[tokio::test]
async fn ranges_of_any_key_are_walked_at_once_and_taken_up_after_a_kill() {
    // Pages of ten rows: 120 rows are worth a range.
    let app = TestApp::builder().role(Role::Receiver).set("NXT_FETCH_ROWS_MAX", 1).start().await;
    let lines: Vec<_> = (0..600).map(|n| object(json!({ "orderNo": n / 7, "lineNo": n % 7 }))).collect();
    app.simulator.put_all(COMPANY, "OrderLine", &lines, false).unwrap();
    let name =
        |n: i64| format!("{}{}{}", ["a", "B", "Ø", "_", "9"][n as usize % 5], n, [" x", "", "'"][n as usize % 3]);
    let products: Vec<_> = (0..600).map(|n| object(json!({ "productNo": name(n), "description": "x" }))).collect();
    app.simulator.put_all(COMPANY, "Product", &products, false).unwrap();
    let walk = ["backfill", "--table", "OrderLine", "--table", "Product", "--company", "2000001"];
    for table in ["OrderLine", "Product"] {
        app.simulator.fault(Fault { after: 30, ..Fault::new(FaultKind::PartialError).on(COMPANY, Some(table)) });
    }
    assert!(!app.command(&walk).await.status.success());
    assert_eq!(app.count("select count(*) from nxt_mirror.walk_range").await, 8);
    assert!(app.count("select count(*) from nxt_mirror.walk_range where position is not null").await > 2);
    app.simulator.clear_faults();
    let before = app.simulator.counters().rows_returned;
    let walked: i64 = app.count("select sum(rows_walked)::bigint from nxt_mirror.walk").await;
    assert!(app.command(&walk).await.status.success());
    assert_eq!(app.assert_equal().await, 1_200);
    let again = app.simulator.counters().rows_returned - before;
    assert!(again <= 1_200 - walked as u64 + 8 * 10, "{walked} rows were walked before, {again} after");
    // What is gone at the source leaves the mirror, whatever range it was in.
    for n in (0..600).step_by(50) {
        let key = object(json!({ "orderNo": n / 7, "lineNo": n % 7 }));
        app.simulator.delete_silently(COMPANY, "OrderLine", key).unwrap();
        app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": name(n) }))).unwrap();
    }
    assert!(app.command(&walk).await.status.success());
    app.assert_equal().await;
    assert_eq!(app.mirrored("order_line").await.len() + app.mirrored("product").await.len(), 1_200 - 24);
    assert_eq!(app.count("select count(*) from nxt_mirror.walk_met").await, 0);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_passed_over_and_told() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=100);
    let poison = Fault { key: object(json!({ "orderNo": 40 })), ..Fault::new(FaultKind::PoisonPart) };
    app.simulator.fault(poison.on(COMPANY, Some("Order")));
    let output = app.command(&["backfill", "--table", "Order", "--company", "2000001"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && text.contains("1 could not be read"), "{text}");
    assert_eq!(app.mirrored("order").await.len(), 99);
    let (code, document) = verify(&app, &["--company", "2000001"]).await;
    assert_eq!((code, &document["tables"][0]["unreadable"]), (2, &json!(1)), "{document}");
}

#[tokio::test]
async fn what_was_lost_while_no_daemon_looked_is_loaded_anew() {
    let mut app =
        TestApp::builder().set("NXT_TABLES", "Order,OrderLine,Product").set("NXT_SWEEP_SECONDS", 0).start().await;
    let walked = "select count(*) from nxt_mirror.walk where finished_at is not null";
    app.wait_for("the first load", 9, walked).await;
    put_silently(&app, COMPANY, 1..=30);
    put_silently(&app, OTHER, 1..=30);
    let products: Vec<_> =
        (1..=30).map(|n| object(json!({ "productNo": n.to_string(), "description": "x" }))).collect();
    let lines: Vec<_> = (1..=30).map(|n| object(json!({ "orderNo": n, "lineNo": 1 }))).collect();
    app.simulator.put_all(COMPANY, "Product", &products, false).unwrap();
    app.simulator.put_all(COMPANY, "OrderLine", &lines, false).unwrap();
    assert!(app.command(&["backfill"]).await.status.success());
    assert_eq!(app.assert_equal().await, 120);
    app.restart(async |pool| {
        let lose = "delete from business_nxt.\"order\" where _company_no = 2000001;
            drop table business_nxt.order_line cascade;
            alter table business_nxt.product rename to old;
            create table business_nxt.product (like business_nxt.old including all);
            insert into business_nxt.product select * from business_nxt.old where product_no < '2';
            drop table business_nxt.old cascade";
        crate::support::cluster::execute_each(&mut pool.acquire().await.unwrap(), lose).await;
    })
    .await;
    app.wait_for("the loads of what was lost", 9, walked).await;
    assert_eq!(app.assert_equal().await, 120);
}

/// Its key is known without its values, so that it is remembered by itself and holds nobody up.
#[tokio::test]
async fn a_row_whose_values_cannot_be_read_is_remembered_and_holds_no_sweep_back() {
    let app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_SWEEP_SECONDS", 1).start().await;
    app.simulator.set_knobs(|knobs| knobs.loss = 1.0);
    let walked = "select count(*) from nxt_mirror.walk where finished_at is not null";
    app.wait_for("the first load", 3, walked).await;
    let poison = Fault { key: object(json!({ "orderNo": 40 })), ..Fault::new(FaultKind::PoisonValues) };
    app.simulator.fault(poison.on(COMPANY, Some("Order")));
    put_silently(&app, COMPANY, 1..=50);
    let lost = "select count(*) from business_nxt.\"order\" where _company_no = 2000001";
    app.wait_for("rows whose notifications were lost", 49, lost).await;
    app.wait_for("letters", 1, "select count(*) from nxt_mirror.dead_letter where key @> '{\"order_no\": 40}'").await;
    let behind = "select count(*) from nxt_mirror.sweep join nxt_mirror.target on target.id = sweep.target_id
                   where tenant_no = 2000001
                     and watermark < (select max(_changed_at) from business_nxt.\"order\" where _company_no = 2000001)";
    app.wait_for("sweeps that are held back", 0, behind).await;
    let (code, document) = verify(&app, &["--company", "2000001"]).await;
    assert_eq!(
        (code, &document["tables"][0]["unreadable_rows"][0]["key"]),
        (2, &json!({ "order_no": 40 })),
        "{document}"
    );
    app.simulator.clear_faults();
    app.simulator.set_knobs(|knobs| knobs.loss = 0.0);
    app.simulator.put(COMPANY, "Order", order(40)).unwrap();
    app.assert_equal().await;
}

#[tokio::test]
async fn a_new_column_is_filled_by_the_next_walk() {
    let app = quiet().await;
    put_silently(&app, COMPANY, 1..=30);
    let walk = ["backfill", "--table", "Order", "--company", "2000001"];
    assert!(app.command(&walk).await.status.success());
    app.simulator.add_column("Order", "loyaltyLevel", "Int").unwrap();
    let rows: Vec<_> = (1..=30).map(|n| object(json!({ "orderNo": n, "loyaltyLevel": n * 2 }))).collect();
    app.simulator.put_all(COMPANY, "Order", &rows, false).unwrap();
    assert!(app.command(&walk).await.status.success());
    assert_eq!(app.assert_equal().await, 30);
    assert_eq!(app.count("select sum(loyalty_level) from business_nxt.\"order\"").await, 930);
}

#[tokio::test]
async fn a_silent_subscription_is_told_until_it_speaks_again() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 1).set("NXT_WALK_SECONDS", 0).start().await;
    app.simulator.put(COMPANY, "Order", order(1)).unwrap();
    app.settle().await;
    let silent = "select count(*) from nxt_mirror.freshness where silent_since is not null";
    assert_eq!(app.count(silent).await, 0);
    // As if the last notification was long ago, and a change of two minutes ago was never announced.
    sqlx::query("update nxt_mirror.target set last_notified_at = now() - interval '5 minutes'")
        .execute(&app.pool)
        .await
        .unwrap();
    let changed = (chrono::Utc::now() - chrono::TimeDelta::minutes(2)).format("%Y-%m-%dT%H:%M:%S").to_string();
    let row = object(json!({ "orderNo": 2, "changedTimestamp": changed }));
    app.simulator.put_all(COMPANY, "Order", &[row], false).unwrap();
    app.wait_for("silent tables", 1, silent).await;
    assert!(app.metrics().await.contains("nxt_mirror_silent_tables 1"));
    let status = app.command(&["status"]).await;
    assert!(String::from_utf8_lossy(&status.stdout).contains("no notification since"));
    app.simulator.put(COMPANY, "Order", order(3)).unwrap();
    app.wait_for("silent tables", 0, silent).await;
}

#[tokio::test]
async fn many_tables_are_swept_by_few_requests_and_one_that_fails_harms_none() {
    let third = Owner::Company(5_199_768);
    let app = TestApp::builder()
        .set("NXT_FETCH_ROWS_MAX", 7)
        .set("NXT_TABLES", "Order,OrderLine,Product")
        .set("NXT_SWEEP_SECONDS", 1)
        .start()
        .await;
    app.simulator.set_knobs(|knobs| knobs.loss = 1.0);
    let walked = "select count(*) from nxt_mirror.walk where finished_at is not null";
    app.wait_for("the first load", 9, walked).await;
    // Before the first sweep is counted, so that none of them is without its request.
    let before = app.simulator.counters().graphql_requests;
    for sql in [
        "create table public.swept (at timestamptz)",
        "create function public.note_sweep() returns trigger language plpgsql as $$
         begin insert into public.swept values (clock_timestamp()); return null; end $$",
        "create trigger note_sweep after update on nxt_mirror.sweep for each row
         when (new.swept_at is distinct from old.swept_at)
         execute function public.note_sweep()",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    let rounds = "select count(*) / 9 from public.swept";
    app.wait_for("three sweeps of each table", 3, rounds).await;
    let (requests, sweeps) = (
        app.simulator.counters().graphql_requests - before,
        app.count("select count(*) from public.swept").await.unsigned_abs(),
    );
    // How few depends on how many are due at once, which a slow machine spreads.
    assert!(requests * 4 < sweeps * 3, "{requests} requests for {sweeps} sweeps");

    // More than fits beside others in one company, little in another, and no access to the third.
    app.simulator.fault(Fault::new(FaultKind::Deny).on(third, None));
    for number in 1..=30 {
        app.simulator.put(COMPANY, "Order", order(number)).unwrap();
    }
    app.simulator.put(OTHER, "Product", object(json!({ "productNo": "A", "description": "found" }))).unwrap();
    app.simulator.put(third, "Order", order(1)).unwrap();
    app.wait_for("the many", 30, "select count(*) from business_nxt.\"order\"").await;
    app.wait_for("the few", 1, "select count(*) from business_nxt.product").await;
}
