//! Spans of the work that matters: what traces are made of.
//!
//! A span says whose work it is, how much of it, and whether it failed. It never has a key, a value, a body, a token or
//! the text of an error, which may quote one. Whoever has no traces exported has no spans either: they are turned off
//! where they stand, and cost a look at a number.

use std::{fmt, time::Duration};

use tracing::{Instrument, Span, field::Empty};

/// Where spans come from.
pub(super) const SPANS: &str = "nxt_mirror::spans";

/// One commit of so many notifications.
pub fn append(notifications: usize) -> Span {
    let notifications = number(notifications);
    tracing::info_span!(target: SPANS, "append", otel.kind = "consumer", notifications, otel.status_code = Empty)
}

/// The way of claimed rows: fetched together, settled by target.
pub fn serve(targets: usize, rows: usize) -> Span {
    let (targets, rows) = (number(targets), number(rows));
    tracing::info_span!(target: SPANS, "serve", targets, rows)
}

/// One request for so many rows of so many targets.
pub fn fetch(targets: usize, rows: usize) -> Span {
    let (targets, rows) = (number(targets), number(rows));
    tracing::info_span!(
        target: SPANS, "fetch", otel.kind = "client", targets, rows, waited_ms = Empty, otel.status_code = Empty
    )
}

/// What is known of rows of one target, written to the mirror.
pub fn settle(tenant: impl fmt::Display, table: impl fmt::Display, rows: usize) -> Span {
    let rows = number(rows);
    tracing::info_span!(target: SPANS, "settle", %tenant, %table, rows, otel.status_code = Empty)
}

/// Notes how long a request has waited before it was sent.
pub fn note_wait(span: &Span, waited: Duration) {
    span.record("waited_ms", i64::try_from(waited.as_millis()).unwrap_or(i64::MAX));
}

/// A number as OTLP has them: signed.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Does work inside a span, and notes if it failed.
pub async fn within<T, E>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let result = work.instrument(span.clone()).await;
    if result.is_err() {
        span.record("otel.status_code", "error");
    }
    result
}
