//! Following the sync log live.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use super::{ask, get, start};
use crate::support::app::TestApp;

/// A stream as a browser reads it.
pub(super) struct Events {
    response: Response,
    text: String,
}

impl Events {
    pub(super) async fn open(app: &TestApp, query: &str, last_event_id: Option<i64>) -> Self {
        Self::of(app, &format!("/api/activity{query}"), last_event_id).await
    }

    async fn of(app: &TestApp, path: &str, last_event_id: Option<i64>) -> Self {
        let mut request = ask(app, Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        Self { response, text: String::new() }
    }

    /// The next events, so many of them: their ids and entries.
    pub(super) async fn take(&mut self, count: usize) -> Vec<(i64, Value)> {
        let mut events = vec![];
        while events.len() < count {
            let Some((event, rest)) = self.text.split_once("\n\n") else {
                let chunk = self.response.chunk().await.unwrap().expect("the stream goes on");
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
                continue;
            };
            if let Some((id, data)) = event.split_once("\ndata: ") {
                let id: i64 = id.strip_prefix("id: ").unwrap().parse().unwrap();
                let entry: Value = serde_json::from_str(data).unwrap();
                assert!(entry["id"] == id || entry["position"] == id, "{entry}");
                events.push((id, entry));
            }
            self.text = rest.to_owned();
        }
        events
    }
}

fn put(app: &TestApp, table: &str, numbers: std::ops::RangeInclusive<i64>) {
    let key = if table == "Order" { "orderNo" } else { "productNo" };
    for number in numbers {
        let value = if table == "Order" { json!(number) } else { json!(number.to_string()) };
        app.put(table, json!({ key: value }));
    }
}

#[tokio::test]
async fn a_stream_that_breaks_misses_nothing_and_sees_nothing_twice() {
    let app = start().await;
    put(&app, "Order", 1..=3);
    app.settle().await;
    // With neither position it begins with what comes next.
    let mut next = Events::open(&app, "", None).await;
    let mut products = Events::open(&app, "?table=product", None).await;
    let mut all = Events::open(&app, "?after=0", None).await;
    let mut seen: Vec<i64> = all.take(3).await.into_iter().map(|(id, _)| id).collect();
    drop(all);
    put(&app, "Order", 4..=20);
    put(&app, "Product", 1..=2);
    app.settle().await;
    let named: Vec<_> = products.take(2).await.into_iter().map(|(_, entry)| entry["table_name"].clone()).collect();
    assert_eq!(named, ["Product", "Product"]);
    // The position of the client that comes back beats the one in its address.
    for batch in [5, 7] {
        let mut resumed = Events::open(&app, "?after=0", seen.last().copied()).await;
        seen.extend(resumed.take(batch).await.into_iter().map(|(id, _)| id));
    }
    let mut resumed = Events::open(&app, "?after=0", seen.last().copied()).await;
    seen.extend(resumed.take(7).await.into_iter().map(|(id, _)| id));
    let stored: Vec<i64> = get(&app, "/api/activity?limit=1000")
        .await
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].as_i64().unwrap())
        .collect();
    assert_eq!(seen, stored);
    let came: Vec<i64> = next.take(19).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(came, stored[3..]);
    // The rest comes live, while others write.
    put(&app, "Order", 21..=60);
    let live: Vec<i64> = resumed.take(40).await.into_iter().map(|(id, _)| id).collect();
    assert!(live.windows(2).all(|pair| pair[0] < pair[1]) && live[0] > *seen.last().unwrap(), "{live:?}");

    // The feed is followed in the same way.
    let list = get(&app, "/api/changes?limit=1000").await;
    let positions: Vec<i64> =
        list.as_array().unwrap().iter().map(|change| change["position"].as_i64().unwrap()).collect();
    assert_eq!(positions.len(), 62);
    let mut changes = Events::of(&app, "/api/changes?after=0", Some(positions[59])).await;
    let rest: Vec<i64> = changes.take(2).await.into_iter().map(|(position, _)| position).collect();
    assert_eq!(rest, positions[60..]);
    put(&app, "Product", 3..=3);
    let (_, change) = changes.take(1).await.remove(0);
    for name in [
        "position",
        "at",
        "company_no",
        "customer_no",
        "table_name",
        "key",
        "action",
        "changed_by",
        "changed_columns",
        "source_changed_at",
        "notification_id",
    ] {
        assert!(change.get(name).is_some(), "{name}: {change}");
    }
    assert_eq!((&change["action"], &change["table_name"]), (&json!("insert"), &json!("Product")));
    assert_eq!(change["key"], json!({ "product_no": "3" }));
}
