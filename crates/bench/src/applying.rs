//! Rows applied a second out of a backlog, and what indexes for relations and the rows' history cost of it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::Options;
use nxt_testkit::{Daemon, Site, Wait};
use serde_json::json;
use sqlx::PgPool;

use super::{
    command,
    figures::{median, ratio},
    load::{self, Requests},
};

/// Turns of each way; the machine is shared, and its pace changes from one minute to the next.
const ROUNDS: usize = 5;
/// Rows of a turn, each with one notification.
const ROWS: u64 = 30_000;
/// More requests a minute than are ever sent: the budget is not what is measured.
const REQUESTS_PER_MINUTE: usize = 6_000;

pub(super) type Settings = &'static [(&'static str, &'static str)];
const BARE: Settings = &[("NXT_RELATION_INDEXES", "off")];
pub(super) const USUAL: Settings = &[];
pub(super) const WITH_HISTORY: Settings = &[("NXT_HISTORY", "*")];

pub(super) async fn measure(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let (mut bare, mut usual, mut with_history, mut bytes) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(turn(server, BARE).await?.rate());
        usual.push(turn(server, USUAL).await?.rate());
        let turn = turn(server, WITH_HISTORY).await?;
        with_history.push(turn.rate());
        bytes.push(turn.bytes_a_version);
    }
    println!("rows applied, no indexes for relations         {:>8.0} /s, median of {ROUNDS}", median(&bare));
    println!(
        "rows applied, as it comes                      {:>8.0} /s, ratio {}",
        median(&usual),
        ratio(&usual, &bare)
    );
    println!(
        "rows applied, with history                     {:>8.0} /s, ratio {}; {:.0} bytes a version",
        median(&with_history),
        ratio(&with_history, &usual),
        median(&bytes)
    );
    Ok(())
}

/// What became of one backlog.
pub(super) struct Turn {
    elapsed: Duration,
    /// Bytes of the history on disk, by its versions; not a number where none is kept.
    bytes_a_version: f64,
}

impl Turn {
    /// Rows applied a second.
    pub(super) fn rate(&self) -> f64 {
        ROWS as f64 / self.elapsed.as_secs_f64()
    }
}

/// Changes all rows twice: the first time they are new, and their tables with them. Measured is the second time.
pub(super) async fn turn(server: &EmbeddedPostgres, settings: Settings) -> anyhow::Result<Turn> {
    let options = Options { requests_per_minute: REQUESTS_PER_MINUTE, ..Options::default() };
    let site = super::site(server, options).await?;
    let requests = Requests::mixed(ROWS);
    backlog(&site, &requests, "at first").await?;
    work_off(&site, settings).await?;
    backlog(&site, &requests, "then").await?;
    let elapsed = work_off(&site, settings).await?;
    let sql = "select count(*) from business_nxt.associate where name = 'then'";
    let changed: i64 = sqlx::query_scalar(sql).fetch_one(&site.pool).await?;
    ensure!(changed == i64::try_from(ROWS / 5)?, "{changed} of {} associates changed", ROWS / 5);
    Ok(Turn { elapsed, bytes_a_version: bytes_a_version(&site.pool).await? })
}

/// Rows that changed while nobody fetched them.
async fn backlog(site: &Site, requests: &Requests, name: &str) -> anyhow::Result<()> {
    let receiver = Daemon::start(&mut command(site, &["serve", "--role", "receiver"]));
    super::wait_until_it_listens(site).await?;
    for (owner, table, mut rows) in load::mixed_rows(ROWS) {
        if table == "Associate" {
            rows.iter_mut().for_each(|row| drop(row.insert("name".into(), json!(name))));
        }
        site.simulator.put_all(owner, table, &rows, false)?;
    }
    let accepted = load::post(&site.public, requests, ROWS, Instant::now() + Duration::from_secs(120)).await?;
    ensure!(accepted == ROWS, "{accepted} of {ROWS} were accepted");
    receiver.kill().await;
    Ok(())
}

/// From a worker's start until no row is dirty.
async fn work_off(site: &Site, settings: Settings) -> anyhow::Result<Duration> {
    let limit = REQUESTS_PER_MINUTE.to_string();
    let mut worker = command(site, &["serve", "--role", "worker"]);
    worker.envs(settings.iter().copied()).env("NXT_REQUESTS_PER_MINUTE", limit);
    let started = Instant::now();
    let _worker = Daemon::start(&mut worker);
    let left = "select (select count(*) from nxt_mirror.unfolded) + (select count(*) from nxt_mirror.dirty_row)";
    Wait::seconds(180).every_millis(20).for_count("rows that are not applied", &site.pool, 0, left).await?;
    Ok(started.elapsed())
}

async fn bytes_a_version(pool: &PgPool) -> anyhow::Result<f64> {
    let sql = "select sum(pg_total_relation_size(oid))::float8 / nullif(sum(greatest(reltuples, 0)), 0)::float8
                 from pg_class where relnamespace = to_regnamespace('business_nxt_history') and relkind = 'r'";
    sqlx::query("analyze").execute(pool).await?;
    let bytes: Option<f64> = sqlx::query_scalar(sql).fetch_one(pool).await?;
    Ok(bytes.unwrap_or(f64::NAN))
}
