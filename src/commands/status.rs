//! `status`: how the mirror is, and what to do next.

use std::{io::IsTerminal, path::Path, process::ExitCode};

use super::{
    colour::Colour,
    operate::{open, shown},
};
use crate::{
    config::{Source, UpstreamSettings},
    ops::{self, Advice, Status, Weight},
    queue::status::Freshness,
};

/// Lag, backlog, budget and each table.
pub(super) async fn status(config: Option<&Path>, as_json: bool) -> anyhow::Result<ExitCode> {
    let source = Source::from_process(config)?;
    let per_minute = UpstreamSettings::requests_per_minute(&source)?;
    let (pool, _) = open(config).await?;
    let status = Status::read(&pool, per_minute).await?;
    if as_json {
        say!("{}", serde_json::to_string(&status)?);
    } else {
        print(&status, Colour::of(std::io::stdout().is_terminal()));
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &Status, colour: Colour) {
    let made = status.budget.by_purpose.parts().into_iter().filter(|(_, requests)| *requests > 0);
    let made: Vec<String> = made.map(|(purpose, requests)| format!("{requests} {purpose}")).collect();
    let made = if made.is_empty() { String::new() } else { format!(" ({})", made.join(", ")) };
    say!(
        "{}: lag {} s, {} rows waiting, {} dead letters, {} of {} API requests in the last minute{made}",
        state(status.word(), colour),
        status.lag_seconds,
        status.backlog,
        status.dead_letters,
        status.budget.used,
        status.budget.per_minute
    );
    let advice = ops::advice(status);
    if !advice.is_empty() {
        say!("\nto do, the most important first:");
        advice.iter().for_each(|advice| say!("{}", item(advice, colour)));
        say!("");
    }
    for target in &status.tables {
        say!("{}", line(target, colour));
    }
}

fn state(state: &str, colour: Colour) -> String {
    match state.trim_end() {
        "current" => colour.good(state),
        "catching up" => colour.busy(state),
        _ => colour.bad(state),
    }
}

fn item(advice: &Advice<'_>, colour: Colour) -> String {
    let mark = match advice.weight {
        Weight::Urgent => colour.bad("!"),
        Weight::Soon => colour.busy("*"),
        Weight::Whenever => colour.dim("-"),
    };
    format!("  {mark} {advice}\n    {}", colour.dim(&advice.remedy))
}

/// A target in one line.
fn line(target: &Freshness, colour: Colour) -> String {
    let proof = match (target.partial, target.differences) {
        (true, _) => "partial: only what notifications brought".to_owned(),
        (false, None) => "complete, never verified".to_owned(),
        (false, Some(0)) => format!("equal as of {}", shown(target.last_verified)),
        (false, Some(differences)) => format!("{differences} differences as of {}", shown(target.last_verified)),
    };
    let pause = match (target.paused_until, &target.paused_because) {
        (Some(until), Some(because)) => format!("; paused until {}: {because}", shown(Some(until))),
        (None, Some(because)) => format!("; {because}"),
        (_, None) => String::new(),
    };
    let silence = target.silent_since.map_or_else(String::new, |since| {
        format!("; changes, but no notification since {}: is the subscription gone?", shown(Some(since)))
    });
    format!(
        "{:<18} {:<32} {} {:>10} rows {:>6} waiting  {proof}{pause}{silence}",
        target.tenant_name(),
        target.table,
        state(&format!("{:<12}", target.state), colour),
        target.rows,
        target.backlog
    )
}
