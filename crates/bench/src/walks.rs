//! Whole tables: the first load beside a client that only pages, the load that is killed again and again, and repair
//! beside live changes.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Options, Owner, Simulator};
use nxt_testkit::{Site, recreate};
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use tokio::process::Child;

use super::{Bench, DATABASE, command, economy, latency};

const COMPANY: i64 = 2_000_001;
const LARGE: &str = "GeneralLedgerTransaction";
const EXTRA_TABLES: u32 = 50;
const EXTRA_ROWS: i64 = 2_000;
/// What the mirror asks for as well.
const PAGE_ROWS: usize = 3_800;
const KILLS: usize = 5;

pub(super) async fn measure(server: &EmbeddedPostgres, rows: i64) -> anyhow::Result<()> {
    let walked = Walked::take(server, rows).await?;
    let Walked { site, before, after, load, verified, requests } = &walked;
    let total = load.rows;
    println!(
        "rows paged by a client that does nothing else  {:>8.0} /s before, {:.0} /s after",
        before.rate(),
        after.rate()
    );
    println!(
        "rows loaded, {total} rows of {} tables        {:>8.0} /s, ratio {:.2}; {:.2} API requests a 1,000 rows",
        EXTRA_TABLES + 1,
        load.rate(),
        load.rate() / walked.bare_rate(),
        *requests as f64 * 1_000.0 / total as f64,
    );
    println!("resident memory of the load, at most           {:>8.1} MiB", load.resident);
    println!(
        "rows verified equal                            {:>8.0} /s, {:.1} MiB at most",
        verified.rate(),
        verified.resident
    );

    // The same source again, and an empty database.
    recreate(&server.url("postgres"), DATABASE).await?;
    let before = site.simulator.counters();
    backfill(site, total, KILLS).await?;
    let after = site.simulator.counters();
    verify(site, total).await?;
    println!(
        "load killed {KILLS} times: {} rows read more than once of {total}, {} API requests; verified equal",
        after.rows_returned - before.rows_returned - u64::try_from(total)?,
        after.graphql_requests - before.graphql_requests,
    );
    Ok(())
}

/// A load and a verification beside a client that does nothing but page.
pub(super) struct Walked {
    site: Site,
    before: Run,
    after: Run,
    pub(super) load: Run,
    pub(super) verified: Run,
    /// That the load sent.
    requests: u64,
}

impl Walked {
    /// Walks one table of so many rows, and small ones.
    pub(super) async fn take(server: &EmbeddedPostgres, rows: i64) -> anyhow::Result<Self> {
        let site = stocked(server, rows).await?;
        let total = rows + i64::from(EXTRA_TABLES) * EXTRA_ROWS;
        let before = page_through(&site.simulator).await?;
        ensure!(before.rows == total, "the bare client saw {} of {total} rows", before.rows);
        let sent_before = site.simulator.counters().graphql_requests;
        let load = backfill(&site, total, 0).await?;
        let requests = site.simulator.counters().graphql_requests - sent_before;
        let after = page_through(&site.simulator).await?;
        let verified = verify(&site, total).await?;
        Ok(Self { site, before, after, load, verified, requests })
    }

    /// Rows a second that the bare client paged through.
    pub(super) fn bare_rate(&self) -> f64 {
        f64::midpoint(self.before.rate(), self.after.rate())
    }
}

/// Rows over time.
pub(super) struct Run {
    rows: i64,
    elapsed: Duration,
    resident: f64,
}

impl Run {
    pub(super) fn rate(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64()
    }
}

async fn stocked(server: &EmbeddedPostgres, rows: i64) -> anyhow::Result<Site> {
    let options = Options {
        extra_tables: EXTRA_TABLES,
        companies: vec![(1_000_001, COMPANY)],
        // The bare client's requests would count against the mirror's.
        requests_per_minute: 1_000_000,
        ..Options::default()
    };
    let site = super::site(server, options).await?;
    let put = |table: &str, key: &str, count: i64| -> anyhow::Result<()> {
        let numbers: Vec<i64> = (1..=count).collect();
        for chunk in numbers.chunks(10_000) {
            let row = |number: &i64| {
                let mut row = Map::new();
                row.insert(key.into(), json!(number));
                row.insert("text".into(), json!(format!("Bilag {number}, konto æøå")));
                row.insert("accountNo".into(), json!(1_000 + number % 500));
                row
            };
            site.simulator.put_all(
                Owner::Company(COMPANY),
                table,
                &chunk.iter().map(row).collect::<Vec<_>>(),
                false,
            )?;
        }
        Ok(())
    };
    put(LARGE, "transactionNo", rows)?;
    for number in 1..=EXTRA_TABLES {
        put(&format!("Extra{number}"), "rowNo", EXTRA_ROWS)?;
    }
    Ok(site)
}

fn tables() -> impl Iterator<Item = String> {
    std::iter::once(LARGE.to_owned()).chain((1..=EXTRA_TABLES).map(|number| format!("Extra{number}")))
}

fn all_tables() -> String {
    tables().collect::<Vec<_>>().join(",")
}

/// Pages through every table by keyset with all its columns, one request after the other, and reads the answers.
async fn page_through(simulator: &Simulator) -> anyhow::Result<Run> {
    let http = reqwest::Client::new();
    let form = [
        ("grant_type", "client_credentials".to_owned()),
        ("client_id", Options::default().client_id),
        ("client_secret", Options::default().client_secret),
        ("scope", "business-graphql-service-api:access-group-based-readonly".to_owned()),
    ];
    let token: Value = http.post(simulator.token_url()).form(&form).send().await?.json().await?;
    let token = token["access_token"].as_str().context("no token")?.to_owned();
    let audit = "createdDate createdTime createdByUser createdTimestamp changedDate changedTime changeTimeInMs \
                 changedByUser changedTimestamp";
    let started = Instant::now();
    let mut rows = 0;
    for table in tables() {
        let (key, columns) = match table.as_str() {
            LARGE => ("transactionNo", "transactionNo accountNo year period postedAmountDomestic voucherDate text"),
            _ => ("rowNo", "rowNo name amount quantity dueDate accountNo text"),
        };
        let field = format!("{}{}", table[..1].to_lowercase(), &table[1..]);
        let mut last = 0;
        loop {
            let query = format!(
                "{{ useCompany(no: {COMPANY}) {{ t: {field}(first: {PAGE_ROWS}, filter: {{ {key}: {{ _gt: {last} }} }}, \
                 orderBy: [{{ {key}: ASC }}]) {{ pageInfo {{ hasNextPage }} items {{ {columns} {audit} }} }} }} }}"
            );
            let request = http.post(simulator.graphql_url()).bearer_auth(&token).json(&json!({ "query": query }));
            let answer: Value = request.send().await?.json().await?;
            let page = &answer["data"]["useCompany"]["t"];
            let items = page["items"].as_array().with_context(|| format!("no items: {answer}"))?;
            rows += i64::try_from(items.len())?;
            match (page["pageInfo"]["hasNextPage"].as_bool(), items.last()) {
                (Some(true), Some(item)) => last = item[key].as_i64().context("no key")?,
                _ => break,
            }
        }
    }
    Ok(Run { rows, elapsed: started.elapsed(), resident: 0.0 })
}

/// Loads everything, killed that often on the way.
async fn backfill(site: &Site, total: i64, kills: usize) -> anyhow::Result<Run> {
    let started = Instant::now();
    let mut resident = 0.0;
    for kill in 0..=kills {
        let mut child = command(site, &["backfill"]).env("NXT_TABLES", all_tables()).spawn()?;
        if kill < kills {
            let enough = total / (i64::try_from(kills)? + 1) * (i64::try_from(kill)? + 1);
            while walked(&site.pool).await < enough {
                ensure!(child.try_wait()?.is_none(), "the load ended before it was killed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            child.kill().await?;
            continue;
        }
        resident = watch(&mut child).await?;
    }
    let run = Run { rows: total, elapsed: started.elapsed(), resident };
    ensure!(walked(&site.pool).await == total, "{} of {total} rows were walked", walked(&site.pool).await);
    Ok(run)
}

/// Nothing before the tables are made.
async fn walked(pool: &PgPool) -> i64 {
    let sum = sqlx::query_scalar("select coalesce(sum(rows_walked), 0)::bigint from nxt_mirror.walk");
    sum.fetch_one(pool).await.unwrap_or(0)
}

async fn verify(site: &Site, total: i64) -> anyhow::Result<Run> {
    let started = Instant::now();
    let mut child = command(site, &["verify"]).env("NXT_TABLES", all_tables()).spawn()?;
    let resident = watch(&mut child).await.context("verify")?;
    Ok(Run { rows: total, elapsed: started.elapsed(), resident })
}

/// Waits for success; the most memory it had, in MiB.
async fn watch(child: &mut Child) -> anyhow::Result<f64> {
    let pid = child.id().context("the process runs")?;
    let mut most: f64 = 0.0;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "it ended with {status}");
            return Ok(most);
        }
        if let Ok(resident) = super::resident(pid) {
            most = most.max(resident);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Live latency alone and while 1,000 damaged rows are found and mended.
pub(super) async fn repair(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let bench = Bench::start(server, "all").await?;
    let owner = Owner::Company(COMPANY);
    let order = |number: i64, name: String| {
        Map::from_iter([("orderNo".to_owned(), json!(number)), ("name".to_owned(), json!(name))])
    };
    for chunk in (1..=60_000).collect::<Vec<i64>>().chunks(10_000) {
        let rows: Vec<_> = chunk.iter().map(|&number| order(number, "stock".into())).collect();
        bench.site.simulator.put_all(owner, "Order", &rows, false)?;
    }
    let arguments = ["--table", "Order", "--company", "2000001"];
    let status = command(&bench.site, &["backfill"]).args(arguments).status().await?;
    ensure!(status.success(), "the load failed");
    let quiet = latency::of_orders(&bench, Duration::from_secs(20)).await?;
    // Rows that live changes leave alone.
    for sql in [
        "update business_nxt.\"order\" set name = 'damaged' where order_no between 50001 and 50400",
        "delete from business_nxt.\"order\" where order_no between 51001 and 51300",
        "insert into business_nxt.\"order\" (_company_no, order_no, _fetched_at)
         select 2000001, n, '2020-01-01' from generate_series(900001, 900300) n",
    ] {
        sqlx::query(sql).execute(&bench.site.pool).await?;
    }
    let mut verify = command(&bench.site, &["verify", "--json"]);
    verify.args(arguments).stdout(Stdio::piped());
    let (found, beside) = tokio::join!(verify.output(), latency::of_orders(&bench, Duration::from_secs(30)));
    let document: Value = serde_json::from_slice(&found?.stdout)?;
    let named = document["tables"][0]["differences"].as_array().context("no differences")?;
    let damaged = |row: &&Value| {
        row["key"]["order_no"].as_i64().is_some_and(|number| {
            (50_001..=50_400).contains(&number) || (51_001..=51_300).contains(&number) || number > 900_000
        })
    };
    let right = named.iter().filter(damaged).count();
    println!("1,000 damaged rows beside live changes         {right:>8} named, {} others named", named.len() - right);
    let mut mend = command(&bench.site, &["verify", "--repair", "--json"]);
    mend.args(arguments).stdout(Stdio::piped());
    let (mended, while_mending) = tokio::join!(mend.output(), latency::of_orders(&bench, Duration::from_secs(30)));
    let mended = mended?;
    let document: Value = serde_json::from_slice(&mended.stdout)?;
    let table = &document["tables"][0];
    println!(
        "repaired                                       {:>8}, left {}, exit code {}",
        table["repaired"],
        table["left"],
        mended.status.code().unwrap_or(-1)
    );
    latency::print("latency of a change at 200 changes/s, alone", &quiet);
    latency::print("the same while verify runs", &beside?);
    latency::print("the same while verify --repair runs", &while_mending?);
    bench.settle().await?;
    economy::report(&bench, "after that", 60_000).await
}
