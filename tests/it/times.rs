//! What is decided by times, where clocks and zones are not what they should be.

use nxt_testkit::object;
use serde_json::json;

use crate::support::app::{COMPANY, TestApp};

const LOADED: &str = "select count(*) from nxt_mirror.walk where finished_at is not null";
const ORDERS: &str = "select count(*) from business_nxt.\"order\"";

/// An order whose notification is lost, dated by the source as given.
fn lose(app: &TestApp, number: i64, changed_at: Option<&str>) {
    let mut order = object(json!({ "orderNo": number, "name": "lost" }));
    if let Some(changed_at) = changed_at {
        order.insert("changedTimestamp".to_owned(), changed_at.into());
    }
    app.simulator.put_all(COMPANY, "Order", &[order], false).unwrap();
}

fn from_now(minutes: i64) -> String {
    (chrono::Utc::now() + chrono::Duration::minutes(minutes)).naive_utc().format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

#[tokio::test]
async fn sweeps_find_what_was_lost_whatever_the_clocks_say() {
    let mut app = TestApp::builder().set("NXT_TABLES", "Order").set("NXT_SWEEP_SECONDS", 0).start().await;
    app.wait_for("the load", 3, LOADED).await;
    // The first sweep reaches back to when the load began, however long that took.
    lose(&app, 1, Some(&from_now(-40)));
    app.set("NXT_SWEEP_SECONDS", 1);
    app.restart(async |pool| {
        let sql = "update nxt_mirror.walk set started_at = now() - interval '1 hour'";
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    })
    .await;
    app.wait_for("what changed during the load", 1, ORDERS).await;
    // What is dated in the future is mirrored, and moves no watermark beyond now.
    lose(&app, 2, Some(&from_now(180)));
    app.wait_for("a change of tomorrow", 2, ORDERS).await;
    let ahead = "select count(*) from nxt_mirror.sweep where watermark > clock_timestamp()";
    assert_eq!(app.count(ahead).await, 0);
    lose(&app, 3, None);
    app.wait_for("a change beside it", 3, ORDERS).await;
    // The hour by which the database's clock was set back lies before all that is remembered.
    app.restart(async |pool| {
        let sql = "update nxt_mirror.sweep
                      set watermark = now() + interval '1 hour', swept_at = now() + interval '1 hour';
                   update nxt_mirror.walk
                      set started_at = started_at + interval '2 hours', finished_at = now() + interval '1 hour',
                          last_finished_at = now() + interval '1 hour'";
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    })
    .await;
    lose(&app, 4, None);
    app.wait_for("a change after the clock was set back", 4, ORDERS).await;
    app.wait_for("watermarks of the future", 0, ahead).await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 2 }))).unwrap();
    assert_eq!(app.assert_equal().await, 3);
}

/// In Oslo it is 2:59 and then 2:00 again: what is changed later may be dated earlier.
#[tokio::test]
async fn what_is_changed_in_the_hour_that_comes_twice_is_swept_and_deleted() {
    let mut app = TestApp::builder()
        .set("NXT_TABLES", "Order")
        .set("NXT_SOURCE_TIMEZONE", "Europe/Oslo")
        .set("NXT_SWEEP_SECONDS", 1)
        .start()
        .await;
    app.wait_for("the load", 3, LOADED).await;
    // Each has its watermark from here on: one that came after the restart would begin at today's load.
    app.wait_for("a sweep of each", 3, "select count(*) from nxt_mirror.sweep").await;
    app.restart(async |pool| {
        // 2:50, for the first time.
        let sql = "update nxt_mirror.sweep set watermark = '2026-10-25T00:50:00Z'";
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    })
    .await;
    lose(&app, 1, Some("2026-10-25T02:05:00"));
    app.wait_for("a change at 2:05, for the second time", 1, ORDERS).await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 1 }))).unwrap();
    app.wait_for("the deletion", 0, ORDERS).await;
}
