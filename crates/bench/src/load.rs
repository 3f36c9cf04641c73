//! Notifications in bulk: as whole requests, signed beforehand, because whoever sends them shares the machine with what
//! is measured.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::ensure;
use nxt_simulator::Owner;
use nxt_testkit::{SECRET, sign};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Connections of a burst.
pub(super) const CONNECTIONS: usize = 128;
/// Companies of a mixed burst, as the simulator has them, with their customers.
const COMPANIES: [(i64, i64); 3] = [(1_000_001, 2_000_001), (1_000_001, 2_000_002), (4_801_958, 5_199_768)];
/// Tables of a mixed burst, each with its key and the columns that its notifications name.
const TABLES: [(&str, &str, &[&str]); 5] = [
    ("Order", "OrderNo", &["OrderStatus1", "OrderSumNetDomestic", "ChangedTimestamp"]),
    ("Associate", "AssociateNo", &["Name", "AddressLine1", "PostCode", "ChangedTimestamp"]),
    ("GeneralLedgerAccount", "AccountNo", &["TaxCode", "ChangedTimestamp"]),
    ("Batch", "BatchNo", &["ValueDate", "ChangedTimestamp"]),
    ("OrgUnit1", "OrgUnit1No", &["Name", "ChangedTimestamp"]),
];
const TARGETS: u64 = (COMPANIES.len() * TABLES.len()) as u64;

/// Requests to post, one after the other and then again from the first.
#[derive(Debug, Clone)]
pub(super) struct Requests(Arc<[Vec<u8>]>);

impl Requests {
    /// Updates of these orders of one company, whose bodies differ in little but their numbers.
    pub(super) fn orders(numbers: Range<u64>) -> Self {
        Self(numbers.map(|number| request(number, &order(number))).collect())
    }

    /// Updates of so many rows of five tables in three companies, by many users at many times.
    pub(super) fn mixed(rows: u64) -> Self {
        Self((0..rows).map(|number| request(number, &mixed(number))).collect())
    }

    fn get(&self, number: u64) -> &[u8] {
        &self.0[usize::try_from(number).unwrap_or_default() % self.0.len()]
    }
}

/// Rows of the source that the first `rows` of a mixed burst are about: by company and table.
pub(super) fn mixed_rows(rows: u64) -> impl Iterator<Item = (Owner, &'static str, Vec<Map<String, Value>>)> {
    (0..TARGETS).map(move |target| {
        let ((_, company), (table, key, _)) = target_of(target);
        let field = format!("{}{}", key[..1].to_lowercase(), &key[1..]);
        let of_target = (target..rows).step_by(TARGETS as usize);
        let row = |number| Map::from_iter([(field.clone(), json!(number / TARGETS))]);
        (Owner::Company(company), table, of_target.map(row).collect())
    })
}

fn target_of(number: u64) -> ((i64, i64), (&'static str, &'static str, &'static [&'static str])) {
    let target = (number % TARGETS) as usize;
    (COMPANIES[target % COMPANIES.len()], TABLES[target / COMPANIES.len()])
}

fn order(number: u64) -> Value {
    json!({
        "tableIdentifier": "Order", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{ "OrderNo": number }], "timestamp": "2026-01-01T00:00:00.1234567Z",
        "changedByUser": "benchmark", "changedColumns": [{ "ChangedTimestamp": 20_260_101_000_000_123_i64 }],
    })
}

pub(super) fn mixed(number: u64) -> Value {
    let ((customer, company), (table, key, columns)) = target_of(number);
    let chance = scattered(number);
    let (minute, second, fraction) = (chance % 60, chance / 60 % 60, chance / 3_600 % 10_000_000);
    let columns: Vec<Value> = columns
        .iter()
        .map(|&column| match column {
            "ChangedTimestamp" => {
                json!({ column: 20_260_101_080_000_000 + minute * 100_000 + second * 1_000 + fraction / 10_000 })
            }
            _ => json!({ column: chance % 100_000 }),
        })
        .collect();
    json!({
        "tableIdentifier": table, "customerNo": customer, "companyNo": company, "event": "UPDATE",
        "primaryKeys": [{ key: number / TARGETS }],
        "timestamp": format!("2026-01-01T08:{minute:02}:{second:02}.{fraction:07}Z"),
        "changedByUser": format!("user-{}", chance % 40), "changedColumns": columns,
    })
}

/// A number without likeness to its neighbours' (splitmix64).
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn request(number: u64, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let signature = sign(SECRET, body.as_bytes());
    // As random as ids of deliveries are, so that they compress no better.
    let id = format!("{:016x}{:016x}", scattered(number), scattered(!number));
    format!(
        "POST /webhooks/business-nxt HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nx-vwd-signature-v1: {signature}\r\nx-vwd-notification-id: {id}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Posts on all connections until `count` are sent or the time is over; returns how many were accepted.
pub(super) async fn post(host: &str, requests: &Requests, count: u64, until: Instant) -> anyhow::Result<u64> {
    let accepted = Arc::default();
    post_counting(host, requests, count, until, &accepted).await?;
    Ok(accepted.load(Ordering::Relaxed))
}

/// As [`post`], and counts while it goes on.
pub(super) async fn post_counting(
    host: &str,
    requests: &Requests,
    count: u64,
    until: Instant,
    accepted: &Arc<AtomicU64>,
) -> anyhow::Result<()> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..CONNECTIONS as u64 {
        let (host, requests, accepted) = (host.to_owned(), requests.clone(), Arc::clone(accepted));
        lanes.spawn(async move {
            let mut stream = TcpStream::connect(&host).await?;
            stream.set_nodelay(true)?;
            for number in (lane..count).step_by(CONNECTIONS) {
                if Instant::now() > until {
                    break;
                }
                exchange(&mut stream, requests.get(number)).await?;
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    Ok(())
}

async fn exchange(stream: &mut TcpStream, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let (mut answer, mut filled) = ([0; 1_024], 0);
    // The answer's body ends with its only closing brace.
    while !answer[..filled].ends_with(b"}") {
        let read = stream.read(&mut answer[filled..]).await?;
        ensure!(read > 0, "the connection was closed");
        filled += read;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(&answer[..filled]));
    Ok(())
}
