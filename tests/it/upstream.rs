//! The client of the API by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{App, HttpResponse, HttpServer, web};
use nxt_mirror::{
    config::UpstreamSettings,
    database::{self, Connector},
    domain::{KeyValue, Observation, Owner, RowKey, TableLevel, TableName, TableSpec, Tenant},
    telemetry::Metrics,
    upstream::{Ask, AskError, Budget, CatalogError, Catalogue, Share, Sight, Upstream, diagnose_part},
};
use nxt_simulator::{Fault, FaultKind, Options, Simulator};
use nxt_testkit::TestDatabase;
use serde_json::{Map, Value as Json, json};

use crate::support;

const COMPANY: i64 = 2_000_001;
const OWNER: nxt_simulator::Owner = nxt_simulator::Owner::Company(COMPANY);

struct Site {
    _database: TestDatabase,
    simulator: Simulator,
    upstream: Upstream,
    catalogue: Catalogue,
}

async fn site() -> Site {
    let options = Options { published_example: false, extra_tables: 60, ..Options::default() };
    let simulator = Simulator::start(options.clone()).await.unwrap();
    let database = support::migrated().await;
    let upstream = upstream(&database, &simulator.token_url(), &simulator.graphql_url()).await;
    let catalogue = Catalogue::new(upstream.clone(), BTreeMap::new(), BTreeMap::new(), Arc::default(), None);
    Site { _database: database, simulator, upstream, catalogue }
}

async fn upstream(database: &TestDatabase, token_url: &str, graphql_url: &str) -> Upstream {
    let options = Options::default();
    let settings = UpstreamSettings {
        client_id: options.client_id,
        client_secret: options.client_secret.into(),
        token_url: token_url.parse().unwrap(),
        scope: "business-graphql-service-api:access-group-based-readonly".into(),
        tenant_id: None,
        graphql_url: graphql_url.parse().unwrap(),
        requests_per_minute: 600,
        in_flight_max: 60,
        fetch_rows_max: 500,
        timezone: chrono_tz::UTC,
    };
    let pool = database::connect(&Connector::to(&database.url().into()).unwrap()).await.unwrap();
    let budget = Budget::new(pool, 600, 60).await.unwrap();
    Upstream::new(&settings, budget, Arc::new(Metrics::new())).unwrap()
}

/// An API with some tables, one of which takes half a minute to describe.
async fn api_with_a_slow_table() -> String {
    let answer = |body: web::Json<Json>| async move {
        let Some(name) = body["variables"].as_object().filter(|_| body["operationName"] != "Tables") else {
            return HttpResponse::Ok().json(list_of_tables());
        };
        if name.values().any(|name| name == "Slow") {
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
        let number = json!({ "kind": "SCALAR", "name": "Int", "ofType": null });
        let columns = json!({ "fields": [{ "name": "no", "description": "[PK]", "type": number }] });
        let types = (0..name.len()).map(|index| (format!("d{index}"), columns.clone()));
        HttpResponse::Ok().json(json!({ "data": types.collect::<Map<_, _>>() }))
    };
    let token = || async { HttpResponse::Ok().json(json!({ "access_token": "a" })) };
    let server = HttpServer::new(move || {
        App::new().route("/token", web::post().to(token)).route("/graphql", web::post().to(answer))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", server.addrs()[0]);
    tokio::spawn(server.run());
    url
}

fn list_of_tables() -> Json {
    let fields: Vec<Json> = ["slow", "a", "b", "c"].map(|name| json!({ "name": name })).into();
    let company = json!({ "name": "useCompany", "type": { "name": "C", "fields": fields, "ofType": null } });
    json!({ "data": { "__schema": { "queryType": { "fields": [company] } } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_description_delays_others_that_travel_with_it_by_seconds_and_later_ones_not_at_all() {
    let url = api_with_a_slow_table().await;
    let database = support::migrated().await;
    let upstream = upstream(&database, &format!("{url}/token"), &format!("{url}/graphql")).await;
    let catalogue = Catalogue::new(upstream, BTreeMap::new(), BTreeMap::new(), Arc::default(), None);
    let begun = std::time::Instant::now();
    assert!(catalogue.peek(TableLevel::Company, &name_of("Slow"), None).is_none());
    let describe = async |name: &str| catalogue.table(TableLevel::Company, &name_of(name), None).await;
    assert!(describe("A").await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    assert!(describe("B").await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(catalogue.peek(TableLevel::Company, &name_of("Slow"), None).is_none());
}

impl Site {
    async fn table(&self, name: &str) -> Result<Arc<TableSpec>, CatalogError> {
        self.catalogue.table(TableLevel::Company, &name_of(name), None).await
    }

    async fn ask(&self, table: &str, keys: &[i64]) -> Ask {
        let keys = keys.iter().map(|&key| RowKey::from_values(vec![KeyValue::Int(key)])).collect();
        Ask { tenant: Tenant::Company(COMPANY), table: self.table(table).await.unwrap(), keys }
    }

    fn put(&self, table: &str, column: &str, keys: &[i64]) {
        for key in keys {
            self.simulator.put(OWNER, table, values(column, *key)).unwrap();
        }
    }

    fn requests(&self) -> u64 {
        self.simulator.counters().graphql_requests
    }
}

fn name_of(name: &str) -> TableName {
    TableName::new(name).unwrap()
}

fn values(column: &str, value: i64) -> Map<String, Json> {
    Map::from_iter([(column.to_owned(), json!(value))])
}

fn is_found(sight: &Sight) -> bool {
    matches!(sight.observation, Observation::Found(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_fails_its_part_is_told_apart_by_one_request() {
    let site = site().await;
    site.put("Order", "orderNo", &[1, 2, 3]);
    site.simulator.fault(Fault { key: values("orderNo", 2), ..Fault::new(FaultKind::PoisonPart) });
    let ask = site.ask("Order", &[1, 2, 3, 4]).await;
    assert!(site.upstream.fetch(std::slice::from_ref(&ask), Share::Live).await.unwrap()[0].is_err());
    let before = site.requests();
    let sights = site.upstream.fetch_apart(&ask, Share::Live).await.unwrap();
    assert_eq!(site.requests() - before, 1);
    assert!(is_found(sights[0].as_ref().unwrap()) && is_found(sights[2].as_ref().unwrap()));
    assert!(matches!(sights[1], Err(AskError::Graphql(_))));
    assert!(matches!(sights[3].as_ref().unwrap().observation, Observation::Missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_lost_a_column_does_not_keep_the_others_from_being_read() {
    let site = site().await;
    site.put("Order", "orderNo", &[1]);
    site.put("Associate", "associateNo", &[7]);
    let asks = [site.ask("Order", &[1]).await, site.ask("Associate", &[7]).await];
    site.simulator.hide_column("Order", "name").unwrap();
    let answers = site.upstream.fetch(&asks, Share::Live).await.unwrap();
    assert_eq!(diagnose_part(answers[0].as_ref().unwrap_err()).owner, Owner::Schema);
    assert!(is_found(&answers[1].as_ref().unwrap()[0]));
    site.catalogue.renew(TableLevel::Company, &name_of("Order"));
    let asks = [site.ask("Order", &[1]).await];
    assert!(is_found(&site.upstream.fetch(&asks, Share::Live).await.unwrap()[0].as_ref().unwrap()[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tables_known_and_unknown_are_looked_up_by_few_requests() {
    let site = site().await;
    let mut arrivals = site.catalogue.arrivals();
    let names: Vec<TableName> = (1..=60).map(|number| name_of(&format!("Extra{number}"))).collect();
    let unknown: Vec<TableName> = (1..=40).map(|number| name_of(&format!("Nowhere{number}"))).collect();
    let peek = |name: &TableName| site.catalogue.peek(TableLevel::Company, name, None);
    assert!(names.iter().chain(&unknown).all(|name| peek(name).is_none()));
    while names.iter().chain(&unknown).any(|name| peek(name).is_none()) {
        tokio::time::timeout(Duration::from_secs(10), arrivals.changed()).await.unwrap().unwrap();
    }
    assert!(names.iter().all(|name| matches!(peek(name), Some(Ok(_)))));
    assert!(unknown.iter().all(|name| matches!(peek(name), Some(Err(CatalogError::Unknown { .. })))));
    // Names gather while a request is under way; how many do depends on how fast this thread asks for them.
    assert!(site.requests() <= 20, "{} requests", site.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_column_renews_its_table_at_once() {
    let site = site().await;
    let old = site.table("Order").await.unwrap();
    site.simulator.add_column("Order", "brandNew", "Int").unwrap();
    let before = site.requests();
    let announced = ["OrderNo".to_owned(), "BrandNew".to_owned()];
    assert!(site.catalogue.announce(&old, &announced));
    let new = site.table("Order").await.unwrap();
    assert!(new.columns.iter().any(|column| column.name == "brandNew"));
    assert_eq!(site.requests() - before, 1);
    assert!(!site.catalogue.announce(&new, &announced));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_found_by_one_probe_and_lookups_wait_for_its_end() {
    let site = site().await;
    site.table("Order").await.unwrap();
    site.simulator.fault(Fault::new(FaultKind::Unavailable));
    let ask = site.ask("Order", &[1]).await;
    let error = site.upstream.fetch(&[ask], Share::Live).await.unwrap_err();
    let before = site.requests();
    let all = futures_util::future::join_all((0..10).map(|_| site.upstream.examine(&error))).await;
    assert!(all.iter().all(|diagnosis| diagnosis.owner == Owner::Api));
    assert_eq!((site.requests() - before, site.upstream.is_away()), (1, true));
    assert!(matches!(site.table("Associate").await, Err(CatalogError::Upstream(_))));
    assert!(site.table("Order").await.is_ok());
    assert_eq!(site.requests() - before, 1, "nothing is sent to an API that is away");
    site.simulator.clear_faults();
    assert!(site.upstream.is_back().await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.table("Associate").await.is_ok());
    assert!(site.upstream.budget().used().await.unwrap() >= 4);
}
