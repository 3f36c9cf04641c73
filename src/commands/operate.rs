//! What operators ask and do: `status`, `dead-letters`, `replay`, `explain`.

use std::{path::Path, process::ExitCode, sync::Arc};

use actix_web::web::Bytes;
use anyhow::{Context, bail};
use nxt_embedded_postgres::EmbeddedPostgres;
use serde::Serialize;
use serde_json::json;
use sqlx::{FromRow, PgPool};
use tokio::sync::Notify;

use crate::{
    cli::{DeadLetterCommand, ReplayArgs},
    clocks,
    config::{DatabaseSettings, LogSettings, Source},
    database,
    domain::{HintKey, KeyValue, TableName, Time, time},
    mirror::Replica,
    queue::{self, Accepted, Backlog, Committer, Delivery, DeliveryId, Notification, dead_letter, ledger},
    telemetry::{self, Metrics},
    upstream::Outage,
    webhook,
};

/// A connection to an existing, migrated database.
async fn open(config: Option<&Path>) -> anyhow::Result<(PgPool, secrecy::SecretString)> {
    let source = Source::from_process(config)?;
    telemetry::start(&LogSettings::read(&source)?);
    let settings = DatabaseSettings::read(&source)?;
    let url = match settings.url {
        Some(url) => url,
        None => EmbeddedPostgres::url_elsewhere(&settings.data_dir, nxt_embedded_postgres::DATABASE)?
            .context("DATABASE_URL is not set, and NXT_DATA_DIR has no server of our own")?,
    };
    let pool = database::connect(database::options(&url)?).await?;
    if !database::is_current(&pool).await? {
        bail!("the database is not up to date: run nxt-mirror migrate");
    }
    Ok((pool, url))
}

/// One table as `nxt_mirror.freshness` shows it.
#[derive(Debug, Serialize, FromRow)]
struct Freshness {
    tenant: String,
    table_name: String,
    rows: i64,
    partial: bool,
    last_walked: Option<Time>,
    backlog: i64,
    oldest_waiting_since: Option<Time>,
    last_change_applied: Option<Time>,
    last_verified: Option<Time>,
    differences: Option<i64>,
    silent_since: Option<Time>,
}

/// Lag, backlog, budget and each table.
pub(super) async fn status(config: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let (pool, _) = open(config).await?;
    let (now, used): (Time, i64) = sqlx::query_as(
        "select clock_timestamp(), (select count(*) from nxt_mirror.api_slot where free_at > clock_timestamp())",
    )
    .fetch_one(&pool)
    .await?;
    let Backlog { rows: backlog, lag_seconds: lag } = queue::Queue::new(pool.clone()).backlog().await?;
    let outage = Outage::current(&pool).await?;
    let clocks = clocks::evidence(&pool).await?.findings();
    let letters: i64 = sqlx::query_scalar("select count(*) from nxt_mirror.dead_letter").fetch_one(&pool).await?;
    let tables: Vec<Freshness> =
        sqlx::query_as("select * from nxt_mirror.freshness order by tenant, table_name").fetch_all(&pool).await?;
    if as_json {
        let document = json!({
            "now": now, "lag_seconds": lag, "backlog_rows": backlog, "dead_letters": letters,
            "api_requests_last_minute": used, "api_away": outage,
            "clocks": clocks.iter().map(ToString::to_string).collect::<Vec<_>>(), "tables": tables,
        });
        println!("{document}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("lag {lag} s, {backlog} rows waiting, {letters} dead letters, {used} API requests in the last minute");
    if let Some(Outage { since, reason }) = outage {
        println!("the API is away since {}: {reason}", shown(Some(since)));
    }
    for finding in clocks {
        println!("{finding}: {}", finding.advice());
    }
    for table in &tables {
        let state = match (table.partial, table.differences) {
            (true, _) => "partial: only what notifications brought".to_owned(),
            (false, None) => "complete, never verified".to_owned(),
            (false, Some(0)) => format!("equal as of {}", shown(table.last_verified)),
            (false, Some(differences)) => format!("{differences} differences as of {}", shown(table.last_verified)),
        };
        let silence = table.silent_since.map_or_else(String::new, |since| {
            format!("; changes, but no notification since {}: is the subscription gone?", shown(Some(since)))
        });
        println!(
            "{:<18} {:<32} {:>10} rows {:>6} waiting  {state}{silence}",
            table.tenant, table.table_name, table.rows, table.backlog
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(time: Option<Time>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

pub(super) async fn dead_letters(config: Option<&Path>, command: DeadLetterCommand) -> anyhow::Result<ExitCode> {
    let (pool, url) = open(config).await?;
    match command {
        DeadLetterCommand::List { json } => list(&pool, json).await,
        DeadLetterCommand::Show { id, json } => show(&pool, id, json).await,
        DeadLetterCommand::Retry { ids, all, json } => {
            let ids = chosen(&pool, ids, all).await?;
            let (rows, bodies, left) = retry(&pool, &url, &ids).await?;
            if json {
                println!("{}", json!({ "rows": rows, "bodies": bodies, "left": left }));
            } else {
                println!("{rows} rows and {bodies} bodies are tried again, {left} left");
            }
            Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        DeadLetterCommand::Drop { ids, all, json } => {
            let ids = chosen(&pool, ids, all).await?;
            let dropped = dead_letter::remove(&mut *pool.acquire().await?, &ids).await?;
            if json {
                println!("{}", json!({ "dropped": dropped }));
            } else {
                println!("{dropped} dropped");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(pool: &PgPool, as_json: bool) -> anyhow::Result<ExitCode> {
    let letters = dead_letter::list(pool).await?;
    if as_json {
        println!("{}", serde_json::to_string(&letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    for letter in letters {
        let row = match (&letter.tenant, &letter.table_name, &letter.row_key) {
            (Some(tenant), Some(table), Some(key)) => format!("{table} of {tenant} {key}"),
            _ => "body".to_owned(),
        };
        println!("{}\t{}\t{row}\t{}", letter.id, shown(Some(letter.last_at)), letter.reason.replace(['\n', '\t'], " "));
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(pool: &PgPool, id: i64, as_json: bool) -> anyhow::Result<ExitCode> {
    let (letter, body) = dead_letter::show(pool, id).await?.with_context(|| format!("there is no dead letter {id}"))?;
    let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
    let mut document = serde_json::to_value(&letter)?;
    document["body"] = body.into();
    println!("{}", if as_json { document.to_string() } else { format!("{document:#}") });
    Ok(ExitCode::SUCCESS)
}

/// The named letters, or all. Naming one that does not exist is an error.
async fn chosen(pool: &PgPool, ids: Vec<i64>, all: bool) -> anyhow::Result<Vec<i64>> {
    let known: Vec<i64> = dead_letter::list(pool).await?.into_iter().map(|letter| letter.id).collect();
    if all {
        return Ok(known);
    }
    if ids.is_empty() {
        bail!("name the dead letters by their numbers, or give --all");
    }
    if let Some(unknown) = ids.iter().find(|id| !known.contains(id)) {
        bail!("there is no dead letter {unknown}");
    }
    Ok(ids)
}

/// Rows become dirty again; bodies are read again and, if they are understood now, stored as if they had just come.
async fn retry(pool: &PgPool, url: &secrecy::SecretString, ids: &[i64]) -> anyhow::Result<(u64, u64, u64)> {
    let rows = dead_letter::retry_rows(&mut *pool.acquire().await?, ids).await?;
    let (acceptor, committer) =
        Committer::new(database::options(url)?, Arc::new(Notify::new()), Arc::new(Metrics::new()));
    let task = tokio::spawn(committer.run());
    let (mut bodies, mut left) = (0, 0);
    for &id in ids {
        let Some((letter, Some(body))) = dead_letter::show(pool, id).await? else { continue };
        match webhook::understand(&body) {
            Ok((event, changed_by)) => {
                let delivery_id = letter.delivery_id.as_ref().and_then(|id| DeliveryId::new(id.as_bytes()));
                let notification = Notification { delivery_id, event, changed_by, body: Bytes::from(body) };
                let stored = acceptor.accept(Delivery::Notification(notification)).await?;
                debug_assert!(stored != Accepted::Quarantined, "a notification is not quarantined");
                bodies += dead_letter::remove(&mut *pool.acquire().await?, &[id]).await?;
            }
            Err(reason) => {
                eprintln!("dead letter {id} is still not understood: {reason}");
                left += 1;
            }
        }
    }
    drop(acceptor);
    task.await.context("the committer panicked")?;
    Ok((rows, bodies, left))
}

pub(super) async fn replay(config: Option<&Path>, args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let moment = |text: &str, name: &str| {
        time::parse_utc(text).with_context(|| format!("{name}: {text:?} is not a time such as 2026-02-01T10:00:00Z"))
    };
    let range = ledger::ReplayRange {
        since: moment(&args.since, "--since")?,
        until: args.until.as_deref().map(|text| moment(text, "--until")).transpose()?,
        company: args.company,
        table: args.table.map(TableName::new).transpose().context("--table")?,
    };
    let (pool, _) = open(config).await?;
    let rows = ledger::replay(&pool, &range).await?;
    if args.json {
        println!("{}", json!({ "rows": rows }));
    } else {
        println!("{rows} rows are looked at again");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn explain(
    config: Option<&Path>,
    table: String,
    key: Vec<String>,
    company: Option<i64>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let table = TableName::new(table)?;
    let (pool, _) = open(config).await?;
    let replica = Replica::new(pool.clone(), crate::config::Deletes::Hard);
    let specs = replica.descriptions().await?;
    let spec = specs
        .iter()
        .find(|spec| spec.name.as_str().eq_ignore_ascii_case(table.as_str()))
        .with_context(|| format!("nothing of table {table} is mirrored"))?;
    let columns: Vec<String> = spec.key_columns().map(|column| column.name.clone()).collect();
    if columns.len() != key.len() {
        bail!("the key of {table} has {} values: {}", columns.len(), columns.join(", "));
    }
    let given = HintKey::new(columns.into_iter().zip(key.into_iter().map(KeyValue::Text)))?;
    // Once more in the columns' own types.
    let row_key = given.resolve(spec)?;
    let hint = row_key.to_hint(spec)?;
    let events = ledger::explain(&pool, &table, &hint, Some(&row_key.folded_text()), company).await?;
    if as_json {
        println!("{}", json!({ "table": table, "key": row_key, "events": events }));
        return Ok(ExitCode::SUCCESS);
    }
    if events.is_empty() {
        println!("nothing is known of this row");
    }
    for event in events {
        let notification = event.notification_id.map(|id| format!(" (notification {id})")).unwrap_or_default();
        let at = event.at.format("%Y-%m-%d %H:%M:%S%.3f");
        println!("{at}  {:<16} {:<12} {}{notification}", event.tenant, event.source, event.what);
    }
    Ok(ExitCode::SUCCESS)
}
