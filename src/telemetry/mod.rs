//! Logs and metrics: how they are set up, and what everything is called.

mod metrics;
mod purpose;
mod repeats;
mod text;

use std::{error::Error, fmt, io::IsTerminal};

use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

pub use metrics::Metrics;
pub use purpose::Purpose;
pub use repeats::{tell_last_repeats, tell_repeats};

use crate::config::{LogFormat, LogSettings};

/// Libraries whose everyday messages nobody needs; the filter of the settings may say otherwise.
/// What a pool says of its connections, `database` says in its own words.
const QUIET: &str = "actix_server=warn,sqlx=warn,sqlx::query=error,sqlx::pool=off";

/// Where lines come from that tell by themselves what happened to whom.
pub const STORY: &str = "nxt_mirror::story";
/// Where lines come from that tell what operators did.
pub const OPERATORS: &str = "nxt_mirror::operators";

/// Starts logging to standard error. Does nothing if the process already logs.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::new(format!("{QUIET},{}", settings.filter));
    let terminal = std::io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // Standard error is where that would be told, too.
        .log_internal_errors(false)
        .with_ansi(terminal);
    let layer = match format {
        LogFormat::Text => layer.event_format(text::Text::new()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let started = tracing_subscriber::registry().with(filter).with(repeats::Repeats::default()).with(layer).try_init();
    if started.is_err() {
        tracing::debug!("logging was already set up");
    }
}

/// Shows an error with all its causes, separated by colons.
pub fn chain(error: &(dyn Error + 'static)) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Some libraries repeat their cause in their own message.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}
