//! What operators ask and do: `status`, `dead-letters`, `replay`, `explain`.

use std::{path::Path, process::ExitCode, sync::Arc};

use actix_web::web::Bytes;
use anyhow::{Context, bail};
use nxt_embedded_postgres::EmbeddedPostgres;
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{
    cli::{DeadLetterCommand, ReplayArgs},
    config::{DatabaseSettings, LogSettings, Source, UpstreamSettings},
    database::{self, Connector},
    domain::{AnnouncedKey, DatabaseTime, KeyValue, TableName},
    mirror::Mirror,
    ops::Status,
    queue::{
        Accepted, Appender, Delivery, DeliveryId, Notification,
        dead_letter::{self, DeadLetter},
        ledger,
        status::Freshness,
    },
    telemetry::{self, Metrics},
    webhook,
};

/// A connection to an existing, migrated database.
async fn open(config: Option<&Path>) -> anyhow::Result<(PgPool, Connector)> {
    let source = Source::from_process(config)?;
    telemetry::start(&LogSettings::read(&source)?);
    let settings = DatabaseSettings::read(&source)?;
    let connector = match settings.address {
        Some(address) => Connector::new(address),
        None => Connector::to(
            &EmbeddedPostgres::url_elsewhere(&settings.data_dir, nxt_embedded_postgres::DATABASE)?
                .context("DATABASE_URL is not set, and NXT_DATA_DIR has no server of our own")?,
        )?,
    };
    let pool = database::connect(&connector).await?;
    if !database::is_current(&pool).await? {
        bail!("the database is not up to date: run nxt-mirror migrate");
    }
    Ok((pool, connector))
}

/// Lag, backlog, budget and each table.
pub(super) async fn status(config: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let source = Source::from_process(config)?;
    let per_minute = UpstreamSettings::requests_per_minute(&source)?;
    let (pool, _) = open(config).await?;
    let status = Status::read(&pool, per_minute).await?;
    if as_json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print_status(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_status(status: &Status) {
    println!(
        "{}: lag {} s, {} rows waiting, {} dead letters, {} of {} API requests in the last minute",
        status.state,
        status.lag_seconds,
        status.backlog,
        status.dead_letters,
        status.budget.used,
        status.budget.per_minute
    );
    if let Some(since) = status.api_away_since {
        let reason = status.api_away_because.as_deref().unwrap_or("no reason is known");
        println!("the API is away since {}: {reason}", shown(Some(since)));
    }
    for clock in &status.clocks {
        println!("{clock}");
    }
    for target in &status.tables {
        println!("{}", line(target));
    }
}

/// A target in one line.
fn line(target: &Freshness) -> String {
    let proof = match (target.partial, target.differences) {
        (true, _) => "partial: only what notifications brought".to_owned(),
        (false, None) => "complete, never verified".to_owned(),
        (false, Some(0)) => format!("equal as of {}", shown(target.last_verified)),
        (false, Some(differences)) => format!("{differences} differences as of {}", shown(target.last_verified)),
    };
    let pause = match (target.paused_until, &target.paused_because) {
        (Some(until), Some(because)) => format!("; paused until {}: {because}", shown(Some(until))),
        _ => String::new(),
    };
    let silence = target.silent_since.map_or_else(String::new, |since| {
        format!("; changes, but no notification since {}: is the subscription gone?", shown(Some(since)))
    });
    let tenant = tenant(target.company_no, target.customer_no);
    format!(
        "{tenant:<18} {:<32} {:<12} {:>10} rows {:>6} waiting  {proof}{pause}{silence}",
        target.table, target.state, target.rows, target.backlog
    )
}

/// Whose something is: of the two numbers the one that is not null.
pub(super) fn tenant(company_no: Option<i64>, customer_no: Option<i64>) -> String {
    match (company_no, customer_no) {
        (Some(company), _) => format!("company {company}"),
        (None, customer) => format!("customer {}", customer.unwrap_or_default()),
    }
}

fn shown(time: Option<DatabaseTime>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.utc().format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

pub(super) async fn dead_letters(config: Option<&Path>, command: DeadLetterCommand) -> anyhow::Result<ExitCode> {
    let (pool, connector) = open(config).await?;
    match command {
        DeadLetterCommand::List { json } => list(&pool, json).await,
        DeadLetterCommand::Show { id, json } => show(&pool, id, json).await,
        DeadLetterCommand::Retry { ids, all, json } => {
            let ids = chosen(&pool, ids, all).await?;
            let (rows, bodies, left) = retry(&pool, connector, &ids).await?;
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

/// Entries that are read at once.
const LETTERS_MAX: i64 = 1_000;

/// All entries, oldest first.
async fn letters(pool: &PgPool) -> anyhow::Result<Vec<DeadLetter>> {
    let mut letters: Vec<DeadLetter> = vec![];
    loop {
        let after = letters.last().map_or(0, |letter| letter.id);
        let more = dead_letter::list(pool, after, LETTERS_MAX).await?;
        if more.is_empty() {
            return Ok(letters);
        }
        letters.extend(more);
    }
}

async fn list(pool: &PgPool, as_json: bool) -> anyhow::Result<ExitCode> {
    let letters = letters(pool).await?;
    if as_json {
        println!("{}", serde_json::to_string(&letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    for letter in letters {
        let row = match (&letter.table_name, &letter.key) {
            (Some(table), Some(key)) => {
                format!("{table} of {} {key}", tenant(letter.company_no, letter.customer_no))
            }
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
    let known: Vec<i64> = letters(pool).await?.into_iter().map(|letter| letter.id).collect();
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
async fn retry(pool: &PgPool, connector: Connector, ids: &[i64]) -> anyhow::Result<(u64, u64, u64)> {
    let rows = dead_letter::retry_rows(&mut *pool.acquire().await?, ids).await?;
    let (acceptor, appender) = Appender::new(connector, Arc::new(Notify::new()), Arc::new(Metrics::new()));
    let task = tokio::spawn(appender.run());
    let (mut bodies, mut left) = (0, 0);
    for &id in ids {
        let Some((letter, Some(body))) = dead_letter::show(pool, id).await? else { continue };
        match webhook::understand(&body) {
            Ok(understood) => {
                let delivery_id = letter.delivery_id.as_ref().and_then(|id| DeliveryId::new(id.as_bytes()));
                let notification = Notification {
                    delivery_id,
                    event: understood.event,
                    changed_by: understood.changed_by,
                    columns: understood.columns,
                    body: Bytes::from(body),
                };
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
    task.await.context("the appender panicked")?;
    Ok((rows, bodies, left))
}

pub(super) async fn replay(config: Option<&Path>, args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let moment = |text: &str, name: &str| {
        DatabaseTime::parse(text)
            .with_context(|| format!("{name}: {text:?} is not a time such as 2026-02-01T10:00:00Z"))
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
        println!("{rows} rows are fetched again");
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
    let mirror = Mirror::new(pool.clone(), crate::config::Deletes::Hard);
    let specs = mirror.descriptions().await?;
    let spec = specs
        .iter()
        .find(|spec| spec.name.as_str().eq_ignore_ascii_case(table.as_str()))
        .with_context(|| format!("nothing of table {table} is mirrored"))?;
    let columns: Vec<String> = spec.key_columns().map(|column| column.name.clone()).collect();
    if columns.len() != key.len() {
        bail!("the key of {table} has {} values: {}", columns.len(), columns.join(", "));
    }
    let given = AnnouncedKey::new(columns.into_iter().zip(key.into_iter().map(KeyValue::Text)))?;
    // Once more in the columns' own types.
    let row_key = given.resolve(spec)?;
    let announced = row_key.announced(spec)?;
    let subject = ledger::Subject {
        table: table.clone(),
        key: announced,
        key_json: row_key.shown(spec),
        folded_key: row_key.folded_text(),
        company,
        customer: None,
    };
    let events = ledger::explain(&pool, &subject).await?;
    if as_json {
        let key: serde_json::Value = serde_json::from_str(&row_key.shown(spec))?;
        println!("{}", json!({ "table": table, "key": key, "events": events }));
        return Ok(ExitCode::SUCCESS);
    }
    if events.is_empty() {
        println!("nothing is known of this row");
    }
    for event in events {
        let notification = event.notification_id.map(|id| format!(" (notification {id})")).unwrap_or_default();
        let at = event.at.utc().format("%Y-%m-%d %H:%M:%S%.3f");
        let tenant = tenant(event.company_no, event.customer_no);
        println!("{at}  {tenant:<16} {:<12} {}{notification}", event.source, event.what);
    }
    Ok(ExitCode::SUCCESS)
}
