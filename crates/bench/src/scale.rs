//! What the same work costs beside very many targets, mirrored rows and ledger entries, and beside few.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_simulator::{Options, Owner};
use nxt_testkit::{Daemon, Site, Wait, free_address};
use serde_json::{Map, json};
use sqlx::PgPool;

use super::{
    command,
    figures::{at, median},
    latency, load,
};

const FIRST_COMPANY: i64 = 3_000_001;
const CUSTOMER: i64 = 1_000_001;
/// Turns, both sides one after the other in each.
const ROUNDS: usize = 5;
/// How long changes are made in each turn, one after the other.
const TURN: Duration = Duration::from_secs(5);
/// Notifications of a block that is copied.
const BLOCK: i64 = 1_024;

#[derive(clap::Args, Clone, Copy)]
pub(super) struct Args {
    /// Companies of the large side
    #[arg(long, default_value_t = 500)]
    companies: i64,
    /// Tables of each
    #[arg(long, default_value_t = 100)]
    tables: u32,
    /// Mirrored rows of one of these tables, over all companies
    #[arg(long, default_value_t = 10_000_000)]
    mirrored: i64,
    /// Notifications in the ledger
    #[arg(long, default_value_t = 10_000_000)]
    ledger: i64,
}

const SMALL: Args = Args { companies: 1, tables: 1, mirrored: 10_000, ledger: 10_240 };

pub(super) async fn measure(server: &EmbeddedPostgres, large: Args) -> anyhow::Result<()> {
    let sides = [Side::new(server, "bench_small", SMALL).await?, Side::new(server, "bench_large", large).await?];
    let mut figures = [Figures::default(), Figures::default()];
    for _ in 0..ROUNDS {
        for (side, figures) in sides.iter().zip(&mut figures) {
            side.turn(figures).await?;
        }
    }
    let [few, many] = &figures;
    println!("one company, one table, {} rows, {} notifications, beside", SMALL.mirrored, SMALL.ledger);
    println!(
        "{} companies, {} tables each, {} rows, {} notifications:",
        large.companies, large.tables, large.mirrored, large.ledger
    );
    print("ready after its start", &few.start, &many.start);
    print("one change, median", &few.change, &many.change);
    print("one change, 95 of 100", &few.late, &many.late);
    print("status", &few.status, &many.status);
    print("metrics", &few.metrics, &many.metrics);
    print("overview page", &few.page, &many.page);
    println!("{:<45} {:>8.1} MiB to {:.1} MiB", "resident memory", median(&few.memory), median(&many.memory));
    let disk = format!("{:.0} MB of the daemon's own, {:.0} MB mirrored", sides[1].own_mb, sides[1].mirrored_mb);
    println!("{:<45} {disk}", "on disk, the large side");
    Ok(())
}

fn print(what: &str, few: &[f64], many: &[f64]) {
    let (few, many) = (median(few), median(many));
    println!("{what:<45} {few:>8.1} ms to {many:.1} ms, ratio {:.2}", many / few);
}

/// One in each turn: milliseconds, but for the memory in MiB.
#[derive(Default)]
struct Figures {
    start: Vec<f64>,
    change: Vec<f64>,
    late: Vec<f64>,
    status: Vec<f64>,
    metrics: Vec<f64>,
    page: Vec<f64>,
    memory: Vec<f64>,
}

/// A database that is filled that far.
struct Side {
    site: Site,
    own_mb: f64,
    mirrored_mb: f64,
}

impl Side {
    async fn new(server: &EmbeddedPostgres, database: &str, size: Args) -> anyhow::Result<Self> {
        let options = Options {
            companies: (0..size.companies).map(|number| (CUSTOMER, FIRST_COMPANY + number)).collect(),
            extra_tables: size.tables,
            ..Options::default()
        };
        let site = super::site_of(server, database, options).await?;
        let started = Instant::now();
        make_tables(&site).await?;
        fill(&site.pool, size).await?;
        eprintln!("{database} filled in {:.0} s", started.elapsed().as_secs_f64());
        let mb = async |schemas: &str| -> anyhow::Result<f64> {
            let sql = "select sum(pg_total_relation_size(oid))::float8 / 1e6 from pg_class
                        where relkind = 'r' and relnamespace::regnamespace::text = $1";
            Ok(sqlx::query_scalar(sql).bind(schemas).fetch_one(&site.pool).await?)
        };
        let (own_mb, mirrored_mb) = (mb("nxt_mirror").await?, mb("business_nxt").await?);
        Ok(Self { site, own_mb, mirrored_mb })
    }

    async fn turn(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let address = free_address();
        let started = Instant::now();
        let daemon = Daemon::start(command(&self.site, &["serve"]).env("NXT_OPS_LISTEN", &address));
        let ready = format!("http://{address}/readyz");
        let look = async || match reqwest::get(&ready).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            other => Err(format!("{other:?}")),
        };
        Wait::seconds(120).every_millis(5).until("the daemon is ready", look).await?;
        figures.start.push(millis(started));
        let changes = latency::one_by_one(&self.site, FIRST_COMPANY, TURN).await?;
        figures.change.push(median(&changes));
        figures.late.push(at(&changes, 0.95));
        for (path, times) in [("metrics", &mut figures.metrics), ("", &mut figures.page)] {
            times.push(get(&format!("http://{address}/{path}")).await?);
        }
        let started = Instant::now();
        let status = command(&self.site, &["status", "--json"]).status().await?;
        ensure!(status.code().is_some_and(|code| code <= 1), "status ended with {status}");
        figures.status.push(millis(started));
        figures.memory.push(super::resident(daemon.id().context("the daemon runs")?)?);
        daemon.kill().await;
        Ok(())
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

async fn get(url: &str) -> anyhow::Result<f64> {
    let started = Instant::now();
    reqwest::get(url).await?.error_for_status()?.bytes().await?;
    Ok(millis(started))
}

/// Has the daemon make the table that is looked at, and a block of the ledger.
async fn make_tables(site: &Site) -> anyhow::Result<()> {
    let daemon = Daemon::start(&mut command(site, &["serve"]));
    super::wait_until_it_listens(site).await?;
    let row = Map::from_iter([("rowNo".to_owned(), json!(1)), ("name".to_owned(), json!("first"))]);
    site.simulator.put_all(Owner::Company(FIRST_COMPANY), "Extra1", &[row], true)?;
    super::settle(site).await?;
    daemon.kill().await;
    Ok(())
}

async fn fill(pool: &PgPool, size: Args) -> anyhow::Result<()> {
    sqlx::query(
        "insert into nxt_mirror.target (tenant_kind, tenant_no, table_name, rows)
         select 'company', $1 + company, 'Extra' || number, 1
           from generate_series(0, $2 - 1) as company, generate_series(1, $3) as number
         on conflict do nothing",
    )
    .bind(FIRST_COMPANY)
    .bind(size.companies)
    .bind(i64::from(size.tables))
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into business_nxt.extra1 (_company_no, row_no, name, amount, text, _fetched_at)
         select $1 + number % $2, number / $2 + 10, 'row ' || number, number, 'as people write it', now()
           from generate_series(0, $3 - 1) as number",
    )
    .bind(FIRST_COMPANY)
    .bind(size.companies)
    .bind(size.mirrored)
    .execute(pool)
    .await?;
    fill_ledger(pool, size.ledger / BLOCK).await?;
    sqlx::query("vacuum analyze").execute(pool).await?;
    Ok(())
}

/// Copies one block that is as full as it can be, of bodies that differ.
async fn fill_ledger(pool: &PgPool, blocks: i64) -> anyhow::Result<()> {
    sqlx::query(
        r#"insert into nxt_mirror.ledger_block (stream_id, is_company, tenant_no, table_name, row_key, event, changed_at,
                deleted_at, changed_by, delivery_id, body)
         select (select max(stream_id) from nxt_mirror.ledger_block), is_company, tenant_no, table_name, row_key, event,
                changed_at, deleted_at, changed_by, delivery_id, body
           from (select array_agg(true) as is_company, array_agg($2) as tenant_no,
                        array_agg('Extra1'::text) as table_name, array_agg(format('{"rowno":%s}', n)) as row_key,
                        array_agg('UPDATE'::text) as event, array_agg(now()) as changed_at,
                        array_agg(null::timestamptz) as deleted_at, array_agg('user-' || n % 40) as changed_by,
                        array_agg(md5(n::text)) as delivery_id, array_agg(bodies.body) as body
                   from generate_series(0, $3 - 1) as n
                   cross join lateral (select regexp_replace($4, '(No":)\d+(\}\])', '\1' || n || '\2') as body) as bodies) as full_block,
                generate_series(1, $1)"#,
    )
    .bind(blocks)
    .bind(FIRST_COMPANY)
    .bind(BLOCK)
    .bind(load::mixed(0).to_string())
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into nxt_mirror.fold (stream_id, through_id)
         select stream_id, max(id) from nxt_mirror.ledger_block group by stream_id on conflict do nothing",
    )
    .execute(pool)
    .await?;
    Ok(())
}
