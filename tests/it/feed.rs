//! The feed, and the order in which ids and positions become visible.

mod killed_writers;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use nxt_mirror::{
    domain::TargetId,
    queue::{ChangeAction, FeedEntry, Journal, SyncAction, SyncEntry},
};
use nxt_simulator::{Fault, FaultKind, Options, Owner};
use nxt_testkit::{Daemon, Site, object};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, FromRow, PgPool, postgres::PgListener};

use crate::{
    history,
    support::{
        app::{COMPANY, TestApp},
        database, site,
    },
};

fn order(number: i64, name: &str) -> Map<String, Value> {
    object(json!({ "orderNo": number, "name": name }))
}

fn order_key(number: i64) -> Map<String, Value> {
    object(json!({ "orderNo": number }))
}

/// What a consumer sees of an entry.
#[derive(Debug, FromRow)]
struct Entry {
    position: i64,
    company_no: Option<i64>,
    customer_no: Option<i64>,
    table_name: String,
    key: Value,
    action: String,
    changed_by: Option<String>,
    changed_columns: Option<Vec<String>>,
    has_source_time: bool,
    has_notification: bool,
}

/// The entries behind a position.
async fn entries(pool: &PgPool, after: i64) -> Vec<Entry> {
    sqlx::query_as(
        "select position, company_no, customer_no, table_name, key, action, changed_by, changed_columns,
                source_changed_at is not null as has_source_time, notification_id is not null as has_notification
           from nxt_mirror.change where position > $1 order by position limit 100",
    )
    .bind(after)
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn each_change_of_a_mirrored_row_is_told_once() {
    let app = TestApp::builder().set("NXT_DELETES", "soft").start().await;
    let mut listener = PgListener::connect_with(&app.pool).await.unwrap();
    listener.listen("nxt_mirror_change").await.unwrap();
    app.simulator.put(COMPANY, "Order", order(1, "first")).unwrap();
    app.settle().await;
    let found = entries(&app.pool, 0).await;
    let [made] = &found[..] else { panic!("{found:?}") };
    assert_eq!((made.company_no, made.customer_no), (Some(2_000_001), None));
    assert_eq!((&*made.table_name, &made.key, &*made.action), ("Order", &json!({ "order_no": 1 }), "insert"));
    assert_eq!((made.changed_by.as_deref(), &made.changed_columns), (Some("kari.nordmann"), &None));
    assert!(made.has_source_time && made.has_notification);
    assert_eq!(listener.recv().await.unwrap().payload(), made.position.to_string());
    // Fetched once more, and found as it is.
    app.simulator.announce(COMPANY, "Order", order_key(1)).unwrap();
    app.settle().await;
    assert_eq!(entries(&app.pool, made.position).await.len(), 0);
    app.simulator.put(COMPANY, "Order", order(1, "second")).unwrap();
    app.settle().await;
    app.simulator.delete(COMPANY, "Order", order_key(1)).unwrap();
    app.settle().await;
    app.simulator.put(COMPANY, "Order", order(1, "third")).unwrap();
    app.settle().await;
    let found = entries(&app.pool, made.position).await;
    let actions: Vec<&str> = found.iter().map(|entry| &*entry.action).collect();
    assert_eq!(actions, ["update", "delete", "insert"]);
    let columns = found[0].changed_columns.as_ref().unwrap();
    let has = |name: &str| columns.iter().any(|column| column == name);
    assert!(has("name") && has("changed_timestamp") && !has("order_no") && !has("created_date"), "{columns:?}");
    assert_eq!((found[1].changed_by.as_deref(), &found[1].changed_columns), (Some("kari.nordmann"), &None));
    assert!(found.iter().all(|entry| entry.has_source_time && entry.has_notification));
    // The consumer of the documentation takes each entry once.
    let [prepare, take] = documented_consumer();
    sqlx::raw_sql(prepare).execute(&app.pool).await.unwrap();
    for _ in 0..2 {
        sqlx::raw_sql(take).execute(&app.pool).await.unwrap();
        assert_eq!(app.count("select count(*) from inbox").await, 4);
        assert_eq!(
            app.count("select count(*) from inbox join nxt_mirror.change using (position, action, key)").await,
            4
        );
    }
    assert_eq!(
        app.count("select count(*) from nxt_mirror.change where at between now() - interval '1 hour' and now()").await,
        4
    );
}

/// The two statements of `docs/mirror.md` that make a consumer: its tables, and what it does again and again.
fn documented_consumer() -> [&'static str; 2] {
    let section = include_str!("../../docs/mirror.md").split("## The feed").nth(1).expect("a section on the feed");
    let mut blocks = section.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    [blocks.next().expect("the consumer's tables"), blocks.next().expect("what it does")]
}

#[tokio::test]
async fn walks_and_other_spellings_are_told_too() {
    let app = TestApp::builder().set("NXT_TABLES", "Product").set("NXT_SWEEP_SECONDS", 1).start().await;
    let product = |number: &str, text: &str| object(json!({ "productNo": number, "description": text }));
    app.simulator.put_all(COMPANY, "Product", &[product("a", "one"), product("b", "one")], false).unwrap();
    app.wait_for("products", 2, "select count(*) from nxt_mirror.change where action = 'insert'").await;
    app.simulator.put_all(COMPANY, "Product", &[product("a", "two")], false).unwrap();
    let swept = "select count(*) from nxt_mirror.change where action = 'update' and notification_id is null
                    and changed_by = 'kari.nordmann' and 'description' = any(changed_columns)";
    app.wait_for("the change that a sweep found", 1, swept).await;
    // The same row to the source, another one to the mirror.
    app.simulator.delete_silently(COMPANY, "Product", object(json!({ "productNo": "b" }))).unwrap();
    app.simulator.put(COMPANY, "Product", product("B", "three")).unwrap();
    let gone = "select count(*) from nxt_mirror.change where action = 'delete' and key = '{\"product_no\": \"b\"}'";
    app.wait_for("the row of the old spelling to go", 1, gone).await;
    let at_once = "select count(*) from nxt_mirror.change gone join nxt_mirror.change come on come.at = gone.at
                    where gone.key = '{\"product_no\": \"b\"}' and gone.action = 'delete'
                      and come.key = '{\"product_no\": \"B\"}' and come.action = 'insert' and come.position > gone.position";
    assert_eq!(app.count(at_once).await, 1, "nobody reads both, and nobody reads neither");
    app.assert_equal().await;
    assert_eq!(living(&app.pool, "select key from nxt_mirror.change order by position").await, 2);
}

/// Rows that live by the feed alone.
async fn living(pool: &PgPool, sql: &'static str) -> usize {
    let keys: Vec<Value> = sqlx::query_scalar(sql).fetch_all(pool).await.unwrap();
    let mut living = BTreeSet::new();
    for (key, entry) in keys.iter().zip(entries(pool, 0).await) {
        match &*entry.action {
            "delete" => assert!(living.remove(&key.to_string()), "{key} was told of before it went"),
            _ => _ = living.insert(key.to_string()),
        }
    }
    living.len()
}

/// Writers of the daemons' kind, without the rest of them.
const WRITERS: u64 = 20;
const COMMITS: u64 = 20;

fn journal(writer: u64, commit: u64) -> Journal {
    let mut journal = Journal::default();
    for part in 0..1 + commit % 3 {
        let key_json = json!({ "writer": writer, "commit": commit, "part": part }).to_string();
        let (target_id, notification_id, source_changed_at) = (TargetId(1), None, None);
        journal.tell(FeedEntry {
            target_id,
            key_json: key_json.clone(),
            action: ChangeAction::Insert,
            changed_by: None,
            changed_columns: Some(vec!["a".to_owned()]),
            source_changed_at,
            notification_id,
        });
        journal.log(SyncEntry {
            target_id,
            key_json,
            action: SyncAction::Inserted,
            reason: "a NUL\0 is replaced".to_owned(),
            notification_id,
            source_changed_at,
            fetch_started_at: None,
        });
    }
    journal
}

/// Commits, and now and then does not: then nobody may ever see it. Returns how many entries it wrote.
async fn write(pool: &PgPool, writer: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(writer);
    let mut written = 0;
    for commit in 0..COMMITS {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("insert into public.work values ($1)")
            .bind(writer as i64)
            .execute(&mut *transaction)
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
        if commit % 10 == 9 {
            // Killed before its commit.
            drop(transaction);
            continue;
        }
        journal(writer, commit).commit(transaction).await.unwrap();
        written += 1 + commit % 3;
    }
    written
}

/// A consumer: remembers the greatest number seen, and asks for greater ones.
async fn follow(pool: &PgPool, view: &str, number: &str, wanted: u64) -> Vec<i64> {
    let (mut seen, mut greatest) = (vec![], 0_i64);
    while (seen.len() as u64) < wanted {
        let sql = format!("select {number} from {view} where {number} > $1 order by {number} limit 20");
        let next: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(greatest).fetch_all(pool).await.unwrap();
        greatest = next.last().copied().unwrap_or(greatest);
        seen.extend(next);
    }
    seen
}

#[tokio::test]
async fn a_reader_with_a_cursor_misses_nothing_and_waits_for_nobody() {
    let app = TestApp::start().await;
    app.simulator.put(COMPANY, "Order", order(1, "one")).unwrap();
    app.settle().await;
    // What the planner knows of the logs is nothing, and then everything: not what they held at some moment between.
    let prepare = "truncate nxt_mirror.change_log, nxt_mirror.sync_log; create table public.work (writer bigint);
         alter table nxt_mirror.change_log set (autovacuum_enabled = off);
         alter table nxt_mirror.sync_log set (autovacuum_enabled = off)";
    sqlx::raw_sql(prepare).execute(&app.pool).await.unwrap();
    let pool = app.database.pool_of(30).await;
    // Two that stand still in their transactions: somebody who wrote, and a writer of ours before its commit.
    let mut open = pool.begin().await.unwrap();
    sqlx::query("insert into public.work values (-1)").execute(&mut *open).await.unwrap();
    let mut frozen = pool.begin().await.unwrap();
    sqlx::query("insert into public.work values (-2)").execute(&mut *frozen).await.unwrap();
    let expected: u64 = (0..COMMITS).filter(|commit| commit % 10 != 9).map(|commit| 1 + commit % 3).sum();
    let wanted = WRITERS * expected;
    let writers = join_all((0..WRITERS).map(|writer| write(&pool, writer)));
    let changes = follow(&pool, "nxt_mirror.change", "position", wanted);
    let activity = follow(&pool, "nxt_mirror.recent_activity", "id", wanted);
    let (written, changes, activity) = tokio::join!(writers, changes, activity);
    assert_eq!(written.iter().sum::<u64>(), wanted);
    for (name, seen, sql) in [
        ("positions", changes, "select array_agg(position order by position) from nxt_mirror.change_log"),
        ("ids", activity, "select array_agg(id order by id) from nxt_mirror.sync_log"),
    ] {
        let stored: Vec<i64> = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
        assert_eq!(seen, stored, "{name} that were read and that there are");
    }
    open.rollback().await.unwrap();
    journal(0, 0).commit(frozen).await.unwrap();
    assert_eq!(app.count("select count(*) from nxt_mirror.change").await as u64, wanted + 1);
    // The reader's question goes by the index, whether or not the planner knows the table.
    let analyze = "analyze nxt_mirror.change_log, nxt_mirror.sync_log, nxt_mirror.target";
    for statistics in ["select 1", analyze] {
        sqlx::query(statistics).execute(&app.pool).await.unwrap();
        for (view, number, log) in [("change", "position", "change_log"), ("recent_activity", "id", "sync_log")] {
            let question = format!("select * from nxt_mirror.{view} where {number} > 500 order by {number} limit 10");
            let sql = AssertSqlSafe(format!("explain (costs off) {question}"));
            let plan: Vec<String> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
            let plan = plan.join("\n");
            assert!(plan.contains(&format!("Index Scan using {log}_pkey on {log}")), "{plan}");
            assert!(!plan.contains("Sort"), "{plan}");
        }
    }
}

/// Reads the feed as a consumer does, from a position of its own, until nothing more comes.
struct Consumer {
    position: i64,
    positions: Vec<i64>,
    /// What lives, by table and key.
    living: BTreeMap<(String, String), ()>,
}

impl Consumer {
    /// Returns whether there was anything.
    async fn read(&mut self, pool: &PgPool) -> bool {
        let found = entries(pool, self.position).await;
        for entry in &found {
            let row = (format!("{:?} {}", entry.company_no, entry.table_name), entry.key.to_string());
            match &*entry.action {
                "delete" => assert!(self.living.remove(&row).is_some(), "{row:?} goes and was not there"),
                "insert" => assert!(self.living.insert(row.clone(), ()).is_none(), "{row:?} comes and was there"),
                _ => assert!(self.living.contains_key(&row), "{row:?} changes and was not there"),
            }
            self.positions.push(entry.position);
            self.position = entry.position;
        }
        !found.is_empty()
    }
}

fn change(random: &mut StdRng, site: &Site, turn: u64) {
    let owner = Owner::Company(if random.random_bool(0.5) { 2_000_001 } else { 2_000_002 });
    let (table, key) = match random.random_range(0..2) {
        0 => ("Order", json!({ "orderNo": random.random_range(1..40) })),
        _ => ("OrderLine", json!({ "orderNo": random.random_range(1..10), "lineNo": random.random_range(1..10) })),
    };
    let mut row = object(key.clone());
    row.insert(if table == "Order" { "name" } else { "description" }.to_owned(), json!(format!("turn {turn}")));
    if random.random_range(0..4) > 0 {
        site.simulator.put(owner, table, row).unwrap();
    } else {
        // One that is not there is no change.
        _ = site.simulator.delete(owner, table, object(key));
    }
}

#[tokio::test]
async fn the_feed_alone_makes_the_mirror_whatever_is_killed() {
    let database = database().await;
    let options = Options {
        published_example: false,
        companies: vec![(1_000_001, 2_000_001), (1_000_001, 2_000_002)],
        requests_per_minute: 100_000,
        ..Options::default()
    };
    let settings = [
        ("NXT_HISTORY", "*"),
        ("NXT_TABLES", "Order,OrderLine"),
        ("NXT_SWEEP_SECONDS", "1"),
        ("NXT_REQUESTS_PER_MINUTE", "6000"),
    ];
    let site = site(options, &database.url(), &settings).await;
    let mut random = StdRng::seed_from_u64(7);
    let mut daemon = site.spawn(&[]);
    let mut other: Daemon = site.spawn_as("worker");
    let migrated = "select count(*) - 1 from information_schema.tables where table_schema = 'nxt_mirror' and table_name = 'change'";
    site.wait_for_none("migrations", migrated).await;
    let mut open = site.pool.begin().await.unwrap();
    sqlx::raw_sql("create table public.open (n int); insert into public.open values (1)")
        .execute(&mut *open)
        .await
        .unwrap();
    site.simulator.fault(Fault::new(FaultKind::Unavailable).times(3));
    let mut consumer = Consumer { position: 0, positions: vec![], living: BTreeMap::new() };
    for turn in 0..60_u64 {
        for _ in 0..8 {
            change(&mut random, &site, turn);
        }
        consumer.read(&site.pool).await;
        match turn % 20 {
            7 => {
                daemon.kill().await;
                daemon = site.spawn(&[]);
            }
            13 => {
                other.kill().await;
                other = site.spawn_as("worker");
            }
            16 => other.freeze(),
            19 => other.thaw(),
            _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await,
        }
    }
    site.settle().await;
    let loaded = "select 4 - count(*) from nxt_mirror.walk where last_finished_at is not null";
    site.wait_for_none("tables not loaded", loaded).await;
    site.settle().await;
    // The transaction is open still, and everything has been told.
    while consumer.read(&site.pool).await {}
    let comparison = site.compare().await;
    assert!(comparison.is_equal(), "{comparison}");
    assert_eq!(consumer.living.len(), comparison.rows);
    let stored: Vec<i64> = sqlx::query_scalar("select position from nxt_mirror.change order by position")
        .fetch_all(&site.pool)
        .await
        .unwrap();
    assert_eq!(consumer.positions, stored, "positions that were read and that there are");
    open.rollback().await.unwrap();
    history::assert_sound(&site.pool, "\"order\"", &["order_no"], &["name", "changed_timestamp"]).await;
    let columns = ["description", "changed_timestamp"];
    history::assert_sound(&site.pool, "order_line", &["order_no", "line_no"], &columns).await;
}
