//! What operators ask and do: `dead-letters`, `replay`, `explain`.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, bail};
use nxt_embedded_postgres::EmbeddedPostgres;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;

use super::{Usage, asker::asker};
use crate::{
    cli::{ChosenLetters, DeadLetterCommand, ReplayArgs},
    config::{DatabaseSettings, LogSettings, MirrorSettings, Source},
    database::{self, Connector},
    domain::{DatabaseTime, TableName, Tenant},
    ops::{self, GivenKey, NamedTableError, Story, StoryError},
    queue::{
        self, Asked,
        dead_letter::{self, DeadLetter},
        ledger,
        status::tenant_name,
    },
    telemetry,
    webhook::{self, Retried},
};

/// A connection to an existing, migrated database.
pub(super) async fn open(config: Option<&Path>) -> anyhow::Result<(PgPool, Connector)> {
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

pub(super) fn shown(time: Option<DatabaseTime>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.utc().format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

pub(super) async fn dead_letters(config: Option<&Path>, command: DeadLetterCommand) -> anyhow::Result<ExitCode> {
    let (pool, connector) = open(config).await?;
    match command {
        DeadLetterCommand::List { json } => list(&pool, json).await,
        DeadLetterCommand::Show { id, json } => show(&pool, id, json).await,
        DeadLetterCommand::Retry(ChosenLetters { ids, all, json }) => {
            let letters = chosen(&pool, ids, all).await?;
            let (ids, asked) = asked(&pool, &letters, "retry").await?;
            // What has been left out since a body came is left out now.
            let exclusions = MirrorSettings::exclusions(&Source::from_process(config)?)?;
            let Retried { rows, bodies, left } = webhook::retry(&pool, connector, exclusions, &ids, &asked).await?;
            for (id, reason) in &left {
                complain!("dead letter {id} is still not understood: {reason}");
            }
            let left = left.len();
            if json {
                say!("{}", json!({ "rows": rows, "bodies": bodies, "left": left }));
            } else {
                say!("{rows} rows and {bodies} bodies are tried again, {left} left");
            }
            Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        DeadLetterCommand::Drop(ChosenLetters { ids, all, json }) => {
            let letters = chosen(&pool, ids, all).await?;
            let (ids, asked) = asked(&pool, &letters, "drop").await?;
            let dropped = dead_letter::remove(&pool, &ids, &asked).await?;
            if json {
                say!("{}", json!({ "dropped": dropped }));
            } else {
                say!("{dropped} dropped");
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
        say!("{}", serde_json::to_string(&letters)?);
        return Ok(ExitCode::SUCCESS);
    }
    for letter in letters {
        let row = match (&letter.table_name, &letter.key) {
            (Some(table), Some(key)) => {
                format!("{table} of {} {key}", tenant_name(letter.company_no, letter.customer_no))
            }
            _ => "body".to_owned(),
        };
        say!("{}\t{}\t{row}\t{}", letter.id, shown(Some(letter.last_at)), letter.reason.replace(['\n', '\t'], " "));
    }
    Ok(ExitCode::SUCCESS)
}

/// What `show` prints.
#[derive(Debug, Serialize)]
struct WithBody {
    #[serde(flatten)]
    letter: DeadLetter,
    body: Option<String>,
}

async fn show(pool: &PgPool, id: i64, as_json: bool) -> anyhow::Result<ExitCode> {
    let (letter, body) = dead_letter::show(pool, id).await?.with_context(|| format!("there is no dead letter {id}"))?;
    let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
    let shown = WithBody { letter, body };
    say!("{}", if as_json { serde_json::to_string(&shown)? } else { serde_json::to_string_pretty(&shown)? });
    Ok(ExitCode::SUCCESS)
}

/// The named letters, or all. Naming one that does not exist is an error.
async fn chosen(pool: &PgPool, ids: Vec<i64>, all: bool) -> anyhow::Result<Vec<DeadLetter>> {
    let known = letters(pool).await?;
    if all {
        return Ok(known);
    }
    if ids.is_empty() {
        return Err(Usage("name the dead letters by their numbers, or give --all".into()).into());
    }
    if let Some(unknown) = ids.iter().find(|&&id| !known.iter().any(|letter| letter.id == id)) {
        bail!("there is no dead letter {unknown}");
    }
    Ok(known.into_iter().filter(|letter| ids.contains(&letter.id)).collect())
}

/// The letters' numbers, and what is asked for them by whoever runs this.
async fn asked(pool: &PgPool, letters: &[DeadLetter], verb: &str) -> anyhow::Result<(Vec<i64>, Asked)> {
    let asked = Asked::of(pool, letters, verb, &asker(pool).await?).await?;
    Ok((letters.iter().map(|letter| letter.id).collect(), asked))
}

pub(super) async fn replay(config: Option<&Path>, args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let moment = |text: &str, name: &str| {
        DatabaseTime::parse(text)
            .ok_or_else(|| Usage(format!("{name}: {text:?} is not a time such as 2026-02-01T10:00:00Z")))
    };
    let since = moment(&args.since, "--since")?;
    let until = args.until.as_deref().map(|text| moment(text, "--until")).transpose()?;
    let (pool, _) = open(config).await?;
    let table = match &args.table {
        Some(table) => Some(table_named(&pool, table).await?),
        None => None,
    };
    let range = ledger::ReplayRange { since, until, company: args.company, table };
    let rows = ledger::replay(&pool, &range).await?;
    let what = format!("replay {range}: {rows} rows, {}", asker(&pool).await?);
    queue::log_operator(&pool, None, &what).await?;
    if args.json {
        say!("{}", json!({ "rows": rows }));
    } else {
        say!("{rows} rows are fetched again");
    }
    Ok(ExitCode::SUCCESS)
}

async fn table_named(pool: &PgPool, text: &str) -> anyhow::Result<TableName> {
    ops::named_table(pool, text).await.map_err(|error| match error {
        NamedTableError::Name(error) => Usage(format!("--table: {error}")).into(),
        error => error.into(),
    })
}

pub(super) async fn explain(
    config: Option<&Path>,
    table: String,
    key: Vec<String>,
    company: Option<i64>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let (pool, _) = open(config).await?;
    let story = Story::read(&pool, &table, &GivenKey::InOrder(key), company.map(Tenant::Company)).await;
    let story = story.map_err(|error| match error {
        StoryError::OtherColumns { .. } | StoryError::Key(_) => Usage(error.to_string()).into(),
        error => anyhow::Error::from(error),
    })?;
    if as_json {
        say!("{}", serde_json::to_string(&story)?);
        return Ok(ExitCode::SUCCESS);
    }
    if story.events.is_empty() {
        say!("nothing is known of this row");
    }
    for event in story.events {
        let notification = event.notification_id.map(|id| format!(" (notification {id})")).unwrap_or_default();
        let at = event.at.utc().format("%Y-%m-%d %H:%M:%S%.3f");
        let tenant = tenant_name(event.company_no, event.customer_no);
        say!("{at}  {tenant:<16} {:<12} {}{notification}", event.source, event.what);
    }
    Ok(ExitCode::SUCCESS)
}
