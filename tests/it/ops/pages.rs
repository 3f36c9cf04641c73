//! The operators' pages as they are served, without a browser.

use nxt_simulator::{Fault, FaultKind};
use nxt_testkit::object;
use reqwest::{Client, Method, Response, header, redirect::Policy};
use serde_json::json;

use super::{TOKEN, get, refusal, start};
use crate::support::app::{COMPANY, TestApp};

/// Bytes of the overview with everything that it loads.
const WEIGHT_MAX: usize = 100_000;

fn browser() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

async fn page(app: &TestApp, cookie: &str, path: &str) -> Response {
    let request = browser().get(format!("{}{path}", app.daemon.ops)).header(header::COOKIE, cookie);
    request.header(header::ACCEPT, "text/html").send().await.unwrap()
}

async fn text(app: &TestApp, cookie: &str, path: &str) -> String {
    let answer = page(app, cookie, path).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.text().await.unwrap()
}

async fn give(app: &TestApp, token: &str) -> Response {
    browser().post(format!("{}/login", app.daemon.ops)).form(&[("token", token)]).send().await.unwrap()
}

/// Logs in; the cookie.
async fn log_in(app: &TestApp) -> String {
    let answer = give(app, TOKEN).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (303, &header::HeaderValue::from_static("/"))
    );
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict") && cookie.contains("Max-Age="),
        "{cookie}"
    );
    assert!(!cookie.contains(TOKEN), "{cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

/// What stands in the element with an id, without the tags in it.
fn held<'a>(page: &'a str, id: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {page}"));
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split('<').next().unwrap()
}

#[tokio::test]
async fn figures_with_an_id_are_numbers_however_great() {
    let app = start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    sqlx::query(
        "insert into nxt_mirror.dirty_row (target_id, row_key, due_at, waiting_since, announced)
         select id, format('{\"orderno\":%s}', number), now() + interval '1 day', now() - interval '1 hour', false
           from nxt_mirror.target, generate_series(100001, 101234) as number",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into nxt_mirror.dead_row (target_id, row_key, reason, attempts, announced, of_target)
         select id, format('{\"orderno\":%s}', number), 'made up', 1, false, false
           from nxt_mirror.target, generate_series(200001, 201111) as number",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    let cookie = log_in(&app).await;
    let overview = text(&app, &cookie, "/").await;
    assert_eq!((held(&overview, "backlog"), held(&overview, "dead-letters")), ("1234", "1111"));
    for id in ["lag", "budget", "received"] {
        assert!(held(&overview, id).parse::<f64>().is_ok(), "{id}: {}", held(&overview, id));
    }
    assert!(held(&overview, "lag").parse::<u64>().is_ok_and(|lag| lag >= 3_600), "{}", held(&overview, "lag"));
}

#[tokio::test]
async fn the_overview_tells_percentiles_of_the_lag() {
    let app = start().await;
    // Samples that the daemon takes itself are too few to matter.
    sqlx::query(
        "insert into nxt_mirror.sample
             (at, received, applied, failed, lag_seconds, backlog, live_requests, walk_requests, block_id, log_id)
         select now() - interval '3 seconds' * number, 0, 0, 0,
                case when number <= 600 then 5 when number <= 970 then 20 else 60 end, 0, 0, 0, 0, 0
           from generate_series(1, 1000) as number",
    )
    .execute(&app.pool)
    .await
    .unwrap();
    let cookie = log_in(&app).await;
    assert_eq!(held(&text(&app, &cookie, "/").await, "percentiles"), "p50 5 s, p95 20 s, p99 60 s");
}

#[tokio::test]
async fn names_stand_beside_identifiers_and_numbers_and_are_text_whatever_they_hold() {
    let mut app = start().await;
    let hostile = r#"<img src=x onerror=alert(1)>"' & Söner"#;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    // What is asked for already must not come in between.
    let labels = "select count(*) from nxt_mirror.explanation where table_name = 'Order' and answered_at = asked_at
                     and language is not null";
    app.wait_for("labels", 1, labels).await;
    // As the daemon keeps them; another one must not ask for them again while this is looked at.
    app.restart(async |pool| {
        for sql in [
            "update nxt_mirror.tenant_names set asked_at = now() + interval '1 day'",
            "insert into business_nxt_model.company (company_no, name) values (2000001, $1)
             on conflict (company_no) do update set name = excluded.name",
            "update nxt_mirror.explanation
                set label = 'Ordre ' || $1, column_labels = jsonb_build_object('orderno', 'Nr. ' || $1),
                    asked_at = now() + interval '1 day', answered_at = now() + interval '1 day'",
        ] {
            let query = sqlx::query(sql);
            let query = if sql.contains("$1") { query.bind(hostile) } else { query };
            query.execute(pool).await.unwrap();
        }
    })
    .await;
    let cookie = log_in(&app).await;
    let escaped = "&lt;img src=x onerror=alert(1)&gt;&quot;' &amp; Söner</bdi>";
    let row = "/rows/Order?company=2000001&orderNo=1";
    for path in ["/", "/activity", "/tables/Order?company=2000001", row] {
        let page = text(&app, &cookie, path).await;
        assert!(!page.contains("<img src=x"), "{path}: {page}");
        let told = page.replace(">&lt;", "> &lt;");
        assert!(told.contains(&format!("> {escaped}")), "the company's name on {path}: {page}");
        assert!(page.contains("company 2000001"), "the number stays on {path}");
        assert!(page.contains(&format!(">Ordre {escaped}")), "the label on {path}: {page}");
    }
    let target = text(&app, &cookie, "/tables/Order?company=2000001").await;
    assert!(target.contains(&format!(">Nr. {escaped}")), "{target}");
    // What the script is told of lines that come later.
    let names = page(&app, &cookie, "/names").await.json::<serde_json::Value>().await.unwrap();
    assert_eq!(names["companies"]["2000001"], hostile, "{names}");
    assert_eq!(names["tables"]["Order"], format!("Ordre {hostile}"), "{names}");
    assert_eq!(page(&app, "", "/names").await.status(), 303);
    // Programs get what the contract names, and nothing else.
    let entry = get(&app, "/api/activity?limit=1").await[0].clone();
    assert!(!entry.to_string().contains("Söner"), "{entry}");
}

#[tokio::test]
async fn pages_show_their_figures_without_javascript_and_only_to_who_logged_in() {
    let app = start().await;
    app.put("OrderLine", json!({ "orderNo": 7, "lineNo": 1 }));
    let poison = object(json!({ "orderNo": 2 }));
    app.simulator.fault(Fault { key: poison.clone(), ..Fault::new(FaultKind::PoisonPart).on(COMPANY, Some("Order")) });
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number }));
    }
    app.post("<b>not json</b>").await;
    app.settle().await;

    // A person is led to the form, a program is refused; neither sees anything.
    let stranger = page(&app, "", "/").await;
    assert_eq!(
        (stranger.status().as_u16(), &stranger.headers()["location"]),
        (303, &header::HeaderValue::from_static("/login"))
    );
    assert!(text(&app, "", "/login").await.contains("name=\"token\""));
    let cookie = log_in(&app).await;

    let overview = text(&app, &cookie, "/").await;
    let title = overview.split_once("<title>").unwrap().1.split('<').next().unwrap();
    assert!(title.starts_with("nxt-mirror"), "{title}");
    assert_eq!(held(&overview, "state"), "degraded");
    for id in ["lag", "backlog", "budget", "received"] {
        assert!(held(&overview, id).starts_with(|first: char| first.is_ascii_digit()), "{id}: {}", held(&overview, id));
    }
    let activity = overview.split_once("id=\"activity\"").unwrap().1;
    assert!(activity.contains("/rows/OrderLine?company=2000001&amp;order_no=7&amp;line_no=1"), "{activity}");
    assert!(overview.contains("/tables/OrderLine?company=2000001"));

    let mut weight = overview.len();
    for asset in overview
        .split(['"', '\''])
        .filter(|text| text.starts_with("/assets/"))
        .collect::<std::collections::BTreeSet<_>>()
    {
        let answer = page(&app, "", asset).await;
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{asset}");
        weight += answer.bytes().await.unwrap().len();
    }
    assert!(weight < WEIGHT_MAX, "{weight} bytes");

    let target = text(&app, &cookie, "/tables/order_line?company=2000001").await;
    assert!(target.contains("business_nxt.order_line") && target.contains("line_no"), "{target}");
    let row = text(&app, &cookie, "/rows/OrderLine?company=2000001&orderNo=7&lineNo=1").await;
    assert!(row.contains("Notified: INSERT") && row.contains("Added to the mirror"), "{row}");
    let filtered = text(&app, &cookie, "/activity?table=order_line&kind=inserted&key=7&company=2000001").await;
    assert_eq!(filtered.matches("<li data-id").count(), 1);
    assert_eq!(text(&app, &cookie, "/activity?key=4711").await.matches("<li data-id").count(), 0);
    // What came from outside is shown as text.
    let letters = text(&app, &cookie, "/dead-letters").await;
    assert!(letters.contains("&lt;b&gt;not json&lt;/b&gt;") && !letters.contains("<b>not json"), "{letters}");
    assert!(letters.contains("Order <b>2</b>"), "{letters}");
    assert_eq!(page(&app, &cookie, "/rows/Nothing?company=1&no=1").await.status(), 404);
}

#[tokio::test]
async fn a_session_acts_from_its_own_pages_alone_until_it_ends() {
    let app = start().await;
    app.post("not json").await;
    let wrong = give(&app, "operators-token-of-the-tesT").await;
    assert!(wrong.status() == 401 && wrong.headers().get("set-cookie").is_none());
    let cookie = log_in(&app).await;
    let id = app.count("select id from nxt_mirror.dead_letter").await;
    let drop_it = async |name: &'static str, value: &str| {
        let request = browser().request(Method::DELETE, format!("{}/api/dead-letters/{id}", app.daemon.ops));
        request.header(header::COOKIE, &cookie).header(name, value).send().await.unwrap()
    };
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        assert_eq!(refusal(drop_it(name, value).await).await.0, 403, "{name}: {value}");
    }
    assert_eq!(drop_it("origin", &app.daemon.ops).await.status(), 200);
    let asked = "select count(*) from nxt_mirror.recent_activity where reason like '%asked by session from 127.0.0.1'";
    assert_eq!(app.count(asked).await, 1);

    let out =
        browser().post(format!("{}/logout", app.daemon.ops)).header(header::COOKIE, &cookie).send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(page(&app, &cookie, "/").await.status(), 303);
    // Whoever guesses has to wait, with the right token, too.
    for _ in 0..5 {
        assert_eq!(give(&app, "guess").await.status(), 401);
    }
    assert_eq!(give(&app, TOKEN).await.status(), 429);
}
