//! The operators' API: what it answers, to whom, and what it refuses.

mod accessibility;
mod browser;
mod driver;
mod pages;
mod slow_reader;
mod stream;

use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::object;
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::{Value, json};

use crate::support::app::{Builder, COMPANY, TestApp};

const TOKEN: &str = "operators-token-of-the-test";

/// A request to the operators' listener, with the token.
fn ask(app: &TestApp, method: Method, path: &str) -> RequestBuilder {
    app.http.request(method, format!("{}{path}", app.daemon.ops)).bearer_auth(TOKEN)
}

async fn get(app: &TestApp, path: &str) -> Value {
    let answer = ask(app, Method::GET, path).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// The one line of a refusal.
async fn refusal(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
    let error = body["error"].as_str().unwrap_or_else(|| panic!("{status}: {text}")).to_owned();
    assert!(body.as_object().unwrap().len() == 1 && !error.contains('\n'), "{text}");
    (status, error)
}

async fn start() -> TestApp {
    builder().start().await
}

fn builder() -> Builder {
    TestApp::builder().set("NXT_OPS_TOKEN", TOKEN).set("NXT_FETCH_ROWS_MAX", 4)
}

#[tokio::test]
async fn programs_read_status_activity_and_the_story_of_a_row() {
    let app = start().await;
    for line in 1..=3 {
        app.put("OrderLine", json!({ "orderNo": 7, "lineNo": line }));
    }
    app.put("Order", json!({ "orderNo": 7 }));
    app.settle().await;

    let status = get(&app, "/api/status").await;
    assert_eq!(
        (&status["state"], &status["backlog"], &status["dead_letters"]),
        (&json!("current"), &json!(0), &json!(0))
    );
    assert_eq!((&status["lag_seconds"], &status["api_away_since"]), (&json!(0), &Value::Null));
    assert_eq!(status["budget"]["per_minute"], 600);
    let command: Value = serde_json::from_slice(&app.command(&["status", "--json"]).await.stdout).unwrap();
    let names = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&status), names(&command));
    assert_eq!(status["tables"], command["tables"]);

    let all = get(&app, "/api/activity").await;
    assert_eq!(all.as_array().unwrap().len(), 4);
    let first = &get(&app, "/api/activity?table=order_line&company=2000001&limit=1").await[0];
    for name in ["id", "at", "company_no", "customer_no", "table_name", "key", "action", "reason", "notification_id"] {
        assert!(first.get(name).is_some(), "{name}: {first}");
    }
    assert_eq!((&first["table_name"], &first["action"]), (&json!("OrderLine"), &json!("inserted")));
    let after = get(&app, &format!("/api/activity?after={}&table=OrderLine", first["id"])).await;
    assert_eq!(after.as_array().unwrap().len(), 2);
    assert_eq!(get(&app, "/api/activity?company=2000009").await, json!([]));

    // The order of the key is that of the table, not that of jsonb or of the alphabet.
    let text = ask(&app, Method::GET, "/api/activity?table=OrderLine").send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#""key":{"order_no":7,"line_no":1}"#), "{text}");
    let path = "/api/rows/order_line?company=2000001&line_no=2&orderNo=7";
    let story = get(&app, path).await;
    assert_eq!((&story["table"], &story["key"]), (&json!("OrderLine"), &json!({ "order_no": 7, "line_no": 2 })));
    let sources: Vec<_> = story["events"].as_array().unwrap().iter().map(|event| event["source"].clone()).collect();
    assert_eq!(sources, ["notification", "sync"], "{story}");
}

#[tokio::test]
async fn what_is_done_to_a_dead_letter_is_logged_with_it_or_not_done() {
    let app = start().await;
    let row = object(json!({ "orderNo": 1 }));
    app.simulator.fault(Fault { key: row.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    app.simulator.put(COMPANY, "Order", row).unwrap();
    app.post("not json").await;
    app.settle().await;
    for sql in [
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise 'no log'; end $$",
        "create trigger refuse before insert on nxt_mirror.sync_log for each row when (new.action = 'operator')
         execute function public.refuse()",
    ] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    let letters: Vec<(i64, String)> = sqlx::query_as("select id, kind from nxt_mirror.dead_letter order by kind desc")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    assert_eq!(letters.iter().map(|(_, kind)| kind.as_str()).collect::<Vec<_>>(), ["row", "body"]);
    let retry = format!("/api/dead-letters/{}/retry", letters[0].0);
    assert!(ask(&app, Method::POST, &retry).send().await.unwrap().status().is_server_error());
    for (id, _) in &letters {
        let path = format!("/api/dead-letters/{id}");
        assert!(ask(&app, Method::DELETE, &path).send().await.unwrap().status().is_server_error());
    }
    assert_eq!(app.dead_letters().await.len(), 2);
    sqlx::query("drop trigger refuse on nxt_mirror.sync_log").execute(&app.pool).await.unwrap();
    for (id, _) in &letters {
        let path = format!("/api/dead-letters/{id}");
        assert_eq!(ask(&app, Method::DELETE, &path).send().await.unwrap().status(), 200);
    }
    let logged =
        "select count(*) from nxt_mirror.sync_log where action = 'operator' and reason like 'drop dead letter%'";
    assert_eq!((app.dead_letters().await.len(), app.count(logged).await), (0, 2));
}

#[tokio::test]
async fn actions_do_what_the_commands_do_and_stand_in_the_log_with_who_asked() {
    let app = start().await;
    for number in [2, 3] {
        let key = object(json!({ "orderNo": number }));
        app.simulator.fault(Fault { key, ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    }
    // One that can be read, so that the rows are to blame and not their table.
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.post("not json").await;
    app.settle().await;
    app.simulator.clear_faults();
    let letters: Value =
        serde_json::from_slice(&app.command(&["dead-letters", "list", "--json"]).await.stdout).unwrap();
    let id = |kind: &str, key: Value| {
        let found = letters.as_array().unwrap().iter().find(|letter| letter["kind"] == kind && letter["key"] == key);
        found.unwrap_or_else(|| panic!("{letters}"))["id"].to_string()
    };
    let (row, other, body) =
        (id("row", json!({ "order_no": 2 })), id("row", json!({ "order_no": 3 })), id("body", Value::Null));

    let act =
        async |method: Method, path: String, body: Value| ask(&app, method, &path).json(&body).send().await.unwrap();
    let retry = |id: &str| format!("/api/dead-letters/{id}/retry");
    let done = act(Method::POST, retry(&row), json!({})).await;
    assert_eq!((done.status().as_u16(), done.json::<Value>().await.unwrap()["rows"].clone()), (200, json!(1)));
    app.wait_for("the row is mirrored", 2, "select count(*) from business_nxt.\"order\"").await;
    assert_eq!(refusal(act(Method::POST, retry(&row), json!({})).await).await.0, 404);
    let (status, error) = refusal(act(Method::POST, retry(&body), json!({})).await).await;
    assert!(status == 409 && error.contains("still not understood"), "{status} {error}");
    for id in [&other, &body] {
        assert_eq!(act(Method::DELETE, format!("/api/dead-letters/{id}"), json!({})).await.status(), 200);
        assert_eq!(refusal(act(Method::DELETE, format!("/api/dead-letters/{id}"), json!({})).await).await.0, 404);
    }
    assert!(app.dead_letters().await.is_empty());

    sqlx::query("update business_nxt.\"order\" set name = 'damaged'").execute(&app.pool).await.unwrap();
    let range = json!({ "since": "2020-01-01T00:00:00Z", "company": 2_000_001, "table": "order" });
    let done = act(Method::POST, "/api/replay".into(), range).await;
    assert_eq!((done.status().as_u16(), done.json::<Value>().await.unwrap()["rows"].clone()), (200, json!(3)));
    assert_eq!(app.assert_equal().await, 3);

    sqlx::query("update business_nxt.\"order\" set name = 'damaged'").execute(&app.pool).await.unwrap();
    let named = json!({ "company": [2_000_001], "table": ["Order"], "repair": true });
    assert_eq!(act(Method::POST, "/api/verify".into(), named).await.status(), 202);
    let ended = "select count(*) from nxt_mirror.recent_activity where reason like 'verify: 3 rows compared, 3 differences, 3 repaired, 0 left%'";
    app.wait_for("the comparison ends", 1, ended).await;
    assert_eq!(app.assert_equal().await, 3);

    let asked = "select count(*) from nxt_mirror.recent_activity
                  where action = 'operator' and reason like '%asked by token from 127.0.0.1%'";
    // A retry, two drops, a replay, the beginning and the end of a comparison.
    assert_eq!(app.count(asked).await, 6);
    let told = get(&app, "/api/activity?kind=operator").await;
    assert_eq!(told[0]["key"], json!({ "order_no": 2 }), "{told}");
}

#[tokio::test]
async fn what_is_refused_is_refused_in_one_line() {
    let app = start().await;
    let send = async |request: RequestBuilder| refusal(request.send().await.unwrap()).await;
    let without = |path: &str| app.http.get(format!("{}{path}", app.daemon.ops));
    for path in
        ["/", "/api/status", "/api/activity", "/metrics", "/nowhere", "/api/status?token=operators-token-of-the-test"]
    {
        let (status, error) = send(without(path)).await;
        assert!(status == 401 && error.contains("NXT_OPS_TOKEN"), "{path}: {status} {error}");
    }
    for (value, status) in [
        (format!("bEaReR {TOKEN}"), 200),
        (format!("Bearer {TOKEN}x"), 401),
        ("Bearer ".to_owned(), 401),
        (format!("Basic {TOKEN}"), 401),
        (TOKEN.to_owned(), 401),
    ] {
        let answer = without("/api/status").header(header::AUTHORIZATION, &value).send().await.unwrap();
        assert_eq!(answer.status(), status, "{value}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(without(path).send().await.unwrap().status(), 200);
    }
    for (method, path, status) in [
        (Method::GET, "/nowhere", 404),
        (Method::GET, "/api/rows/Nothing?company=1&no=1", 404),
        (Method::POST, "/api/status", 405),
        (Method::DELETE, "/api/activity", 405),
        (Method::GET, "/api/dead-letters/1/retry", 405),
        (Method::GET, "/api/replay", 405),
        (Method::POST, "/metrics", 405),
        (Method::DELETE, "/api/dead-letters/999", 404),
        (Method::POST, "/api/dead-letters/x/retry", 404),
        (Method::GET, "/api/activity?after=x", 400),
        (Method::GET, "/api/activity?limit=0", 400),
        (Method::GET, "/api/activity?company=x", 400),
        (Method::POST, "/api/replay", 400),
    ] {
        let (found, error) = send(ask(&app, method.clone(), path)).await;
        assert_eq!(found, status, "{method} {path}: {error}");
    }
    for body in ["{", r#"{"since":"soon"}"#, r#"{"since":"2026-01-01T00:00:00Z","tables":"Order"}"#] {
        assert_eq!(send(ask(&app, Method::POST, "/api/replay").body(body)).await.0, 400, "{body}");
    }
    let answer = ask(&app, Method::GET, "/api/status").send().await.unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(header("cache-control").as_deref(), Some("no-store"));
    let policy = header("content-security-policy").unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(header("referrer-policy").as_deref(), Some("same-origin"));
}

/// What never reaches a handler: bodies, forms and parameters that the server's library does not take.
#[tokio::test]
async fn what_no_handler_sees_is_refused_in_the_same_words() {
    let app = start().await;
    let post = |path: &str, body: Vec<u8>| ask(&app, Method::POST, path).body(body).send();
    let large = vec![b' '; 70_000];
    for path in ["/api/replay", "/api/verify"] {
        let (status, error) = refusal(post(path, large.clone()).await.unwrap()).await;
        assert!(status == 413 && error.contains("65536 bytes"), "{path}: {status} {error}");
        for body in ["[]", "null", r#"["2026-01-01T00:00:00Z",null,null,null]"#] {
            let (status, error) = refusal(post(path, body.into()).await.unwrap()).await;
            assert!(status == 400 && error.contains("not a JSON object"), "{path} {body}: {status} {error}");
        }
    }
    let form = |body: Vec<u8>| {
        let request = app.http.post(format!("{}/login", app.daemon.ops)).body(body);
        request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").send()
    };
    assert_eq!(refusal(form([b"token=".to_vec(), large].concat()).await.unwrap()).await.0, 413);
    let (status, error) = refusal(post("/login", vec![]).await.unwrap()).await;
    assert!(status == 400 && error.contains("form"), "{status} {error}");
    for path in ["/api/activity?company=1&company=2", "/tables/Order?company=x", "/api/changes?after=1&after=2"] {
        let (status, error) = refusal(ask(&app, Method::GET, path).send().await.unwrap()).await;
        assert!(status == 400 && !error.contains("eserialize") && !error.contains("digit"), "{path}: {status} {error}");
    }
    for (method, path, allowed) in [
        (Method::POST, "/api/status", "GET"),
        (Method::GET, "/api/replay", "POST"),
        (Method::GET, "/api/dead-letters/1", "DELETE"),
        (Method::PUT, "/login", "GET, POST"),
    ] {
        let answer = ask(&app, method, path).send().await.unwrap();
        assert_eq!(answer.headers().get(header::ALLOW).map(|value| value.to_str().unwrap()), Some(allowed), "{path}");
        assert_eq!(refusal(answer).await.0, 405);
    }
}

#[tokio::test]
async fn without_a_token_everybody_on_this_machine_may_look_and_nobody_may_act() {
    let app = TestApp::start().await;
    let at = |path: &str| format!("{}{path}", app.daemon.ops);
    assert_eq!(app.http.get(at("/api/status")).send().await.unwrap().status(), 200);
    assert_eq!(app.http.get(at("/")).send().await.unwrap().status(), 200);
    for request in [
        app.http.post(at("/api/dead-letters/1/retry")),
        app.http.delete(at("/api/dead-letters/1")),
        app.http.post(at("/api/replay")).body(r#"{"since":"2026-01-01T00:00:00Z"}"#),
        app.http.post(at("/api/verify")),
    ] {
        let (status, error) = refusal(request.send().await.unwrap()).await;
        assert!(status == 403 && error.contains("NXT_OPS_TOKEN"), "{status} {error}");
    }
    // A page of the internet whose name was made to point here.
    let foreign = app.http.get(at("/api/status")).header(header::HOST, "evil.example:9090").send().await.unwrap();
    assert_eq!(refusal(foreign).await.0, 403);
}
