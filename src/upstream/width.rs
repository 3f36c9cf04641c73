//! How wide the rows of a table are, learned from answers, so that a request asks for no more than fits into memory.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{Upstream, answer::Page};
use crate::domain::{Row, TableSpec, Value};

/// Bytes of rows that one request should bring at most.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are allowed for a row of a table of which none was seen: about a hundred rows in the first request.
const UNSEEN_WIDTH: usize = REQUEST_BYTES / 100;

/// Bytes of a row, by the mirrored table's name.
#[derive(Debug, Default)]
pub(super) struct Widths(Mutex<HashMap<String, usize>>);

impl Widths {
    /// Learns from a page. Wide rows count at once, narrow ones after some pages.
    pub(super) fn learn(&self, table: &TableSpec, page: &Page) {
        let rows = page.rows.iter().flatten().count();
        if rows == 0 {
            return;
        }
        let seen = page.rows.iter().flatten().map(width).sum::<usize>() / rows;
        let mut widths = self.0.lock();
        match widths.get_mut(&table.sql_name) {
            Some(known) => *known = seen.max(*known - *known / 8),
            None => drop(widths.insert(table.sql_name.clone(), seen)),
        }
    }

    fn rows_max(&self, table: &TableSpec) -> usize {
        let widths = self.0.lock();
        let width = widths.get(&table.sql_name).copied().unwrap_or(UNSEEN_WIDTH);
        (REQUEST_BYTES / width.max(1)).max(1)
    }
}

impl Upstream {
    /// How many rows of this table to ask for in one request: `rows_max`, or fewer if its rows have been found to be
    /// wide.
    pub fn rows_max(&self, table: &TableSpec, rows_max: usize) -> usize {
        self.widths.rows_max(table).min(rows_max)
    }
}

fn width(row: &Row) -> usize {
    let text = |value: &Value| match value {
        Value::Text(text) | Value::Decimal(text) => text.len(),
        Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::TimestampTz(_)
        | Value::Timestamp(_)
        | Value::Date(_)
        | Value::Time(_) => 0,
    };
    size_of_val(row.values.as_slice()) + row.values.iter().map(text).sum::<usize>()
}
