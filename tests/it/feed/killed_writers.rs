//! Readers of the feed while writers are killed at any moment and transactions stay open.
//!
//! The long form is for a machine that has time:
//!
//! ```sh
//! NXT_FEED_SECONDS=600 cargo test --test it feed::killed_writers::long -- --ignored --nocapture
//! ```

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::{WRITERS, journal, order};
use crate::support::app::{COMPANY, TestApp};

/// How often the server ends a writer's session, in milliseconds.
const KILL_EVERY_MS: std::ops::Range<u64> = 20..200;
/// What there is at least, however slow the machine is.
const ENDED_MIN: u64 = 5;
const WORK_MIN: i64 = 50;

/// What came of it.
#[derive(Default)]
struct Outcome {
    /// Transactions that were seen to commit, by themselves.
    transactions: i64,
    /// Entries that these wrote.
    written: i64,
    /// Sessions that the server ended.
    ended: u64,
    /// Lives of writers that were cut off by their own process.
    cut_off: u64,
    /// Entries that the reader saw.
    read: usize,
    /// Of those that there are at the end.
    missed: usize,
    seen_twice: usize,
    /// Seen, and not there.
    unknown: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transactions, written, ended, cut_off, read, missed, seen_twice, unknown } = self;
        write!(
            f,
            "{written} entries written in {transactions} transactions, {read} read, {missed} missed, {seen_twice} seen \
             twice, {unknown} never written; {ended} sessions ended by the server, {cut_off} writers cut off"
        )
    }
}

#[tokio::test]
async fn a_reader_misses_nothing_when_writers_are_killed_at_any_moment() {
    check(Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "as long as wanted: see the module's documentation"]
async fn long() {
    let seconds = std::env::var("NXT_FEED_SECONDS").map_or(600, |text| text.parse().expect("a number"));
    check(Duration::from_secs(seconds)).await;
}

async fn check(duration: Duration) {
    let app = TestApp::start().await;
    app.simulator.put(COMPANY, "Order", order(1, "one")).unwrap();
    app.settle().await;
    let prepare = "truncate nxt_mirror.change_log, nxt_mirror.sync_log;
                   create table public.work (writer bigint not null, entries bigint not null)";
    sqlx::raw_sql(prepare).execute(&app.pool).await.unwrap();
    let url = app.database.url();
    // Open all the time: somebody's own transaction, and a writer's that stands still before its commit.
    let mut open = PgConnection::connect(&url).await.unwrap();
    let mut open = open.begin().await.unwrap();
    sqlx::query("insert into public.work values (-1, 0)").execute(&mut *open).await.unwrap();
    let mut frozen = PgConnection::connect(&url).await.unwrap();
    let mut frozen = frozen.begin().await.unwrap();
    sqlx::query("insert into public.work values (-2, 1)").execute(&mut *frozen).await.unwrap();

    let (enough, written) = (CancellationToken::new(), CancellationToken::new());
    let work = async {
        let writers = join_all((0..WRITERS).map(|number| write(&url, number, &enough)));
        let (cut_off, ended) = tokio::join!(writers, end_sessions(&app.pool, Instant::now() + duration, &enough));
        journal(0, 0).commit(frozen).await.unwrap();
        written.cancel();
        (cut_off.iter().sum(), ended)
    };
    let (changes, activity, (cut_off, ended)) = tokio::join!(
        follow(&app.pool, "nxt_mirror.change", "position", &written),
        follow(&app.pool, "nxt_mirror.recent_activity", "id", &written),
        work
    );
    for (name, seen, log) in [("feed", changes, "change_log"), ("activity", activity, "sync_log")] {
        let outcome = Outcome { ended, cut_off, ..compare(&app.pool, seen, log).await };
        eprintln!("{name} in {} s: {outcome}", duration.as_secs());
        assert_eq!((outcome.missed, outcome.seen_twice, outcome.unknown), (0, 0, 0), "{name}: {outcome}");
        assert_eq!(outcome.read as i64, outcome.written, "{name} and transactions tell the same: {outcome}");
    }
    open.rollback().await.unwrap();
}

/// Lives of a writer, one after the other, each cut off somewhere. Returns their number.
async fn write(url: &str, number: u64, enough: &CancellationToken) -> u64 {
    let mut random = StdRng::seed_from_u64(number);
    let mut lives = 0;
    while !enough.is_cancelled() {
        let life = Duration::from_millis(random.random_range(50..3_000));
        let pauses = StdRng::seed_from_u64(random.random());
        match PgConnection::connect(url).await {
            // Cut off, the connection is closed where it is, as when its process is killed. An error is the server's
            // doing.
            Ok(connection) => _ = tokio::time::timeout(life, live(connection, number, pauses)).await,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        lives += 1;
    }
    lives
}

async fn live(mut connection: PgConnection, number: u64, mut random: StdRng) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("set application_name = 'killed writer'").execute(&mut connection).await?;
    for commit in 0.. {
        let mut transaction = connection.begin().await?;
        sqlx::query("insert into public.work values ($1, $2)")
            .bind(number as i64)
            .bind(1 + (commit % 3) as i64)
            .execute(&mut *transaction)
            .await?;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..30))).await;
        journal(number, commit).commit(transaction).await?;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
    }
    Ok(())
}

/// Has the server end one writer's session after the other, wherever it is, until the time is over and enough was
/// written and ended. Returns how many sessions were.
async fn end_sessions(pool: &PgPool, ends_at: Instant, enough: &CancellationToken) -> u64 {
    let mut random = StdRng::seed_from_u64(99);
    let mut ended = 0;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
                where datname = current_database() and application_name = 'killed writer' order by random() limit 1";
    let is_written = async || {
        let count = sqlx::query_scalar::<_, i64>("select count(*) from public.work").fetch_one(pool).await;
        count.expect("the work is counted") >= WORK_MIN
    };
    while Instant::now() < ends_at || ended < ENDED_MIN || !is_written().await {
        tokio::time::sleep(Duration::from_millis(random.random_range(KILL_EVERY_MS))).await;
        ended += sqlx::query(end).execute(pool).await.expect("sessions can be ended").rows_affected();
    }
    enough.cancel();
    ended
}

/// A reader: remembers the greatest number seen, and asks for greater ones, until all is written and nothing comes.
async fn follow(pool: &PgPool, view: &str, number: &str, written: &CancellationToken) -> Vec<i64> {
    let sql = format!("select {number} from {view} where {number} > $1 order by {number} limit 100");
    let (mut seen, mut greatest) = (vec![], 0_i64);
    loop {
        let is_written = written.is_cancelled();
        let next: Vec<i64> =
            sqlx::query_scalar(AssertSqlSafe(&*sql)).bind(greatest).fetch_all(pool).await.expect("the view is read");
        greatest = next.last().copied().unwrap_or(greatest);
        match next.is_empty() {
            true if is_written => return seen,
            true => tokio::time::sleep(Duration::from_millis(5)).await,
            false => seen.extend(next),
        }
    }
}

/// What was seen against what there is, and that against the work that went with it.
async fn compare(pool: &PgPool, seen: Vec<i64>, log: &str) -> Outcome {
    let number = if log == "change_log" { "position" } else { "id" };
    let stored = format!("select {number} from nxt_mirror.{log} order by 1");
    let stored: BTreeSet<i64> =
        sqlx::query_scalar(AssertSqlSafe(stored)).fetch_all(pool).await.unwrap().into_iter().collect();
    let work = "select count(*), coalesce(sum(entries), 0)::bigint from public.work";
    let (transactions, written) = sqlx::query_as(work).fetch_one(pool).await.unwrap();
    let distinct: BTreeSet<i64> = seen.iter().copied().collect();
    Outcome {
        transactions,
        written,
        read: seen.len(),
        missed: stored.difference(&distinct).count(),
        seen_twice: seen.len() - distinct.len(),
        unknown: distinct.difference(&stored).count(),
        ..Outcome::default()
    }
}
