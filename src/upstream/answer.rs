//! Reading the answer of a row fetch: each part by itself, nothing taken for granted.
//!
//! Errors may stand beside data. An error with a path belongs to the part its path leads to; one without, but with a
//! line of the query that is some parts' own, to these; any other to the parts that have no data, and to all of them
//! when every part has some. Only a part that is free of errors and of exactly the shape that was asked for counts as
//! an answer; anything else is never taken for "no row".

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{GraphqlError, envelope::Answer, value};
use crate::domain::{
    KeyValue, Row, RowKey, TableName, TableSpec, Value,
    json::{Name, storable},
};

/// Why one part of a request brought no rows, while others may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The API reports errors for it.
    #[error("the API reports: {}", super::error::list(.0))]
    Graphql(Vec<GraphqlError>),
    /// It is not what was asked for.
    #[error("the API's answer has another shape than was asked for: {0}")]
    Shape(String),
    /// Two rows have one key, so that a column of the key is not known, and nobody can say which row is whose.
    #[error(
        "two rows of table {table} have one key, {key}: a key column is missing; set NXT_KEYS to tell all of them, for \
         example NXT_KEYS=\"{table}={columns}+anotherColumn\""
    )]
    OneKey {
        /// The table.
        table: TableName,
        /// The key as people read it.
        key: String,
        /// The columns that are taken for the key.
        columns: String,
    },
    /// The request was refused because of another part of it.
    #[error("the request was refused because of another of its tables")]
    Unanswered,
}

/// One part's rows.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) rows: Vec<Result<Row, BadRow>>,
    pub(super) has_next: bool,
    /// The last key that the source can be asked for the rows behind of, and how many rows of the page lie behind it.
    pub(super) position: Option<RowKey>,
    pub(super) behind: usize,
    /// `totalCount`, where it was asked for.
    pub(super) total: Option<u64>,
}

impl Page {
    /// Leaves the last row to the next page, so that a second row of its key, which the next page would begin behind, is
    /// met beside it. Not where that would leave a row of which not even the key can be asked for as the last one.
    pub(super) fn hold_back_last(&mut self) {
        let [.., before, _] = self.rows.as_slice() else { return };
        let Some(before) = key_of(before).filter(|key| !key.has_replacement()) else { return };
        if self.has_next && self.behind == 0 {
            self.position = Some(before.clone());
            self.rows.pop();
        }
    }
}

/// A row that cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadRow {
    /// Its key; `None` where that is what cannot be read.
    pub(super) key: Option<RowKey>,
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
    /// Lines of the query that are about this part, or about its table.
    pub(super) lines: Vec<u64>,
}

/// Members of an object, unread.
pub(super) type Members<'a> = HashMap<Name<'a>, &'a RawValue>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPage<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
    page_info: PageInfo,
    #[serde(borrow, default)]
    total_count: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
}

/// Takes the answer apart, one result for each place.
pub(super) fn read(answer: &Answer, places: &[Place], zone: Tz) -> Vec<Result<Page, AskError>> {
    let contexts: HashMap<Name<'_>, Members<'_>> =
        members(answer.data()).into_iter().map(|(alias, context)| (alias, members(context.get()))).collect();
    let branch = |place: &Place| {
        let branch = contexts.get(place.context.as_str())?.get(place.part.as_str())?.get();
        (branch != "null").then_some(branch)
    };
    let branches: Vec<Option<&str>> = places.iter().map(branch).collect();
    let errors = Errors::new(&answer.errors, places, branches.iter().all(Option::is_some));
    let read = |(place, branch): (&Place, Option<&str>)| match (errors.of(place, branch.is_some()), branch) {
        (own, _) if !own.is_empty() => Err(AskError::Graphql(own)),
        (_, None) if errors.are_of_others() => Err(AskError::Unanswered),
        (_, None) => Err(AskError::Shape("a part of the answer is null without an error".into())),
        (_, Some(branch)) => {
            page(branch, &place.table, zone).map_err(AskError::Shape).and_then(|page| distinct(page, &place.table))
        }
    };
    places.iter().zip(branches).map(read).collect()
}

/// The errors of an answer, and whom they concern.
struct Errors<'a> {
    errors: &'a [GraphqlError],
    places: &'a [Place],
    every_part_has_data: bool,
}

impl<'a> Errors<'a> {
    fn new(errors: &'a [GraphqlError], places: &'a [Place], every_part_has_data: bool) -> Self {
        Self { errors, places, every_part_has_data }
    }

    fn of(&self, place: &Place, has_data: bool) -> Vec<GraphqlError> {
        let concerns = |error: &&GraphqlError| match error.path.as_slice() {
            [] if self.is_placed(error) => is_at(error, place),
            [] => !has_data || self.every_part_has_data,
            [context] => *context == place.context,
            [context, part, ..] => *context == place.context && *part == place.part,
        };
        self.errors.iter().filter(concerns).cloned().collect()
    }

    /// Whether its line tells which parts it concerns.
    fn is_placed(&self, error: &GraphqlError) -> bool {
        self.places.iter().any(|place| is_at(error, place))
    }

    /// Whether a request without data is explained by errors that concern some of its parts.
    fn are_of_others(&self) -> bool {
        self.errors.iter().any(|error| error.path.is_empty() && self.is_placed(error))
    }
}

fn is_at(error: &GraphqlError, place: &Place) -> bool {
    error.lines.iter().any(|line| place.lines.contains(line))
}

/// The members of an object; none of anything else.
pub(super) fn members(text: &str) -> Members<'_> {
    serde_json::from_str(text).unwrap_or_default()
}

fn page(branch: &str, table: &Arc<TableSpec>, zone: Tz) -> Result<Page, String> {
    if !branch.starts_with('{') {
        return Err("a part is not an object".into());
    }
    let page: RawPage<'_> = serde_json::from_str(branch).map_err(|error| error.to_string())?;
    let mut rows = Vec::with_capacity(page.items.len());
    let (mut last, mut behind) = (None, 0);
    for item in page.items {
        let ReadRow { row, is_askable } = row(item, table, zone)?;
        (last, behind) = if is_askable { (Some(rows.len()), 0) } else { (last, behind + 1) };
        rows.push(row);
    }
    let position = last.and_then(|last| key_of(&rows[last]).cloned());
    let total = page.total_count.and_then(|count| count.get().parse().ok());
    Ok(Page { rows, has_next: page.page_info.has_next_page, position, behind, total })
}

/// Each row once: one that came twice is dropped, and two rows of one key make the page useless.
fn distinct(mut page: Page, table: &TableSpec) -> Result<Page, AskError> {
    let mut known: HashMap<&RowKey, &Result<Row, BadRow>> = HashMap::with_capacity(page.rows.len());
    let mut repeated = HashSet::new();
    for (index, row) in page.rows.iter().enumerate() {
        // Where something of a key was replaced, two keys of the source may be one here.
        let Some(key) = key_of(row).filter(|key| !key.has_replacement()) else { continue };
        match (known.insert(key, row), row) {
            (None, _) => {}
            (Some(Ok(before)), Ok(row)) if before.values == row.values => _ = repeated.insert(index),
            (Some(_), _) => return Err(one_key(table, key)),
        }
    }
    if !repeated.is_empty() {
        let mut index = 0..;
        page.rows.retain(|_| !repeated.contains(&index.next().expect("it has no end")));
    }
    Ok(page)
}

fn one_key(table: &TableSpec, key: &RowKey) -> AskError {
    let columns: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
    AskError::OneKey { table: table.name.clone(), key: key.shown(table), columns: columns.join("+") }
}

/// The key of a row, if it can be read.
pub(super) fn key_of(row: &Result<Row, BadRow>) -> Option<&RowKey> {
    match row {
        Ok(row) => Some(&row.key),
        Err(bad) => bad.key.as_ref(),
    }
}

/// A row of a page.
struct ReadRow {
    row: Result<Row, BadRow>,
    /// Whether its key is as the source has it, so that the source can be asked for what lies behind.
    is_askable: bool,
}

impl ReadRow {
    fn bad(key: Option<RowKey>, problem: String, is_askable: bool) -> Self {
        Self { row: Err(BadRow { key, problem }), is_askable }
    }
}

/// Whatever is odd about a row is its own matter. Only a row without the columns of the key is no answer at all.
fn row(item: &RawValue, table: &Arc<TableSpec>, zone: Tz) -> Result<ReadRow, String> {
    let item: Members<'_> =
        serde_json::from_str(item.get()).map_err(|error| format!("a row is not an object: {error}"))?;
    let extensions = item.get("extensions").map(|raw| (members(raw.get()), raw.get() == "null"));
    let raw = |index: usize| {
        let column = &table.columns[index];
        let raw = match (column.extension, &extensions) {
            (None, _) => item.get(column.name.as_str()).copied(),
            // A row that has none of them.
            (Some(_), Some((_, true))) => Some(RawValue::NULL),
            (Some(_), Some((extensions, false))) => extensions.get(column.name.as_str()).copied(),
            (Some(_), None) => None,
        };
        raw.ok_or_else(|| format!("column {} is missing", column.name))
    };
    let read = |index: usize| {
        let column = &table.columns[index];
        value::read(&column.name, column.kind, raw(index)?, zone).map_err(|error| error.to_string())
    };
    let raw_key = table.key.iter().map(|&index| raw(index)).collect::<Result<Vec<_>, _>>()?;
    let key = match key(table, read) {
        Ok(key) => key,
        Err(problem) => return Ok(ReadRow::bad(None, problem, false)),
    };
    let is_askable = raw_key.iter().all(|raw| matches!(storable(raw.get()), Cow::Borrowed(_)));
    if let Some(error) = key.too_long(table) {
        return Ok(ReadRow::bad(Some(key), error.to_string(), is_askable));
    }
    Ok(match (0..table.columns.len()).map(read).collect::<Result<Vec<_>, String>>() {
        Ok(values) => {
            let changed_at = changed_at(table, &values);
            ReadRow { row: Ok(Row { table: Arc::clone(table), key, changed_at, values }), is_askable }
        }
        Err(problem) => ReadRow::bad(Some(key), problem, is_askable),
    })
}

fn key(table: &TableSpec, read: impl Fn(usize) -> Result<Value, String>) -> Result<RowKey, String> {
    let part = |&index: &usize| {
        read(index)?.to_key().ok_or_else(|| format!("key column {} has no value", table.columns[index].name))
    };
    table.key.iter().map(part).collect::<Result<Vec<KeyValue>, String>>().map(RowKey::from_values)
}

fn changed_at(table: &TableSpec, values: &[Value]) -> Option<crate::domain::SourceTime> {
    match values.get(table.changed_column()?)? {
        Value::TimestampTz(time) => Some(*time),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Column, ColumnType, DatabaseTime, ExtensionColumn, ExtensionType, KeyValue};

    fn place(part: &str, lines: &[u64]) -> Place {
        let column = Column::new;
        let table = TableSpec {
            columns: vec![column("no", ColumnType::Integer), column("name", ColumnType::Text)],
            key: vec![0],
            ..TableSpec::plain("Product", &[])
        };
        Place { context: "c0".into(), part: part.into(), table: Arc::new(table), lines: lines.into() }
    }

    fn pages(text: &str) -> Vec<Result<Page, AskError>> {
        let answer = Answer::parse(text.as_bytes().to_vec(), None, DatabaseTime::default()).unwrap();
        read(&answer, &[place("t0", &[3, 6]), place("t1", &[4, 7])], chrono_tz::UTC)
    }

    fn part(items: &str) -> String {
        format!(r#"{{"pageInfo":{{"hasNextPage":false}},"items":{items}}}"#)
    }

    #[test]
    fn rows_are_read_and_bad_values_are_their_row_s_alone() {
        let items = r#"[{"no":1,"name":"a\"b"},{"no":2.5,"name":"x"},{"no":2,"x":1},{"name":null,"n\u006f":3}]"#;
        let pages = pages(&format!(r#"{{"data":{{"c0":{{"t0":{},"t1":{}}}}}}}"#, part(items), part("[]")));
        let rows = &pages[0].as_ref().unwrap().rows;
        assert_eq!(rows[0].as_ref().unwrap().values, [Value::Int(1), Value::Text("a\"b".into())]);
        assert_eq!(rows[1].as_ref().unwrap_err().key, None);
        assert_eq!(rows[2].as_ref().unwrap_err().key, Some(RowKey::from_values(vec![KeyValue::Int(2)])));
        assert_eq!(rows[3].as_ref().unwrap().values[1], Value::Null);
        assert!(pages[1].as_ref().unwrap().rows.is_empty());
    }

    /// A page of rows with text keys.
    fn named(items: &str) -> Page {
        let mut place = place("t0", &[]);
        let table = Arc::make_mut(&mut place.table);
        table.key = vec![1];
        let text = format!(r#"{{"data":{{"c0":{{"t0":{}}}}}}}"#, part(items));
        let answer = Answer::parse(text.into_bytes(), None, DatabaseTime::default()).unwrap();
        read(&answer, &[place], chrono_tz::UTC).pop().unwrap().unwrap()
    }

    #[test]
    fn a_key_that_the_source_cannot_be_asked_for_is_no_position() {
        let text = |text: &str| Some(RowKey::from_values(vec![KeyValue::Text(text.into())]));
        let page =
            named(r#"[{"no":1,"name":"a"},{"no":1,"name":"b\u0000"},{"no":1,"name":"\ud800"},{"no":1,"name":null}]"#);
        assert_eq!((page.position, page.behind), (text("a"), 3));
        let keys: Vec<_> = page.rows.iter().map(|row| key_of(row).cloned()).collect();
        assert_eq!(keys, [text("a"), text("b\u{fffd}"), text("\u{fffd}"), None]);
        let page = named(r#"[{"no":1,"name":"b\u0000"}]"#);
        assert_eq!((page.position, page.behind), (None, 1));
        let page = named(r#"[{"no":1,"name":null},{"no":"x","name":"\u00e6"}]"#);
        assert_eq!((page.position, page.behind), (text("æ"), 0));
    }

    #[test]
    fn a_key_that_is_too_long_is_its_row_s_matter() {
        let page = named(&format!(r#"[{{"no":1,"name":"{}"}},{{"no":2,"name":"b"}}]"#, "x".repeat(3_000)));
        assert!(page.rows[0].as_ref().unwrap_err().problem.contains("longer than"), "{:?}", page.rows[0]);
        assert!(page.rows[1].is_ok());
    }

    #[test]
    fn two_rows_of_one_key_are_no_rows_at_all() {
        let read_items = |items: &str| {
            pages(&format!(r#"{{"data":{{"c0":{{"t0":{},"t1":{}}}}}}}"#, part(items), part("[]"))).remove(0)
        };
        let error = read_items(r#"[{"no":1,"name":"a"},{"no":2,"name":"a"},{"no":1,"name":"b"}]"#).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(r#"{"no": 1}"#) && told.contains(r#"NXT_KEYS="Product=no+"#), "{told}");
        let unreadable = r#"[{"no":1,"name":"a"},{"no":1,"name":"b"}]"#;
        assert!(matches!(read_items(unreadable), Err(AskError::OneKey { .. })));
        let repeated = read_items(r#"[{"no":1,"name":"a"},{"no":1,"name":"a"},{"no":2,"name":"a"}]"#).unwrap();
        assert_eq!(repeated.rows.len(), 2);
    }

    #[test]
    fn the_last_row_of_a_page_is_left_to_the_next_one() {
        let held = |items: &str, has_next: bool| {
            let text = part(items).replace("false", &has_next.to_string());
            let text = format!(r#"{{"data":{{"c0":{{"t0":{text},"t1":{}}}}}}}"#, part("[]"));
            let mut page = pages(&text).remove(0).unwrap();
            page.hold_back_last();
            (page.rows.len(), page.position)
        };
        let key = |number| Some(RowKey::from_values(vec![KeyValue::Int(number)]));
        let (three, unnamed) =
            (r#"[{"no":1,"name":""},{"no":2,"name":""},{"no":3,"name":""}]"#, r#"{"no":0.5,"name":""}"#);
        assert_eq!(held(three, true), (2, key(2)));
        assert_eq!(held(three, false), (3, key(3)));
        assert_eq!(held(r#"[{"no":1,"name":""}]"#, true), (1, key(1)));
        assert_eq!(held(&format!(r#"[{unnamed},{{"no":3,"name":""}}]"#), true), (2, key(3)));
        assert_eq!(held(&format!(r#"[{{"no":3,"name":""}},{unnamed}]"#), true), (2, key(3)));
    }

    #[test]
    fn columns_of_the_customer_s_own_are_read_from_their_aliases() {
        let score = ExtensionColumn { name: "MyDme_score".into(), kind: ExtensionType::Decimal };
        let mut place = place("t0", &[]);
        place.table = Arc::new(Arc::unwrap_or_clone(place.table).with_extensions(&[score]));
        let read_items = |items: &str| {
            let text = format!(r#"{{"data":{{"c0":{{"t0":{}}}}}}}"#, part(items));
            let answer = Answer::parse(text.into_bytes(), None, DatabaseTime::default()).unwrap();
            read(&answer, std::slice::from_ref(&place), chrono_tz::UTC).pop().unwrap()
        };
        let page = read_items(
            r#"[{"no":1,"name":"a","extensions":{"MyDme_score":2.50}},{"no":2,"name":"b","extensions":null}]"#,
        );
        let rows: Vec<_> = page.unwrap().rows.into_iter().map(|row| row.unwrap().values).collect();
        assert_eq!((&rows[0][2], &rows[1][2]), (&Value::Decimal("2.50".into()), &Value::Null));
        for items in [r#"[{"no":1,"name":"a"}]"#, r#"[{"no":1,"name":"a","extensions":{}}]"#] {
            assert!(read_items(items).unwrap().rows[0].is_err(), "{items}");
        }
    }

    #[test]
    fn an_error_with_a_path_is_its_part_s_alone() {
        let text = format!(
            r#"{{"errors":[{{"message":"m","path":["c0","t1"]}}],"data":{{"c0":{{"t0":{},"t1":null}}}}}}"#,
            part("[]")
        );
        assert!(matches!(&pages(&text)[..], [Ok(_), Err(AskError::Graphql(_))]));
    }

    #[test]
    fn an_error_with_a_line_leaves_the_other_tables_unanswered() {
        let text = r#"{"errors":[{"message":"m","locations":[{"line":7,"column":3}]}]}"#;
        assert!(matches!(&pages(text)[..], [Err(AskError::Unanswered), Err(AskError::Graphql(_))]));
        let elsewhere = r#"{"errors":[{"message":"m","locations":[{"line":1,"column":3}]}]}"#;
        assert!(matches!(&pages(elsewhere)[..], [Err(AskError::Graphql(_)), Err(AskError::Graphql(_))]));
    }

    #[test]
    fn nothing_but_the_shape_that_was_asked_for_is_an_answer() {
        for branch in
            ["null", "[]", "{}", r#"{"items":[],"pageInfo":{}}"#, r#"{"items":null,"pageInfo":{"hasNextPage":false}}"#]
        {
            let text = format!(r#"{{"data":{{"c0":{{"t0":{branch},"t1":{}}}}}}}"#, part("[5]"));
            assert!(pages(&text).iter().all(|page| matches!(page, Err(AskError::Shape(_)))), "{branch}");
        }
        assert!(pages(r#"{"data":{"c0":5}}"#).iter().all(|page| matches!(page, Err(AskError::Shape(_)))));
    }
    #[test]
    fn an_answer_that_is_cut_anywhere_is_refused_or_read() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/answer");
        for file in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for end in 0..=bytes.len() {
                _ = crate::upstream::read_answer(&bytes[..end], &place("t0", &[]).table);
            }
        }
    }
}
