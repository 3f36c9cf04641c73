//! The simulator by itself, since everything else is measured against it.

use nxt_simulator::{Edit, Fault, FaultKind, Oddities, Options, Owner, Simulator, Wording};
use nxt_testkit::object;
use serde_json::{Value, json};

const COMPANY: Owner = Owner::Company(2_000_001);

struct Client {
    simulator: Simulator,
    http: reqwest::Client,
    token: String,
}

impl Client {
    async fn new(options: Options) -> Self {
        let lifetime = options.oddities.token_seconds.unwrap_or(options.token_seconds);
        let simulator = Simulator::start(options).await.unwrap();
        let http = reqwest::Client::new();
        let form = [("grant_type", "client_credentials"), ("scope", "business-graphql-service-api:access-group-based")];
        let answer = http
            .post(simulator.token_url())
            .basic_auth("isv_simulated", Some("simulated-secret"))
            .form(&form)
            .send()
            .await
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["expires_in"], lifetime);
        Self { simulator, http, token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    async fn send(&self, body: &Value) -> reqwest::Response {
        let request = self.http.post(self.simulator.graphql_url()).bearer_auth(&self.token);
        request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap()
    }

    async fn query(&self, query: &str, variables: Value) -> Value {
        self.send(&json!({ "query": query, "variables": variables })).await.json().await.unwrap()
    }
}

#[tokio::test]
async fn a_missing_or_unknown_token_gets_an_html_401() {
    let client = Client::new(Options::default()).await;
    let answer = client.http.post(client.simulator.graphql_url()).bearer_auth("wrong").body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()["x-vbc-traceid"].len(), 32);
    assert!(answer.text().await.unwrap().contains("<html>"));
    let refused =
        client.http.post(client.simulator.token_url()).form(&[("grant_type", "password")]).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.json::<Value>().await.unwrap()["error"].is_string());
}

#[tokio::test]
async fn filters_orders_and_pages_follow_the_source_s_comparison() {
    let client = Client::new(Options { page_rows_max: 2, ..Options::default() }).await;
    for key in ["b", "A", "Æ", "a2", "Z"] {
        client.simulator.put(COMPANY, "Product", object(json!({ "productNo": key }))).unwrap();
    }
    let query = "query($f: FilterExpression_Product, $a: String) { useCompany(no: 2000001) { product(first: 10, after: $a, filter: $f) {
        totalCount pageInfo { hasNextPage endCursor } items { productNo } } } }";
    let mut keys = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let answer = client.query(query, json!({ "a": cursor })).await;
        let page = &answer["data"]["useCompany"]["product"];
        keys.extend(
            page["items"].as_array().unwrap().iter().map(|item| item["productNo"].as_str().unwrap().to_owned()),
        );
        cursor = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
    }
    assert_eq!(keys, ["A", "a2", "b", "Z", "Æ"]);
    let filter = json!({ "_or": [{ "productNo": { "_in": ["B  ", "z"] } }, { "productNo": { "_gt": "y" } }] });
    let answer = client.query(query, json!({ "f": filter })).await;
    assert_eq!(answer["data"]["useCompany"]["product"]["totalCount"], 3, "{answer}");
}

#[tokio::test]
async fn numbers_keep_all_their_digits() {
    let client = Client::new(Options::default()).await;
    let row: Value = serde_json::from_str(
        r#"{"transactionNo": -9007199254740993, "postedAmountDomestic": 12345678901234567890.12345678901}"#,
    )
    .unwrap();
    client.simulator.put(COMPANY, "GeneralLedgerTransaction", object(row)).unwrap();
    let query = "query($no: Long) { useCompany(no: 2000001) { generalLedgerTransaction(first: 1, filter: { transactionNo: { _eq: $no } }) {
        items { transactionNo postedAmountDomestic changedTimestamp } } } }";
    let body = json!({ "query": query, "variables": { "no": -9_007_199_254_740_993_i64 } });
    let text = client.send(&body).await.text().await.unwrap();
    assert!(text.contains(r#""transactionNo":-9007199254740993"#), "{text}");
    assert!(text.contains("12345678901234567890.12345678901"), "{text}");
}

#[tokio::test]
async fn introspection_shows_keys_twins_and_joins() {
    let client = Client::new(Options::default()).await;
    let query =
        "query($n: String!) { __type(name: $n) { name description fields { name description type { kind name } } } }";
    let answer = client.query(query, json!({ "n": "OrderLine" })).await;
    let fields = answer["data"]["__type"]["fields"].as_array().unwrap();
    let field = |name: &str| fields.iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert!(field("lineNo")["description"].as_str().unwrap().starts_with("[PK] Column \"LineNo\""));
    assert!(field("description")["description"].as_str().unwrap().starts_with("Column \""));
    assert_eq!(field("finishDateAsDate")["type"]["name"], "Date");
    assert_eq!(field("joinup_Order")["type"]["kind"], "OBJECT");
    assert_eq!(field("extensions")["type"]["kind"], "OBJECT");
    let unknown = client.query(query, json!({ "n": "Unicorn" })).await;
    assert!(unknown["data"]["__type"].is_null() && unknown["errors"].is_null(), "{unknown}");
}

#[tokio::test]
async fn errors_have_the_documented_forms() {
    let client = Client::new(Options::default()).await;
    let unknown = client.query("{ useCompany(no: 2000001) { order { totalRows } } }", json!({})).await;
    assert_eq!(unknown["errors"][0]["extensions"]["code"], "FIELDS_ON_CORRECT_TYPE");
    let denied = client.query("{ useCompany(no: 1234567) { order { totalCount } } }", json!({})).await;
    assert_eq!(denied["errors"][0].as_object().unwrap().len(), 1, "a message and no more");
    assert_eq!(denied["data"], json!({ "useCompany": { "order": null } }));
    client.simulator.fault(Fault::new(FaultKind::InProgress).times(1));
    let crowded = client.query("{ __typename }", json!({})).await;
    assert_eq!(crowded["errors"][0]["extensions"]["code"], "OUTSTANDING_LIMIT_EXCEEDED");
    assert!(client.query("{ __typename }", json!({})).await["extensions"]["vbnxt-trace-id"].is_string());
}

#[tokio::test]
async fn requests_over_the_limit_of_a_minute_get_a_429_and_are_counted() {
    let client = Client::new(Options { requests_per_minute: 3, ..Options::default() }).await;
    for _ in 0..3 {
        assert_eq!(client.send(&json!({ "query": "{ __typename }" })).await.status(), 200);
    }
    assert_eq!(client.send(&json!({ "query": "{ __typename }" })).await.status(), 429);
    let counters = client.simulator.counters();
    assert_eq!((counters.graphql_requests, counters.rate_violations, counters.peak_per_minute), (4, 1, 3));
}

#[tokio::test]
async fn a_batch_is_answered_in_order() {
    let client = Client::new(Options::default()).await;
    let batch = json!([{ "query": "{ __typename }" }, { "query": "{ availableCompanies { totalCount items { vismaNetCompanyId } } }" }]);
    let answers: Value = client.send(&batch).await.json().await.unwrap();
    assert_eq!(answers[0]["data"]["__typename"], "Query");
    assert_eq!(answers[1]["data"]["availableCompanies"]["totalCount"], 3);
}

#[tokio::test]
async fn the_second_dialect_makes_the_other_choice_in_everything() {
    let oddities = Oddities::second_dialect(Wording::Plain);
    let client = Client::new(Options { oddities, requests_per_minute: 4, ..Options::default() }).await;
    for number in 1..=4 {
        let row = json!({ "queueChangeNo": 9_007_199_254_740_992_i64 + number });
        client.simulator.put(COMPANY, "RetailQueueChange", object(row)).unwrap();
    }
    let query = "query($no: Long) { useCompany(no: 2000001) { retailQueueChange(first: 10, filter: { queueChangeNo: { _gte: $no } }) {
        pageInfo { hasNextPage } items { queueChangeNo } } } }";
    let page = client.query(query, json!({ "no": "9007199254740993" })).await;
    let page = &page["data"]["useCompany"]["retailQueueChange"];
    assert_eq!((page["items"].as_array().unwrap().len(), &page["pageInfo"]["hasNextPage"]), (3, &json!(true)));
    assert_eq!(page["items"][0]["queueChangeNo"], "9007199254740993");
    client.simulator.fault(Fault::new(FaultKind::PartialError).times(1));
    let failed = client.query("{ useCompany(no: 2000001) { order { totalCount } } }", json!({})).await;
    assert_eq!(failed["errors"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["message"]);
    let description = "{ __type(name: \"OrderLine\") { fields { name description } } }";
    let described = client.query(description, json!({})).await.to_string();
    assert!(described.contains("It is part of the primary key") && !described.contains("[PK]"), "{described}");
    client.simulator.set_oddities(|odd| odd.wording = Wording::Silent);
    let described = client.query(description, json!({})).await.to_string();
    assert!(!described.contains("primary key"), "{described}");
    let refused = client.send(&json!({ "query": "{ __typename }" })).await;
    assert_eq!((refused.status().as_u16(), refused.headers().get("retry-after")), (429, None));
}

#[tokio::test]
async fn what_a_session_saves_has_one_time_and_a_hidden_table_is_shown_again() {
    let client = Client::new(Options::default()).await;
    let batch = |no: i64, series: i64| object(json!({ "batchNo": no, "voucherSeriesNo": series }));
    client.simulator.put(COMPANY, "Batch", batch(1, 1)).unwrap();
    let edits = [
        Edit::Delete(COMPANY, "Batch".into(), object(json!({ "batchNo": 1 }))),
        Edit::Put(COMPANY, "Batch".into(), batch(1, 2)),
        Edit::Put(COMPANY, "Batch".into(), batch(2, 3)),
    ];
    client.simulator.save(edits).unwrap();
    let rows = client.simulator.rows(COMPANY, "Batch").unwrap();
    assert_eq!((rows.len(), &rows[0]["voucherSeriesNo"]), (2, &json!(2)));
    assert_eq!(rows[0]["changedTimestamp"], rows[1]["changedTimestamp"]);
    let query = "{ useCompany(no: 2000001) { batch { totalCount } } }";
    client.simulator.hide_table("Batch", true).unwrap();
    assert_eq!(client.query(query, json!({})).await["errors"][0]["extensions"]["code"], "FIELDS_ON_CORRECT_TYPE");
    client.simulator.hide_table("Batch", false).unwrap();
    assert_eq!(client.query(query, json!({})).await["data"]["useCompany"]["batch"]["totalCount"], 2);
}
