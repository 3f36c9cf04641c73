//! A client that follows a stream and stops reading.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use nxt_testkit::Wait;

use super::{TOKEN, builder, start, stream::Events};
use crate::support::app::TestApp;

const WAIT: Wait = Wait::seconds(120).every_millis(50);
/// Entries that are written at once, so few that who reads keeps up.
const BATCH: usize = 500;
/// More of them than what the kernel and the daemon keep for a client.
const BATCHES: usize = 30;
/// As many bytes in entries of which the daemon keeps more than these for a reader.
const FEW: usize = 3_000;

/// Asks for the sync log, and reads no answer.
fn follow(app: &TestApp) -> TcpStream {
    let address = app.daemon.ops.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    write!(
        socket,
        "GET /api/activity?after=0 HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\
         Accept: text/event-stream\r\n\r\n"
    )
    .unwrap();
    socket
}

/// Long entries, as an operator's.
async fn write_entries(app: &TestApp, count: usize, bytes: usize) {
    sqlx::query(
        "insert into nxt_mirror.sync_log (action, reason)
         select 'operator', repeat('x', $2) from generate_series(1, $1)",
    )
    .bind(count as i32)
    .bind(bytes as i32)
    .execute(&app.pool)
    .await
    .unwrap();
}

/// The ids of the events that came whole.
fn ids(text: &str) -> Vec<i64> {
    let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

/// What has come whole until the daemon ends the connection.
async fn seen_until_hung_up_on(stalled: &mut TcpStream) -> Vec<i64> {
    let ended = async || match stalled.take_error() {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    WAIT.until("the connection ends", ended).await.unwrap_or_else(|late| panic!("{late}"));
    let mut text = vec![];
    stalled.read_to_end(&mut text).unwrap();
    ids(&String::from_utf8_lossy(&text))
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_hung_up_on_and_resumes_without_loss() {
    let app = start().await;
    let mut stalled = follow(&app);
    // Who reads is not disturbed, and shows that each batch was handed round.
    let mut reading = Events::open(&app, "?after=0", None).await;
    let mut all = vec![];
    for _ in 0..BATCHES {
        write_entries(&app, BATCH, 2_000).await;
        all.extend(reading.take(BATCH).await.into_iter().map(|(id, _)| id));
    }
    assert_eq!(all.len(), BATCH * BATCHES);

    let mut seen = seen_until_hung_up_on(&mut stalled).await;
    // All but what its side had taken over already is gone: nobody keeps it.
    assert!(!seen.is_empty() && seen.len() < all.len() / 2, "{} of {} came", seen.len(), all.len());

    let mut resumed = Events::open(&app, "?after=0", seen.last().copied()).await;
    let rest = resumed.take(all.len() - seen.len()).await;
    seen.extend(rest.into_iter().map(|(id, _)| id));
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_hung_up_on_in_time_even_when_nothing_new_comes() {
    let mut app = builder().adjust(|settings| settings.ops.taking_max = Duration::from_secs(1)).start().await;
    // All is there before it asks, so that time alone tells.
    write_entries(&app, FEW, 10_000).await;
    let all: Vec<i64> =
        sqlx::query_scalar("select id from nxt_mirror.sync_log order by id").fetch_all(&app.pool).await.unwrap();
    let mut stalled = follow(&app);
    let mut seen = seen_until_hung_up_on(&mut stalled).await;
    assert!(seen.len() < all.len() / 2, "{} of {} came", seen.len(), all.len());

    // By a daemon that is as patient as it is outside of tests.
    app.restart(async |_| {}).await;
    let mut resumed = Events::open(&app, "?after=0", seen.last().copied()).await;
    let rest = resumed.take(all.len() - seen.len()).await;
    seen.extend(rest.into_iter().map(|(id, _)| id));
    assert_eq!(seen, all);
}
