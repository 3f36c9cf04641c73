//! What the API may do and rarely does: odd forms of what is right, to be set while it runs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{
    model::TableDef,
    value::{Ordered, Value},
    wording::Wording,
};

/// Stands at both ends of the text that an odd value is put in place of.
const MARK: char = '\u{e000}';

/// Odd forms of answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Oddities {
    /// A byte order mark stands before each answer of the API and of the token endpoint.
    pub byte_order_mark: bool,
    /// `expires_in` of token answers, as JSON; an empty text leaves it out. Tokens live as long as ever.
    pub expires_in: Option<String>,
    /// What the token endpoint answers, with status 200, in place of a token.
    pub token_answer: Option<String>,
    /// Answers are compressed where the client offers to understand that.
    pub gzip: bool,
    /// Answers bear this name of an encoding, whether or not the client offers it.
    pub encoding: Option<String>,
    /// How a 429 says how long to wait.
    pub retry_after: RetryAfter,
    /// Seconds that a token lives, and that its answer tells, in place of [`Options::token_seconds`](super::Options).
    pub token_seconds: Option<u64>,
    /// Rows in one page at most, whatever `first` says.
    pub page_rows_max: Option<usize>,
    /// Integers of 64 bits are sent as texts.
    pub longs_as_text: bool,
    /// Errors say what is wrong and not where.
    pub errors_without_paths: bool,
    /// The texts of descriptions.
    pub wording: Wording,
    /// Values that are sent in another form than they are kept.
    pub values: Vec<OddValue>,
}

impl Oddities {
    /// The API as it may well be where the documentation is silent: the other choice in everything.
    pub fn second_dialect(wording: Wording) -> Self {
        Self {
            gzip: true,
            retry_after: RetryAfter::Missing,
            token_seconds: Some(2),
            page_rows_max: Some(3),
            longs_as_text: true,
            errors_without_paths: true,
            wording,
            ..Self::default()
        }
    }
}

/// A form of `Retry-After`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    /// `2`
    #[default]
    Seconds,
    /// `1.5`
    Fraction,
    /// `Wed, 25 Nov 2026 16:00:00 GMT`
    Date,
    /// It does not say.
    Missing,
}

/// What is sent of one column of one row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OddValue {
    /// The row's table, whosever it is.
    pub table: String,
    /// The row's key.
    pub key: Map<String, Json>,
    /// The column.
    pub column: String,
    /// What is sent, character for character.
    pub json: String,
}

impl RetryAfter {
    /// The header's value, and how long it tells to wait.
    pub(super) fn value(self, pause: Duration) -> Option<(String, Duration)> {
        Some(match self {
            Self::Missing => return None,
            Self::Seconds => {
                let seconds = pause.as_secs_f64().ceil();
                (seconds.to_string(), Duration::from_secs_f64(seconds))
            }
            Self::Fraction => (format!("{:.3}", pause.as_secs_f64()), pause),
            Self::Date => {
                let now = now().duration_since(UNIX_EPOCH).unwrap_or_default();
                // A date has whole seconds.
                let until = Duration::from_secs((now + pause).as_secs() + 1);
                (httpdate::fmt_http_date(UNIX_EPOCH + until), until - now)
            }
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a date in a header is one of the real clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The oddities of one simulator.
#[derive(Debug, Default)]
pub(super) struct Odd {
    oddities: Mutex<Oddities>,
    /// So that no value waits for the others' lock where none is odd.
    has_values: AtomicBool,
    longs_as_text: AtomicBool,
}

impl Odd {
    pub(super) fn new(oddities: Oddities) -> Self {
        let own = Self::default();
        own.change(|odd| *odd = oddities);
        own
    }

    pub(super) fn current(&self) -> Oddities {
        self.oddities.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Oddities)) {
        let mut oddities = self.oddities.lock();
        change(&mut oddities);
        self.has_values.store(!oddities.values.is_empty(), Ordering::Relaxed);
        self.longs_as_text.store(oddities.longs_as_text, Ordering::Relaxed);
    }

    /// Whether integers of 64 bits are sent as texts.
    pub(super) fn longs_as_text(&self) -> bool {
        self.longs_as_text.load(Ordering::Relaxed)
    }

    /// What stands in an answer for an odd value until it is sent.
    pub(super) fn placeholder(&self, table: &TableDef, row: &[Value], column: &str) -> Option<String> {
        if !self.has_values.load(Ordering::Relaxed) {
            return None;
        }
        let oddities = self.oddities.lock();
        let fits = |odd: &OddValue| odd.table == table.name && odd.column == column && is_row(table, row, &odd.key);
        oddities.values.iter().position(fits).map(|index| format!("{MARK}{index}{MARK}"))
    }

    /// An answer as it is sent.
    pub(super) fn sent(&self, mut text: String) -> String {
        let oddities = self.oddities.lock();
        for (index, odd) in oddities.values.iter().enumerate() {
            text = text.replace(&format!("\"{MARK}{index}{MARK}\""), &odd.json);
        }
        if oddities.byte_order_mark {
            text.insert(0, '\u{feff}');
        }
        text
    }
}

fn is_row(table: &TableDef, row: &[Value], key: &Map<String, Json>) -> bool {
    key.iter().all(|(name, json)| {
        let Some(index) = table.column(name) else { return false };
        let wanted = Value::read(&table.columns[index].scalar, json).map(|value| value.ordered());
        wanted.is_ok_and(|wanted| wanted != Ordered::Null && wanted == row[index].ordered())
    })
}
