//! The queue by itself.

use std::{sync::Arc, time::Duration};

use actix_web::web::Bytes;
use nxt_mirror::{
    clocks,
    database::{self, Connector},
    domain::{
        AnnouncedKey, AnnouncedRow, ChangeEvent, ChangeKind, DatabaseTime, KeyValue, SourceTime, TableName, Tenant,
        settle::{Doubted, Rechecks},
    },
    queue::{
        self, Accepted, Acceptor, Appender, Asked, Claimable, Claims, Delivery, Notification, Outcome, Priority,
        Quarantine, Queue, Wanted, dead_letter, ledger, maintenance, status, target,
    },
    telemetry::Metrics,
};
use nxt_testkit::TestDatabase;
use secrecy::SecretString;
use sqlx::{PgConnection, PgPool};
use tokio::{sync::Notify, task::JoinHandle};

use crate::support;

struct World {
    _database: TestDatabase,
    pool: PgPool,
    queue: Queue,
    url: SecretString,
    acceptor: Acceptor,
    _appender: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let database = support::migrated().await;
        let url = SecretString::from(database.url());
        let pool = database::connect(&Connector::to(&url).unwrap()).await.unwrap();
        let (acceptor, appender) = appender(&url);
        Self { _database: database, queue: Queue::new(pool.clone()), pool, url, acceptor, _appender: appender }
    }

    async fn receive(&self, notifications: impl IntoIterator<Item = Notification>) {
        let waits = notifications.into_iter().map(|notification| {
            let acceptor = self.acceptor.clone();
            async move { acceptor.accept(Delivery::Notification(notification)).await.unwrap() }
        });
        for accepted in futures_util::future::join_all(waits).await {
            assert_eq!(accepted, Accepted::Stored);
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Looks until a look from the beginning says that nothing more is to come soon. By a queue that remembers nothing,
    /// so that every look is at the database.
    async fn overview(&self, me: queue::WorkerId, claims: &Claims, claimable: Claimable) -> queue::Overview {
        let queue = Queue::new(self.pool.clone());
        loop {
            let overview = queue.overview(me, claims, claimable, 1_000).await.unwrap();
            match overview.next_in {
                Some(next_in) if next_in < Duration::from_secs(2) => tokio::time::sleep(next_in).await,
                _ => return overview,
            }
        }
    }

    /// A transaction that has read and then does nothing.
    async fn old_snapshot(&self) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut transaction = self.pool.begin_with("begin isolation level repeatable read").await.unwrap();
        for sql in ["set local idle_in_transaction_session_timeout = 0", "select count(*) from nxt_mirror.dirty_row"] {
            sqlx::query(sql).execute(&mut *transaction).await.unwrap();
        }
        transaction
    }

    async fn claim_all(&self, me: queue::WorkerId, claims: &Claims) -> Vec<queue::Claim> {
        let overview = self.overview(me, claims, Claimable::All).await;
        let wanted: Vec<_> = overview
            .due
            .iter()
            .flat_map(|due| {
                let wanted = |priority| Wanted { target: due.target.id, priority, rows_max: 500 };
                let live = due.oldest_live.map(|_| wanted(Priority::Live));
                live.into_iter().chain(due.oldest_deferred.map(|_| wanted(Priority::Deferred)))
            })
            .collect();
        self.queue.claim(me, claims, &wanted, Claimable::All).await.unwrap()
    }
}

fn appender(url: &SecretString) -> (Acceptor, JoinHandle<()>) {
    let connector = Connector::to(url).unwrap();
    let (acceptor, appender) =
        Appender::new(connector, Arc::default(), Arc::new(Notify::new()), Arc::new(Metrics::new()));
    (acceptor, tokio::spawn(appender.run()))
}

fn at(seconds: i64) -> SourceTime {
    SourceTime::new(chrono::DateTime::from_timestamp(1_750_000_000 + seconds, 0).unwrap())
}

fn key(number: i64) -> AnnouncedKey {
    AnnouncedKey::new([("OrderNo".to_owned(), KeyValue::Int(number))]).unwrap()
}

fn notification(company: i64, table: &str, number: i64, kind: ChangeKind) -> Notification {
    let row =
        AnnouncedRow { tenant: Tenant::Company(company), table: TableName::new(table).unwrap(), key: key(number) };
    let body = format!(r#"{{"primaryKeys": [{{"OrderNo": {number}}}]}}"#);
    Notification {
        delivery_id: None,
        event: ChangeEvent { row, kind },
        changed_by: Some("ola".to_owned()),
        columns: vec!["OrderNo".to_owned(), "ChangedTimestamp".to_owned()],
        body: Bytes::from(body),
    }
}

fn update(company: i64, table: &str, number: i64) -> Notification {
    notification(company, table, number, ChangeKind::Update { changed_at: Some(at(number)) })
}

fn delete(company: i64, table: &str, number: i64) -> Notification {
    notification(company, table, number, ChangeKind::Delete { deleted_at: at(number) })
}

#[tokio::test]
async fn notifications_of_one_row_become_one_dirty_row_with_all_they_say() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    world.receive([update(1, "Order", 1), update(1, "order", 2)]).await;
    world.receive([delete(1, "Order", 1), update(2, "Order", 1)]).await;
    let folded = world.queue.fold().await.unwrap();
    assert_eq!((folded.notifications, folded.targets.len(), folded.is_behind), (4, 2, false));
    assert_eq!(world.queue.fold().await.unwrap().notifications, 0);
    assert_eq!(world.count("select count(*) from nxt_mirror.notification").await, 4);
    assert_eq!(status::backlog(&world.pool).await.unwrap().rows, 3);

    let claims = Claims::new();
    let mut claim = world.claim_all(me, &claims).await;
    assert_eq!(claim.len(), 2);
    let row = claim[0].rows.iter().find(|row| row.key == key(1)).unwrap();
    assert_eq!(row.evidence.deletion.unwrap().at, at(1));
    assert_eq!(row.evidence.announcement.unwrap().changed_at, Some(at(1)));
    let mut columns = queue::announced_columns(&world.pool, &TableName::new("ORDER").unwrap()).await.unwrap();
    columns.dedup();
    assert_eq!(columns, ["ChangedTimestamp", "OrderNo"]);

    let target = claim[0].target.id;
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    let outcomes: Vec<_> = claim[0].rows.iter().map(|row| (row, Outcome::Done)).collect();
    let mut transaction = world.pool.begin().await.unwrap();
    queue::settle(&mut transaction, target, &outcomes, None).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(world.claim_all(me, &claims).await.is_empty(), "the row is still in flight");
    claim.clear();
    let again = world.claim_all(me, &claims).await;
    let left: Vec<_> = again
        .iter()
        .flat_map(|claim| &claim.rows)
        .map(|row| (row.key.clone(), row.notification_id.is_some()))
        .collect();
    assert_eq!(left, [(key(1), true), (key(1), true)], "one was notified again, the other never settled");
}

/// A worker stands still with a verdict in its hands. Meanwhile another one settles the row, and it is notified again.
#[tokio::test]
async fn a_verdict_that_comes_late_does_not_settle_what_came_after_it() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    // Two processes do not know of each other's rows in flight.
    let (mine, others) = (Claims::new(), Claims::new());
    let late = world.claim_all(me, &mine).await;
    let settle_done = async |claim: &queue::Claim| {
        let outcomes: Vec<_> = claim.rows.iter().map(|row| (row, Outcome::Done)).collect();
        let mut transaction = world.pool.begin().await.unwrap();
        queue::settle(&mut transaction, claim.target.id, &outcomes, None).await.unwrap();
        transaction.commit().await.unwrap();
    };
    settle_done(&world.claim_all(me, &others).await[0]).await;
    let waiting = "select count(*) from nxt_mirror.dirty_row";
    assert_eq!(world.count(waiting).await, 0);
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    settle_done(&late[0]).await;
    assert_eq!(world.count(waiting).await, 1, "the second notification is not settled by what was seen before it");
}

/// Another row has taken the place of one that was settled.
#[tokio::test]
async fn a_verdict_that_comes_late_does_not_touch_what_is_in_its_rows_place() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    let claims = Claims::new();
    let late = world.claim_all(me, &claims).await;
    sqlx::query("delete from nxt_mirror.dirty_row").execute(&world.pool).await.unwrap();
    sqlx::query("vacuum nxt_mirror.dirty_row").execute(&world.pool).await.unwrap();
    world.receive([update(1, "Order", 2)]).await;
    world.queue.fold().await.unwrap();
    let there = world.claim_all(me, &Claims::new()).await;
    let (row, other) = (&late[0].rows[0], &there[0].rows[0]);
    assert_eq!(row.place, other.place);

    let mut connection = world.pool.acquire().await.unwrap();
    let target = late[0].target.id;
    let asked = [(row.row_key.to_string(), Some(&row.place))];
    assert!(queue::evidence(&mut connection, target, &asked).await.unwrap().is_empty());
    let failed = Outcome::Fail { attempts: 1, pause: chrono::Duration::zero(), error: "late".to_owned() };
    for outcome in [failed, Outcome::Done] {
        queue::settle(&mut connection, target, &[(row, outcome)], None).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from nxt_mirror.dirty_row where attempts = 0").await, 1);
}

/// Somebody holds an old snapshot, so that all versions of each row stay where they were.
#[tokio::test]
async fn a_row_that_was_settled_often_is_found_as_one_that_never_was() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    let _snapshot = world.old_snapshot().await;
    let claims = Claims::new();
    let mut pages = vec![];
    for _ in 0..20 {
        world.receive((0..100).map(|number| update(1, "Order", number))).await;
        world.queue.fold().await.unwrap();
        let claim = world.claim_all(me, &claims).await;
        let (target, rows) = (claim[0].target.id, &claim[0].rows);
        assert_eq!(rows.len(), 100);
        let mut transaction = world.pool.begin().await.unwrap();
        let before = pages_read(&mut transaction).await;
        let asked: Vec<_> = rows.iter().map(|row| (row.row_key.to_string(), Some(&row.place))).collect();
        assert_eq!(queue::evidence(&mut transaction, target, &asked).await.unwrap().len(), 100);
        let outcomes: Vec<_> = rows.iter().map(|row| (row, Outcome::Done)).collect();
        queue::settle(&mut transaction, target, &outcomes, None).await.unwrap();
        pages.push(pages_read(&mut transaction).await - before);
        transaction.commit().await.unwrap();
    }
    assert_eq!(world.count("select count(*) from nxt_mirror.dirty_row").await, 0);
    assert!(pages[19] < pages[0] * 2, "{pages:?}");
}

/// Pages of dirty rows that this session has looked at lately.
async fn pages_read(session: &mut PgConnection) -> i64 {
    let read = "select pg_stat_get_xact_blocks_fetched('nxt_mirror.dirty_row'::regclass)";
    sqlx::query_scalar(read).fetch_one(session).await.unwrap()
}

/// It is fetched again and again, and each time it has changed meanwhile.
#[tokio::test]
async fn a_row_that_changes_all_the_time_is_as_old_as_its_oldest_unsettled_notification() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    let claims = Claims::new();
    let since = async || status::backlog(&world.pool).await.unwrap().since.unwrap();
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    let first = since().await;
    let pause = chrono::Duration::seconds(1);
    let endings = [
        (Outcome::Recheck { pause, counts: Some(Doubted::Found) }, false),
        (Outcome::DeadLetter { reason: "no".into(), of_target: false }, false),
        (Outcome::Done, true),
    ];
    for (outcome, is_settled) in endings {
        let claimed = world.claim_all(me, &claims).await;
        let started_at: DatabaseTime =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&world.pool).await.unwrap();
        world.receive([update(1, "Order", 1)]).await;
        world.queue.fold().await.unwrap();
        let outcome = [(&claimed[0].rows[0], outcome)];
        let mut transaction = world.pool.begin().await.unwrap();
        queue::settle(&mut transaction, claimed[0].target.id, &outcome, Some(started_at)).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(since().await, if is_settled { started_at } else { first }, "{outcome:?}");
    }
}

/// Rows of the ledger that are read for `status` and `/metrics`, in one transaction, whose counts the server keeps.
async fn ledger_rows_read(url: &SecretString) -> i64 {
    let one = sqlx::postgres::PgPoolOptions::new().max_connections(1);
    let pool = one.connect(secrecy::ExposeSecret::expose_secret(url)).await.unwrap();
    sqlx::query("begin").execute(&pool).await.unwrap();
    status::backlog(&pool).await.unwrap();
    status::freshness(&pool).await.unwrap();
    status::silent_targets(&pool).await.unwrap();
    dead_letter::count(&pool).await.unwrap();
    clocks::evidence(&pool).await.unwrap();
    let sql = "select (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables
                where schemaname = 'nxt_mirror' and relname = 'ledger_block'";
    sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
}

#[tokio::test]
async fn what_operators_ask_costs_the_same_however_long_the_ledger_is() {
    let world = World::new().await;
    world.receive((0..50).map(|number| update(1, "Order", number))).await;
    world.queue.fold().await.unwrap();
    // Blocks as they are, again and again, all of them folded.
    let copy = "insert into nxt_mirror.ledger_block
            (stream_id, received_at, is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at, changed_by,
             delivery_id, body)
        select stream_id, received_at, is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at, changed_by,
               delivery_id, body
          from (select * from nxt_mirror.ledger_block order by id limit 1) as first, generate_series(1, $1);";
    let grow = async |blocks: i32| {
        sqlx::query(copy).bind(blocks).execute(&world.pool).await.unwrap();
        let fold = "update nxt_mirror.fold set through_id = (select max(id) from nxt_mirror.ledger_block)";
        sqlx::query(fold).execute(&world.pool).await.unwrap();
        sqlx::query("analyze nxt_mirror.ledger_block").execute(&world.pool).await.unwrap();
        ledger_rows_read(&world.url).await
    };
    let (short, long) = (grow(1_000).await, grow(20_000).await);
    assert!(short > 0 && long <= short, "{short} rows of a thousand blocks, {long} of many");
}

#[tokio::test]
async fn a_body_that_the_database_refuses_harms_no_other() {
    let world = World::new().await;
    let mut bad = update(1, "Order", 3);
    bad.body = Bytes::from_static(b"{\"a\": \"\0\"}");
    let mut deliveries: Vec<_> = (0..9).map(|number| update(1, "Order", number)).collect();
    deliveries[3] = bad;
    let waits = deliveries.into_iter().map(|delivery| world.acceptor.accept(Delivery::Notification(delivery)));
    let letter = Quarantine { delivery_id: None, reason: "no".to_owned(), body: Bytes::from_static(b"\xff\0") };
    let (accepted, quarantined) =
        tokio::join!(futures_util::future::join_all(waits), world.acceptor.accept(Delivery::Quarantine(letter)));
    let stored = accepted.iter().filter(|accepted| matches!(accepted, Ok(Accepted::Stored))).count();
    assert_eq!((stored, matches!(accepted[3], Ok(Accepted::Quarantined))), (8, true), "{accepted:?}");
    assert_eq!(quarantined.unwrap(), Accepted::Quarantined);
    assert_eq!(world.queue.fold().await.unwrap().notifications, 8);
    let letters = dead_letter::list(&world.pool, 0, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().any(|letter| letter.reason.contains("the database cannot store it")), "{letters:?}");
    let (_, body) = dead_letter::show(&world.pool, letters[1].id).await.unwrap().unwrap();
    assert!(body.is_some());
    assert_eq!(dead_letter::remove(&world.pool, &[letters[0].id], &Asked::default()).await.unwrap(), 1);
}

#[tokio::test]
async fn replicas_that_fold_together_fold_everything_once() {
    let world = World::new().await;
    let (second, _) = appender(&world.url);
    let mut notifications = 0;
    for round in 0..20 {
        world.receive((0..20).map(|number| update(round % 3, "Order", number))).await;
        second.accept(Delivery::Notification(update(9, "Order", round))).await.unwrap();
        let queues = [world.queue.clone(), Queue::new(world.pool.clone()), Queue::new(world.pool.clone())];
        let folded = futures_util::future::join_all(queues.iter().map(Queue::fold)).await;
        notifications += folded.into_iter().map(|folded| folded.unwrap().notifications).sum::<u64>();
    }
    notifications += world.queue.fold().await.unwrap().notifications;
    assert_eq!(notifications, 420);
    assert_eq!(world.count("select count(*) from nxt_mirror.dirty_row").await, 80);
    assert_eq!(world.count("select count(*) from nxt_mirror.unfolded").await, 0);
}

#[tokio::test]
async fn a_dead_workers_targets_are_free_and_a_paused_one_waits() {
    let world = World::new().await;
    let (first, second) = (world.queue.register().await.unwrap(), world.queue.register().await.unwrap());
    world.receive((0..3).map(|number| update(number, "Order", number))).await;
    let targets = world.queue.fold().await.unwrap().targets;
    let claims = Claims::new();
    let claimed = world.claim_all(first, &claims).await;
    assert_eq!(claimed.len(), 3);
    let elsewhere = Claims::new();
    let overview = world.overview(second, &elsewhere, Claimable::All).await;
    assert!(overview.due.is_empty() && overview.next_in.unwrap() <= Duration::from_secs(4), "{overview:?}");
    assert!(world.claim_all(second, &elsewhere).await.is_empty());

    target::pause(&world.pool, targets[1], 3, Duration::from_secs(60), "it failed").await.unwrap();
    world.queue.leave(first).await.unwrap();
    let overview = world.overview(second, &elsewhere, Claimable::All).await;
    assert_eq!(overview.due.len(), 2);
    assert!(overview.next_in.unwrap() > Duration::from_secs(50));
    assert!(target::recover(&world.pool, targets[1]).await.unwrap());
    assert_eq!(world.claim_all(second, &elsewhere).await.len(), 3);
    let none = world.overview(second, &elsewhere, Claimable::Deleted).await;
    assert!(none.due.is_empty());
    assert!(world.queue.lead(second).await.unwrap() && !world.queue.lead(first).await.unwrap());
}

/// Somebody holds an old snapshot, and very many rows have been settled since.
#[tokio::test]
async fn nobody_waits_for_a_look_from_the_beginning_once_it_takes_long() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    let claims = Claims::new();
    let overview = async |queue: &Queue| queue.overview(me, &claims, Claimable::All, 10).await.unwrap();
    let _snapshot = world.old_snapshot().await;
    let mut rounds = 0..20;
    let queue = loop {
        rounds.next().expect("a look at millions of dead rows takes long");
        let bury = "insert into nxt_mirror.dirty_row (target_id, row_key, due_at, waiting_since, announced)
                    select 1, gen_random_uuid()::text, now(), now(), true from generate_series(1, 200000)";
        for sql in [bury, "delete from nxt_mirror.dirty_row"] {
            sqlx::query(sql).execute(&world.pool).await.unwrap();
        }
        let queue = Queue::new(world.pool.clone());
        overview(&queue).await;
        // The next one from the beginning is not in sight: it is left to others.
        if overview(&queue).await.next_in.is_none() {
            break queue;
        }
    };
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    assert!(overview(&queue).await.due.is_empty(), "what another replica has folded is looked for beside the work");
    let mut pause = Duration::ZERO;
    for _ in 0..2 {
        tokio::time::sleep(pause).await;
        pause = queue.look_beside(me, &claims, 10).await.unwrap();
    }
    assert_eq!(overview(&queue).await.due.len(), 1);
}

#[tokio::test]
async fn every_outcome_is_written_and_dead_rows_find_back() {
    let world = World::new().await;
    let me = world.queue.register().await.unwrap();
    world.receive((0..6).map(|number| update(1, "Order", number))).await;
    let target = world.queue.fold().await.unwrap().targets[0];
    let pause = chrono::Duration::seconds(60);
    let mut connection = world.pool.acquire().await.unwrap();
    let claims = Claims::new();
    let claimed = world.claim_all(me, &claims).await;
    let row = |number| claimed[0].rows.iter().find(|row| row.key == key(number)).unwrap();
    let dead = |of_target| Outcome::DeadLetter { reason: "bad".to_owned(), of_target };
    let outcomes = [
        (row(0), Outcome::Done),
        (row(1), Outcome::Recheck { pause, counts: Some(Doubted::Missing) }),
        (row(2), Outcome::Release { pause: chrono::Duration::zero() }),
        (row(3), Outcome::Fail { attempts: 4, pause, error: "no\0".to_owned() }),
        (row(4), dead(true)),
        (row(5), dead(false)),
    ];
    queue::settle(&mut connection, target, &outcomes, None).await.unwrap();
    // Two of them have moved.
    let places: Vec<_> = (0..6).map(|number| (row(number).row_key.to_string(), Some(&row(number).place))).collect();
    let waiting = queue::evidence(&mut connection, target, &places).await.unwrap();
    assert_eq!(waiting.len(), 3);
    assert_eq!(waiting[&*row(1).row_key].evidence.rechecks, Rechecks { found: 0, missing: 1 });
    drop(claimed);
    assert_eq!(dead_letter::count(&world.pool).await.unwrap().rows, 2);
    let due = world.claim_all(me, &claims).await;
    assert_eq!(due.iter().flat_map(|claim| &claim.rows).map(|row| row.key.clone()).collect::<Vec<_>>(), [key(2)]);
    drop(due);

    assert_eq!(dead_letter::requeue_dead(&mut connection, target, 10).await.unwrap(), 1);
    let letters = dead_letter::list(&world.pool, 0, 10).await.unwrap();
    assert_eq!(letters[0].table_name.as_deref(), Some("Order"));
    assert_eq!(dead_letter::retry_rows(&world.pool, &[letters[0].id], &Asked::default()).await.unwrap(), 1);
    let due = world.claim_all(me, &claims).await;
    let priorities: Vec<_> = due.iter().flat_map(|claim| &claim.rows).map(|row| row.priority).collect();
    assert_eq!(priorities.iter().filter(|priority| **priority == Priority::Deferred).count(), 1);
    assert_eq!(priorities.len(), 3);

    // What failed keeps its pause when it is notified again.
    world.receive([update(1, "Order", 3), update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    let due = world.claim_all(me, &claims).await;
    assert_eq!(due.iter().flat_map(|claim| &claim.rows).map(|row| row.key.clone()).collect::<Vec<_>>(), [key(1)]);
}

#[tokio::test]
async fn replay_and_explain_read_the_ledger_and_maintenance_empties_it() {
    let world = World::new().await;
    world.receive([update(1, "Order", 1), update(1, "Order", 2), delete(2, "Order", 1)]).await;
    let target = world.queue.fold().await.unwrap().targets[0];
    let mut connection = world.pool.acquire().await.unwrap();
    let entry = queue::SyncEntry {
        target_id: target,
        key_json: r#"{"order_no": 1}"#.to_owned(),
        action: queue::SyncAction::Updated,
        reason: "as fetched".to_owned(),
        notification_id: None,
        source_changed_at: Some(at(1)),
        fetch_started_at: None,
    };
    let mut journal = queue::Journal::default();
    journal.log(entry);
    journal.commit(world.pool.begin().await.unwrap()).await.unwrap();
    let applied = queue::Applied { inserted: 2, deleted: 1, is_changed: true, is_notified: true };
    queue::note_applied(&mut connection, target, applied).await.unwrap();
    let mut range = ledger::ReplayRange { since: DatabaseTime::default(), until: None, company: Some(1), table: None };
    assert_eq!(ledger::replay(&world.pool, &range).await.unwrap(), 2);
    range.table = Some(TableName::new("oRDER").unwrap());
    range.company = None;
    assert_eq!(ledger::replay(&world.pool, &range).await.unwrap(), 3);
    let subject = ledger::Subject {
        table: TableName::new("order").unwrap(),
        key: key(1),
        key_json: r#"{"order_no": 1}"#.to_owned(),
        folded_key: "[1]".to_owned(),
        has_text: false,
        company: Some(1),
        customer: None,
    };
    let events = ledger::explain(&world.pool, &subject).await.unwrap();
    let mut sources: Vec<_> = events.iter().map(|event| event.source.as_str()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["notification", "sync", "waiting"]);
    let fresh = status::freshness(&world.pool).await.unwrap();
    assert_eq!((fresh.len(), fresh[0].rows, fresh[0].backlog, fresh[0].state.as_str()), (2, 1, 2, "catching up"));

    maintenance::run(&world.pool, Duration::from_hours(30 * 24)).await.unwrap();
    assert_eq!(world.count("select count(*) from nxt_mirror.notification").await, 3);
    world.receive([update(1, "Order", 7)]).await;
    maintenance::run(&world.pool, Duration::ZERO).await.unwrap();
    assert_eq!(world.count("select count(*) from nxt_mirror.notification").await, 1, "what is not folded stays");
    sqlx::query("update nxt_mirror.stream set opened_at = now() - interval '3 days'")
        .execute(&world.pool)
        .await
        .unwrap();
    world.receive([update(1, "Order", 8)]).await;
    assert_eq!(world.count("select count(*) from nxt_mirror.stream").await, 2, "an old stream is given up");
    assert_eq!(world.queue.fold().await.unwrap().notifications, 2);
    maintenance::run(&world.pool, Duration::ZERO).await.unwrap();
    assert_eq!(world.count("select count(*) from nxt_mirror.stream").await, 1);
    assert_eq!(world.count("select count(*) from nxt_mirror.ledger_block").await, 0);
    assert_eq!(world.count("select count(*) from nxt_mirror.sync_log").await, 0);
}

#[tokio::test]
async fn nothing_that_others_lock_stops_receiving() {
    let world = World::new().await;
    world.receive([update(1, "Order", 1)]).await;
    world.queue.fold().await.unwrap();
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query(
        "lock table nxt_mirror.dirty_row, nxt_mirror.target, nxt_mirror.dead_row, nxt_mirror.fold in exclusive mode",
    )
    .execute(&mut *holder)
    .await
    .unwrap();
    let received = tokio::time::timeout(Duration::from_secs(2), world.receive([update(1, "Order", 2)]));
    received.await.unwrap();
    holder.rollback().await.unwrap();
    assert_eq!(world.queue.fold().await.unwrap().notifications, 1);
}

#[tokio::test]
async fn a_database_of_another_version_is_refused() {
    let world = World::new().await;
    assert!(database::is_current(&world.pool).await.unwrap());
    sqlx::query("insert into nxt_mirror.migration values (9999, 'x', now(), true, '\\x00', 0)")
        .execute(&world.pool)
        .await
        .unwrap();
    assert!(!database::is_current(&world.pool).await.unwrap());
    let error = database::migrate(&world.pool).await.unwrap_err().to_string();
    assert!(error.contains("start with a new database") && !error.contains('\n'), "{error}");
}
