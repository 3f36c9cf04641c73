//! Obstacles in the database: what users lock, read, forbid, break or add there.

use nxt_mirror::config::Role;
use nxt_simulator::{Options, Owner};
use nxt_testkit::{OTHER_ROLE, compare, object};
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{ORDERS, PATIENCE, PRODUCTS, assert_all_accepted, count, eventually, execute};
use crate::{
    replicas::change_schema,
    support::{
        app::{Builder, COMPANY, TestApp},
        cluster, database, site,
    },
};

const OTHER: Owner = Owner::Company(2_000_002);
/// Rows of each table and company.
const STOCK: i64 = 20;
/// What people and programs count on: no target waits to be walked.
const WALKED: &str = "select count(*) from nxt_mirror.freshness where not partial";

fn two_companies(options: &mut Options) {
    options.companies = vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002)];
}

/// Starts with two tables of two companies, mirrored and walked.
async fn stocked(builder: Builder) -> TestApp {
    let app = builder.set("NXT_TABLES", "Order,Product").simulator(two_companies).start().await;
    change_all(&app, "at first");
    app.assert_equal().await;
    eventually("all tables are walked", async || count(&app.pool, WALKED).await == 4).await;
    app
}

fn change_all(app: &TestApp, text: &str) {
    for owner in [COMPANY, OTHER] {
        PRODUCTS.change(&app.simulator, owner, STOCK, text);
        ORDERS.change(&app.simulator, owner, STOCK, text);
    }
}

/// Orders have nothing to do with what happens to products.
async fn wait_for_orders(app: &TestApp, text: &str) {
    for owner in [COMPANY, OTHER] {
        ORDERS.wait_for(&app.pool, owner, STOCK, text).await;
    }
}

/// Replaces the daemon by a new one without a gap, as an upgrade does.
async fn restart(app: &mut TestApp) {
    let next = tokio::time::timeout(PATIENCE, app.another(Role::All)).await.expect("the next daemon starts");
    let url = next.webhook_url();
    app.simulator.set_knobs(|knobs| knobs.url = Some(url));
    std::mem::replace(&mut app.daemon, next).stop().await;
}

/// However many people look, and however long that takes.
#[tokio::test]
async fn pages_that_wait_hold_up_no_row() {
    const WAITING: &str = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'";
    let app = stocked(TestApp::builder()).await;
    let mut user = app.pool.begin().await.unwrap();
    // Only pages read it, and the one who takes samples.
    sqlx::query("lock table nxt_mirror.sample in access exclusive mode").execute(&mut *user).await.unwrap();
    let pages: Vec<_> = (0..40).map(|_| tokio::spawn(app.http.get(format!("{}/", app.daemon.ops)).send())).collect();
    eventually("pages wait", async || count(&app.pool, WAITING).await >= 3).await;
    change_all(&app, "while they wait");
    assert_all_accepted(&app.simulator).await;
    wait_for_orders(&app, "while they wait").await;
    assert!(count(&app.pool, WAITING).await >= 3, "the pages still wait");
    user.rollback().await.unwrap();
    for page in pages {
        page.await.unwrap().expect("an answer");
    }
}

#[tokio::test]
async fn a_table_that_a_user_locks_holds_up_neither_receiving_nor_other_tables() {
    let app = stocked(TestApp::builder()).await;
    let mut user = app.pool.begin().await.unwrap();
    // As CREATE INDEX does for as long as it takes.
    sqlx::query("lock table business_nxt.product in share mode").execute(&mut *user).await.unwrap();
    for round in 0..5 {
        change_all(&app, &format!("round {round}"));
        assert_all_accepted(&app.simulator).await;
    }
    wait_for_orders(&app, "round 4").await;
    for round in 5..8 {
        let text = format!("round {round}");
        change_all(&app, &text);
        wait_for_orders(&app, &text).await;
    }
    assert_all_accepted(&app.simulator).await;
    assert_eq!(PRODUCTS.shown(&app.pool, COMPANY, "at first").await, STOCK, "the table is still locked");
    user.rollback().await.unwrap();
    app.assert_equal().await;
    assert!(app.dead_letters().await.is_empty(), "a lock is nobody's fault");
}

#[tokio::test]
async fn a_column_that_cannot_be_added_yet_holds_up_nobody() {
    // Walks renew the descriptions.
    let app = stocked(TestApp::builder().set("NXT_WALK_SECONDS", 2)).await;
    let mut reader = app.pool.begin().await.unwrap();
    sqlx::query("select count(*) from business_nxt.product").execute(&mut *reader).await.unwrap();
    app.simulator.add_column("Product", "shelf", "Int").unwrap();
    let gained = "select count(*) from pg_attribute
                   where attrelid = 'business_nxt.product'::regclass and attname = 'shelf' and not attisdropped";
    for round in 0..5 {
        let text = format!("round {round}");
        let shelved = json!({ "productNo": "1", "description": text, "shelf": round });
        app.put("Product", shelved);
        ORDERS.change(&app.simulator, COMPANY, STOCK, &text);
        PRODUCTS.change(&app.simulator, OTHER, STOCK, &text);
        ORDERS.change(&app.simulator, OTHER, STOCK, &text);
        wait_for_orders(&app, &text).await;
        PRODUCTS.wait_for(&app.pool, COMPANY, 1, &text).await;
        PRODUCTS.wait_for(&app.pool, OTHER, STOCK, &text).await;
    }
    assert_eq!(count(&app.pool, gained).await, 0, "the table is still being read");
    assert_all_accepted(&app.simulator).await;
    reader.rollback().await.unwrap();
    eventually("the column is added", async || count(&app.pool, gained).await == 1).await;
    let value = "select count(*) from business_nxt.product where shelf = 4";
    eventually("its value has come", async || count(&app.pool, value).await == 1).await;
    app.assert_equal().await;
}

/// Begins what `pg_dump` does: it reads every table, and goes on reading.
async fn begin_dump(pool: &PgPool) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut dump = pool.begin().await.unwrap();
    let read_all = "set transaction isolation level repeatable read;
        select count(*) from nxt_mirror.notification;
        do $$ declare name text; begin
            for name in select oid::regclass::text from pg_class
                         where relnamespace in ('nxt_mirror'::regnamespace, 'business_nxt'::regnamespace)
                           and relkind in ('r', 'p') loop
                execute format('lock table %s in access share mode', name);
            end loop;
        end $$";
    sqlx::raw_sql(read_all).execute(&mut *dump).await.unwrap();
    dump
}

#[tokio::test]
async fn a_long_reader_of_the_ledger_holds_up_neither_receiving_nor_a_new_daemon() {
    let walks = TestApp::builder().set("NXT_SWEEP_SECONDS", 1).set("NXT_WALK_SECONDS", 2);
    let mut app = stocked(walks).await;
    let dump = begin_dump(&app.pool).await;
    change_all(&app, "during the dump");
    wait_for_orders(&app, "during the dump").await;
    for round in 0..2 {
        let text = format!("after restart {round}");
        restart(&mut app).await;
        let migrated = app.command(&["migrate"]).await;
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        change_all(&app, &text);
        wait_for_orders(&app, &text).await;
    }
    app.assert_equal().await;
    assert_all_accepted(&app.simulator).await;
    dump.rollback().await.unwrap();
}

#[tokio::test]
async fn a_row_that_a_users_trigger_refuses_is_set_aside_alone() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let app = stocked(TestApp::builder()).await;
    let trigger = "create function public.refuse() returns trigger language plpgsql as
                       $$ begin raise exception 'the shop refuses it'; end $$;
                   create trigger refuse before insert or update on business_nxt.product
                       for each row when (new.product_no = '7') execute function public.refuse()";
    execute(&app.pool, trigger).await;
    for text in ["refused once", "refused again"] {
        change_all(&app, text);
        wait_for_orders(&app, text).await;
        PRODUCTS.wait_for(&app.pool, OTHER, STOCK - 1, text).await;
        PRODUCTS.wait_for(&app.pool, COMPANY, STOCK - 1, text).await;
    }
    eventually("both rows are set aside", async || app.dead_letters().await.len() == 2).await;
    assert!(app.dead_letters().await[0].contains("the shop refuses it"), "{:?}", app.dead_letters().await);
    assert_all_accepted(&app.simulator).await;
    assert_told(async |arguments| app.command(arguments).await).await;
    execute(&app.pool, "drop trigger refuse on business_nxt.product").await;
    assert!(app.command(&["backfill", "--table", "Product"]).await.status.success());
    app.assert_equal().await;
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
}

/// People learn of what was set aside wherever they look.
async fn assert_told(command: impl AsyncFn(&[&str]) -> std::process::Output) {
    let listed = command(&["dead-letters", "list"]).await;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("Product") && !listed.contains("Order"), "{listed}");
    let status: Value = serde_json::from_slice(&command(&["status", "--json"]).await.stdout).expect("a JSON document");
    assert!(status["dead_letters"].as_i64().is_some_and(|letters| letters > 0), "{status}");
    for table in status["tables"].as_array().expect("a list") {
        let is_product = table.as_object().expect("an object").values().any(|value| value == "Product");
        assert_eq!(table["state"] == "degraded", is_product, "{table}");
    }
    let examined = command(&["doctor"]).await;
    let text = String::from_utf8_lossy(&examined.stdout).into_owned();
    let is_named = text.lines().any(|line| line.starts_with("PROBLEM") && line.contains("Product"));
    assert!(is_named && !examined.status.success(), "{text}");
}

/// Damages the table of the products, which is then made again; what it lost, nobody pretends to have.
async fn assert_made_again(damage: &str) {
    let app = stocked(TestApp::builder()).await;
    for owner in [COMPANY, OTHER] {
        let silent = json!({ "productNo": "silent", "description": "at first", "webPage": "https://example.org" });
        app.simulator.put(owner, "Product", object(silent)).unwrap();
    }
    app.assert_equal().await;
    execute(&app.pool, damage).await;
    for text in ["after the damage", "later"] {
        change_all(&app, text);
        wait_for_orders(&app, text).await;
        for owner in [COMPANY, OTHER] {
            PRODUCTS.wait_for(&app.pool, owner, STOCK, text).await;
        }
    }
    assert_all_accepted(&app.simulator).await;
    let admitted = "select count(*) from nxt_mirror.freshness
                     where table_name = 'Product' and (partial or state = 'degraded')";
    eventually("the table is whole again, or said not to be", async || {
        let compared = compare(&app.pool, &app.simulator).await;
        compared.is_ok_and(|comparison| comparison.is_equal()) || count(&app.pool, admitted).await > 0
    })
    .await;
    assert!(app.command(&["backfill", "--table", "Product"]).await.status.success());
    app.assert_equal().await;
    assert!(app.dead_letters().await.is_empty(), "{:?}", app.dead_letters().await);
}

#[tokio::test]
async fn a_table_that_was_dropped_is_made_again() {
    assert_made_again("drop table business_nxt.product cascade").await;
}

/// Its indexes keep their names, which the new one may not need.
#[tokio::test]
async fn a_table_that_was_renamed_is_made_again() {
    assert_made_again("alter table business_nxt.product rename to product_of_old").await;
}

#[tokio::test]
async fn a_column_that_was_dropped_is_made_again() {
    assert_made_again("alter table business_nxt.product drop column web_page cascade").await;
}

#[tokio::test]
async fn a_column_that_was_renamed_is_made_again() {
    assert_made_again("alter table business_nxt.product rename column web_page to page").await;
}

/// Takes the products away from a daemon that is no superuser, and gives them back.
async fn assert_set_aside(obstacle: &str, remedy: &str, reason: &str) {
    let database = database().await;
    let mut options = Options { published_example: false, ..Options::default() };
    two_companies(&mut options);
    let site = site(options, &database.url_of_plain_role().await, &[]).await;
    let administrator = database.pool().await;
    let _daemon = site.spawn(&[]);
    for rows in [&ORDERS, &PRODUCTS] {
        rows.change(&site.simulator, COMPANY, STOCK, "at first");
        rows.wait_for(&administrator, COMPANY, STOCK, "at first").await;
    }
    execute(&administrator, obstacle).await;
    let refused = site.simulator.sender_counters().failed;
    for text in ["once", "again"] {
        PRODUCTS.change(&site.simulator, COMPANY, STOCK, text);
        ORDERS.change(&site.simulator, COMPANY, STOCK, text);
        ORDERS.wait_for(&administrator, COMPANY, STOCK, text).await;
    }
    let set_aside = "select count(*) from nxt_mirror.dead_letter where table_name = 'Product'";
    eventually("the rows are set aside", async || count(&administrator, set_aside).await == STOCK).await;
    assert_eq!(site.simulator.sender_counters().failed, refused, "receiving goes on");
    let reasons: Vec<String> =
        sqlx::query_scalar("select reason from nxt_mirror.dead_letter").fetch_all(&administrator).await.unwrap();
    assert!(reasons.iter().all(|told| told.contains(reason)), "{reasons:?}");
    assert_told(async |arguments| site.output(arguments).await).await;
    execute(&administrator, remedy).await;
    assert!(site.output(&["backfill", "--table", "Product", "--company", "2000001"]).await.status.success());
    site.settle().await;
    let comparison = site.compare().await;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!(count(&administrator, "select count(*) from nxt_mirror.dead_letter").await, 0);
}

#[tokio::test]
async fn rows_of_a_table_that_another_role_owns_are_set_aside_with_the_reason() {
    let obstacle = format!("alter table business_nxt.product owner to {OTHER_ROLE}");
    assert_set_aside(&obstacle, "alter table business_nxt.product owner to nxt_test_plain", "owner").await;
}

#[tokio::test]
async fn rows_that_row_level_security_refuses_are_set_aside_with_the_reason() {
    let obstacle = "alter table business_nxt.product enable row level security, force row level security";
    let remedy = "alter table business_nxt.product disable row level security, no force row level security";
    assert_set_aside(obstacle, remedy, "row-level security").await;
}

#[tokio::test]
async fn columns_that_the_next_version_adds_do_not_disturb_a_running_daemon() {
    let often = TestApp::builder().set("NXT_SWEEP_SECONDS", 1).set("NXT_WALK_SECONDS", 2);
    let app = stocked(often).await;
    app.post("not understood").await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 20 }))).unwrap();
    app.assert_equal().await;
    change_schema(&app.pool).await;
    change_all(&app, "after the upgrade");
    wait_for_orders(&app, "after the upgrade").await;
    app.post("not understood either").await;
    app.simulator.delete(OTHER, "Order", object(json!({ "orderNo": 19 }))).unwrap();
    // A sweep finds the one, a walk the other.
    ORDERS.change_silently(&app.simulator, COMPANY, 3, "unannounced");
    app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": "3" }))).unwrap();
    ORDERS.wait_for(&app.pool, COMPANY, 3, "unannounced").await;
    PRODUCTS.wait_for(&app.pool, COMPANY, STOCK - 1, "after the upgrade").await;
    app.assert_equal().await;
    assert_all_accepted(&app.simulator).await;
    assert_eq!(app.dead_letters().await.len(), 2);
    for arguments in [&["status"][..], &["dead-letters", "list"], &["verify"]] {
        let output = app.command(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused() {
    let home = database().await;
    let administrator = home.pool().await;
    let name = format!("nxt_test_latin1_{}", uuid::Uuid::new_v4().simple());
    execute(&administrator, &format!("create database {name} encoding 'LATIN1' locale 'C' template template0")).await;
    let mut url: url::Url = home.url().parse().unwrap();
    url.set_path(&name);
    let site = site(Options::default(), url.as_str(), &[]).await;
    let examined = site.output(&["doctor"]).await;
    let told = String::from_utf8_lossy(&examined.stdout).into_owned();
    assert!(!examined.status.success() && told.contains("LATIN1") && told.contains("UTF8"), "{told}");
    for arguments in [&["migrate"][..], &["serve"]] {
        let refused = site.output(arguments).await;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("LATIN1") && said.contains("UTF8"), "{arguments:?}: {said}");
    }
    execute(&administrator, &format!("drop database {name} with (force)")).await;
}
