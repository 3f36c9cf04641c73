//! `logs`: the sync log from the database.

use std::{io::IsTerminal, path::Path, process::ExitCode, time::Duration};

use sqlx::PgPool;

use super::{colour::Colour, operate::open};
use crate::{
    cli::LogsArgs,
    domain::naming,
    queue::{
        activity::{self, Activity, EntryFilter},
        status::tenant_name,
    },
};

/// Entries that are read at once.
const PAGE: i64 = 1_000;
/// How often it is looked for new ones.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Prints entries, oldest first, and goes on if it is to follow.
pub(super) async fn logs(config: Option<&Path>, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let (pool, _) = open(config).await?;
    let filter = EntryFilter {
        company: args.company,
        table: args.table.as_deref().map(naming::folded),
        ..EntryFilter::default()
    };
    let mut after = match args.tail {
        Some(tail) => activity::before_latest(&pool, &filter, tail.into()).await?,
        None => 0,
    };
    loop {
        let (last, is_read) = print_page(&pool, &filter, after, args.json).await?;
        after = last;
        match is_read {
            Page::Full => {}
            Page::Last if args.follow => tokio::time::sleep(POLL_INTERVAL).await,
            Page::Last => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What came of a page.
enum Page {
    /// There may be more.
    Full,
    /// That was all of it.
    Last,
}

async fn print_page(pool: &PgPool, filter: &EntryFilter, after: i64, as_json: bool) -> anyhow::Result<(i64, Page)> {
    let entries = activity::after(pool, filter, after, PAGE).await?;
    let last = entries.last().map_or(after, |entry| entry.id);
    let colour = Colour::of(std::io::stdout().is_terminal());
    for entry in &entries {
        say!("{}", if as_json { serde_json::to_string(entry)? } else { line(entry, colour) });
    }
    let is_full = i64::try_from(entries.len()).is_ok_and(|count| count >= PAGE);
    Ok((last, if is_full { Page::Full } else { Page::Last }))
}

/// An entry in one line.
fn line(entry: &Activity, colour: Colour) -> String {
    let at = entry.at.utc().format("%Y-%m-%d %H:%M:%S%.3f");
    let whose = match entry.company_no.or(entry.customer_no) {
        Some(_) => tenant_name(entry.company_no, entry.customer_no),
        None => String::new(),
    };
    let table = entry.table_name.as_deref().unwrap_or_default();
    let key = entry.key.as_ref().map(ToString::to_string).unwrap_or_default();
    let action = format!("{:<14}", entry.action);
    let action = match entry.action.as_str() {
        "failed" | "dead_letter" => colour.bad(&action),
        "inserted" | "updated" | "deleted" => colour.good(&action),
        _ => colour.dim(&action),
    };
    let notification = entry.notification_id.map(|id| format!(" (notification {id})")).unwrap_or_default();
    format!(
        "{}  {whose:<16}  {table:<20}  {action}  {key}  {}{notification}",
        colour.dim(&at.to_string()),
        entry.reason
    )
}
