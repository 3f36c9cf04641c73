//! Log lines for people.

use std::fmt;

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{ChronoUtc, FormatTime},
    },
    registry::LookupSpan,
};

use super::STORY;

/// A time, a level where it is not the usual one, what happened, and what it happened to. Lines that tell a story stand
/// by themselves: what they happened to is in their words.
#[derive(Debug)]
pub(super) struct Text {
    clock: ChronoUtc,
}

impl Text {
    pub(super) fn new() -> Self {
        Self { clock: ChronoUtc::new("%Y-%m-%d %H:%M:%S%.3f".to_owned()) }
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let (dim, end) = if writer.has_ansi_escapes() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        write!(writer, "{dim}")?;
        self.clock.format_time(&mut writer)?;
        write!(writer, "{end}  {}", level(*event.metadata().level(), writer.has_ansi_escapes()))?;
        write!(writer, "{}", parts.message)?;
        if event.metadata().target() != STORY && !parts.fields.is_empty() {
            write!(writer, "  {dim}{}{end}", parts.fields)?;
        }
        writeln!(writer)
    }
}

/// The usual level says nothing.
fn level(level: Level, has_colours: bool) -> String {
    let (name, code) = match level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => ("WARN", "33"),
        Level::INFO => return String::new(),
        Level::DEBUG => ("debug", "2"),
        Level::TRACE => ("trace", "2"),
    };
    if has_colours { format!("\x1b[{code}m{name}\x1b[0m  ") } else { format!("{name}  ") }
}

/// An event's message, and its other fields.
#[derive(Debug, Default)]
struct Parts {
    message: String,
    fields: String,
}

impl Parts {
    fn add(&mut self, field: &Field, value: &dyn fmt::Display) {
        use fmt::Write;
        // Some library logs its own record's origin.
        if field.name() == "message" {
            self.message = one_line(&value.to_string());
        } else if !field.name().starts_with("log.") {
            let separator = if self.fields.is_empty() { "" } else { "  " };
            let _ = write!(self.fields, "{separator}{}={}", field.name(), one_line(&value.to_string()));
        }
    }
}

/// What comes from outside must not look like a line of its own, or move a terminal's cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" || value.chars().all(|character| character.is_alphanumeric()) {
            self.add(field, &value);
        } else {
            self.add(field, &format_args!("{value:?}"));
        }
    }
}
