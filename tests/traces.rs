//! Traces of a daemon that is built with the feature `otlp`, as a collector gets them.

#![cfg(feature = "otlp")]

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use nxt_simulator::{Options, Owner};
use nxt_testkit::{Daemon, SECRET, Site, TestDatabase, object};
use serde_json::json;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const COMPANY: Owner = Owner::Company(2_000_001);
/// In milliseconds: longer than any test.
const FOR_EVER: &str = "86400000";

/// A collector that keeps what it is sent.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    /// Starts to listen. Returns its address, too.
    fn start() -> (Self, String) {
        let collector = Self::default();
        let kept = web::Data::new(collector.clone());
        let app = move || App::new().app_data(kept.clone()).route("/v1/traces", web::post().to(keep));
        let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());
        (collector, address)
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

async fn keep(collector: web::Data<Collector>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    assert_eq!(request.headers().get("content-type").unwrap(), "application/x-protobuf");
    collector.0.lock().unwrap().extend_from_slice(&body);
    HttpResponse::Ok().finish()
}

async fn site() -> (Site, TestDatabase) {
    let database = TestDatabase::create().await;
    let options = Options { published_example: false, ..Options::default() };
    let program = env!("CARGO_BIN_EXE_nxt-mirror");
    (Site::new(program, options, &database.url(), &[]).await, database)
}

/// Ends as it does when a service manager asks it to.
async fn end(mut daemon: Daemon) {
    daemon.terminate();
    let status = daemon.ended().await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn what_the_daemon_did_is_told_at_the_latest_when_it_stops_and_nothing_of_the_rows() {
    let (collector, address) = Collector::start();
    let (site, _database) = site().await;
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("traces.log");
    let mut command = site.command(&["serve"]);
    command
        .envs([(ENDPOINT, &*address), ("OTEL_BSP_SCHEDULE_DELAY", FOR_EVER), ("OTEL_SERVICE_NAME", "a-mirror")])
        // Each row has a line there, written while its span lasts.
        .envs([("NXT_LOG", "off,nxt_mirror::story=debug"), ("NXT_LOG_FORMAT", "json")])
        .stderr(File::create(&log).unwrap());
    let daemon = Daemon::start(&mut command);
    let order = json!({ "orderNo": 77_315_522, "name": "Unspoken Zebra" });
    site.simulator.put(COMPANY, "Order", object(order)).unwrap();
    site.settle().await;
    end(daemon).await;

    for told in ["a-mirror", "append", "notifications", "serve", "fetch", "waited_ms", "settle", "rows", "Order"] {
        assert!(collector.has(told), "{told}");
    }
    let lines = std::fs::read_to_string(&log).unwrap();
    assert!(lines.contains("77315522") && !lines.contains("\"span"), "{lines}");
    for secret in ["77315522", "Zebra", "order_no", "story", SECRET] {
        assert!(!collector.has(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_neither_slows_nor_stops_the_daemon() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let (site, _database) = site().await;
    let daemon = site.spawn(&[
        (ENDPOINT, &address),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", FOR_EVER),
        // The first span is under way for ever, and then there is room for one.
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
    ]);
    for number in 1..=20 {
        site.simulator.put(COMPANY, "Order", object(json!({ "orderNo": number }))).unwrap();
        site.settle().await;
    }
    let comparison = site.compare().await;
    assert!(comparison.is_equal() && comparison.rows == 20, "{comparison}");
    end(daemon).await;
}
