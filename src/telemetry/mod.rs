//! Logs, metrics and traces: how they are set up, and what everything is called.

#[cfg(any(feature = "otlp", test))]
mod collector;
#[cfg(feature = "otlp")]
mod export;
mod metrics;
mod purpose;
mod repeats;
pub mod spans;
mod text;
mod traces;

use std::{error::Error, fmt, io::IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    layer::{Identity, SubscriberExt},
    util::SubscriberInitExt,
};

pub use metrics::Metrics;
pub use purpose::Purpose;
pub use repeats::{tell_last_repeats, tell_repeats};
pub use traces::Traces;

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
    start_with(settings, None::<Identity>);
}

fn start_with(settings: &LogSettings, spans: Option<impl Layer<Registry> + Send + Sync + 'static>) {
    if subscriber(settings, spans).try_init().is_err() {
        tracing::debug!("logging was already set up");
    }
}

/// Writes to standard error, and gives spans to whoever takes them. Otherwise there are none.
fn subscriber(
    settings: &LogSettings,
    spans: Option<impl Layer<Registry> + Send + Sync + 'static>,
) -> impl Subscriber + Send + Sync {
    let level = if spans.is_some() { "info" } else { "off" };
    let filter = EnvFilter::new(format!("{QUIET},{},{}={level}", settings.filter, spans::SPANS));
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
    // Lines of the log say nothing of the spans that they are written in.
    let layer = match &spans {
        Some(_) => layer.with_filter(filter_fn(|metadata| metadata.target() != spans::SPANS)).boxed(),
        None => layer,
    };
    tracing_subscriber::registry().with(spans).with(filter).with(repeats::Repeats::default()).with(layer)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_somebody_who_takes_them_there_are_no_spans_whatever_is_logged() {
        let everything = LogSettings { filter: "trace".into(), format: Some(LogFormat::Json) };
        tracing::subscriber::with_default(subscriber(&everything, None::<Identity>), || {
            assert!(spans::fetch(1, 1).is_disabled());
        });
        let nothing = LogSettings { filter: "off".into(), format: None };
        tracing::subscriber::with_default(subscriber(&nothing, Some(Identity::new())), || {
            assert!(!spans::fetch(1, 1).is_disabled());
        });
    }
}
