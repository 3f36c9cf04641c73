//! A host that takes no writes any more, and another one that begins to.

use nxt_embedded_postgres::{DATABASE, EmbeddedPostgres};
use nxt_simulator::Options;
use nxt_testkit::{SECRET, Scratch, Site, Wait, compare, free_address, object, sign};
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};

use super::{password, port, tell};
use crate::support::{app::COMPANY, site};

const WAIT: Wait = Wait::seconds(120);

/// A primary, and a standby that follows it.
async fn pair(first: &Scratch, second: &Scratch) -> (EmbeddedPostgres, EmbeddedPostgres) {
    first.start().await.stop().await.unwrap();
    second.copy_from(&first.0);
    let primary = first.start().await;
    let cluster = second.0.join("cluster");
    let conninfo = format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=nxt_mirror password={}'\n",
        port(&primary),
        password(&primary)
    );
    std::fs::write(cluster.join("postgresql.auto.conf"), conninfo).unwrap();
    std::fs::write(cluster.join("standby.signal"), "").unwrap();
    for file in ["postgresql.auto.conf", "standby.signal"] {
        super::own_like(&cluster, &cluster.join(file));
    }
    (primary, second.start().await)
}

struct Watched<'a> {
    site: &'a Site,
    ops: String,
    http: reqwest::Client,
}

impl Watched<'_> {
    async fn post(&self) -> StatusCode {
        let body = json!({
            "tableIdentifier": "Order", "customerNo": 1, "companyNo": 2_000_001, "event": "UPDATE",
            "primaryKeys": [{"OrderNo": 1}], "timestamp": "2026-01-01T00:00:00Z",
        })
        .to_string();
        let url = nxt_testkit::webhook_url(&self.site.public);
        let request = self.http.post(url).header("x-vwd-signature-v1", sign(SECRET, body.as_bytes())).body(body);
        request.send().await.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status())
    }

    async fn ready(&self) -> (StatusCode, Value) {
        let Ok(answer) = self.http.get(format!("http://{}/readyz", self.ops)).send().await else {
            return (StatusCode::BAD_GATEWAY, Value::Null);
        };
        (answer.status(), answer.json().await.unwrap())
    }

    /// Waits until both the receiver and readiness answer like this.
    async fn until(&self, what: &str, posted: StatusCode, ready: StatusCode) {
        let look = async || match (self.post().await, self.ready().await.0) {
            seen if seen == (posted, ready) => Ok(()),
            seen => Err(format!("{seen:?}")),
        };
        WAIT.until(what, look).await.unwrap_or_else(|late| panic!("{late}"));
    }
}

async fn caught_up(primary: &EmbeddedPostgres, standby: &EmbeddedPostgres) {
    let mut here = PgConnection::connect(super::address(primary).as_str()).await.unwrap();
    let mut there = PgConnection::connect(super::address(standby).as_str()).await.unwrap();
    let written: String = sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(&mut here).await.unwrap();
    let look = async || {
        let replayed: bool = sqlx::query_scalar("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn")
            .bind(&written)
            .fetch_one(&mut there)
            .await
            .unwrap();
        if replayed { Ok(()) } else { Err("not replayed".to_owned()) }
    };
    WAIT.until("the standby", look).await.unwrap_or_else(|late| panic!("{late}"));
}

async fn assert_equal(pool: &PgPool, site: &Site) {
    site.simulator.drain().await;
    WAIT.for_settled(pool).await.unwrap_or_else(|late| panic!("{late}"));
    let comparison = compare(pool, &site.simulator).await.unwrap();
    assert!(comparison.is_equal() && comparison.rows > 0, "{comparison}");
}

#[tokio::test]
async fn a_host_that_only_reads_is_left_by_every_part_and_the_next_one_is_used() {
    let (first, second) = (Scratch::new(), Scratch::new());
    let (old, new) = pair(&first, &second).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", port(&new), port(&old));
    let url = format!(
        "postgresql://nxt_mirror:{}@{hosts}/{DATABASE}?sslmode=disable&target_session_attrs=read-write",
        password(&old)
    );
    let ops = free_address();
    let options = Options { published_example: false, ..Options::default() };
    let site = site(options, old.url(DATABASE).expose_secret(), &[("NXT_OPS_LISTEN", &ops)]).await;
    // The standby stands first in the address, and is passed over.
    let daemon = site.spawn(&[("DATABASE_URL", &url)]);
    let watched = Watched { site: &site, ops: ops.clone(), http: reqwest::Client::new() };
    watched.until("the primary is used", StatusCode::ACCEPTED, StatusCode::OK).await;
    site.simulator.put(COMPANY, "Order", object(json!({"orderNo": 7001, "orderDate": 20_260_101}))).unwrap();
    assert_equal(&site.pool, &site).await;

    tell(&old, &["alter system set default_transaction_read_only = on", "select pg_reload_conf()"]).await;
    watched.until("nobody takes writes", StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(watched.ready().await.1, json!({ "error": "no host of the database takes writes; one is looked for" }));
    site.simulator.put(COMPANY, "Order", object(json!({"orderNo": 7002, "orderDate": 20_260_101}))).unwrap();

    caught_up(&old, &new).await;
    tell(&new, &["select pg_promote()"]).await;
    watched.until("the promoted one is used", StatusCode::ACCEPTED, StatusCode::OK).await;
    let pool = PgPool::connect(super::address(&new).as_str()).await.unwrap();
    assert_equal(&pool, &site).await;
    WAIT.for_count(
        "sessions at the old host",
        &site.pool,
        0,
        "select count(*) from pg_stat_activity where application_name like 'nxt-mirror%'",
    )
    .await
    .unwrap_or_else(|late| panic!("{late}"));
    daemon.kill().await;
    drop((old, new));
}
