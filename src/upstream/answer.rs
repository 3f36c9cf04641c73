//! Reading the answer of a row fetch: each part by itself, nothing taken for granted.
//!
//! Errors may stand beside data. An error with a path belongs to the part its path leads to; one without belongs
//! to the parts that have no data, and to all of them when every part has some. Only a part that is free of errors
//! and of exactly the shape that was asked for counts as an answer; anything else is never taken for "no row".

use std::sync::Arc;

use chrono_tz::Tz;
use serde_json::{Map, Value as Json};

use super::{AskError, GraphqlError, client::Answer, value};
use crate::domain::{Row, RowKey, TableSpec, Value};

/// One part's rows.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) rows: Vec<Result<Row, BadRow>>,
    pub(super) has_next: bool,
    /// `totalCount`, where it was asked for.
    pub(super) total: Option<u64>,
}

/// A row whose key can be read but not all of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    pub(super) key: RowKey,
    pub(super) problem: String,
}

/// Where a part lies in the answer.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Alias of the tenant.
    pub(super) context: String,
    /// Alias of the table within it.
    pub(super) part: String,
    /// What the rows look like.
    pub(super) table: Arc<TableSpec>,
}

/// Takes the answer apart, one result for each place.
pub(super) fn read(answer: Answer, places: &[Place], zone: Tz) -> Vec<Result<Page, AskError>> {
    let Answer { data, errors, .. } = answer;
    let branch = |place: &Place| data.get(&place.context)?.get(&place.part).filter(|branch| !branch.is_null());
    let every_part_has_data = places.iter().all(|place| branch(place).is_some());
    places
        .iter()
        .map(|place| {
            let branch = branch(place);
            let concerns = |error: &&GraphqlError| match error.path.as_slice() {
                [] => branch.is_none() || every_part_has_data,
                [context] => *context == place.context,
                [context, part, ..] => *context == place.context && *part == place.part,
            };
            let own: Vec<GraphqlError> = errors.iter().filter(concerns).cloned().collect();
            match (own.is_empty(), branch) {
                (false, _) => Err(AskError::Graphql(own)),
                (true, None) => Err(AskError::Shape("a part of the answer is null without an error".into())),
                (true, Some(branch)) => page(branch, &place.table, zone).map_err(AskError::Shape),
            }
        })
        .collect()
}

fn page(branch: &Json, table: &Arc<TableSpec>, zone: Tz) -> Result<Page, String> {
    let items = branch.get("items").and_then(Json::as_array).ok_or("items is not a list")?;
    let has_next = branch
        .get("pageInfo")
        .and_then(|info| info.get("hasNextPage"))
        .and_then(Json::as_bool)
        .ok_or("pageInfo.hasNextPage is not a boolean")?;
    let rows = items
        .iter()
        .map(|item| row(item.as_object().ok_or("a row is not an object")?, table, zone))
        .collect::<Result<_, _>>()?;
    let total = branch.get("totalCount").and_then(Json::as_u64);
    Ok(Page { rows, has_next, total })
}

/// A row without a readable key fails the page, since nobody can say whose it is.
fn row(item: &Map<String, Json>, table: &Arc<TableSpec>, zone: Tz) -> Result<Result<Row, BadRow>, String> {
    let read = |index: usize| {
        let column = &table.columns[index];
        let json = item.get(&column.name).ok_or_else(|| format!("column {} is missing", column.name))?;
        value::read(&column.name, column.kind, json, zone).map_err(|error| error.to_string())
    };
    let key = table
        .key
        .iter()
        .map(|&index| {
            read(index)?.to_key().ok_or_else(|| format!("key column {} has no value", table.columns[index].name))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let key = RowKey::from_values(key);
    let values = match (0..table.columns.len()).map(read).collect::<Result<Vec<_>, String>>() {
        Ok(values) => values,
        Err(problem) => return Ok(Err(BadRow { key, problem })),
    };
    let changed_at = table.changed_column().and_then(|index| match &values[index] {
        Value::TimestampTz(time) => Some(*time),
        _ => None,
    });
    Ok(Ok(Row { table: Arc::clone(table), key, changed_at, values }))
}
