//! Pages of a whole table, by keyset.

use std::{fmt::Write, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    AskError, Share, Upstream, UpstreamError,
    answer::{self, BadRow, Page, Place},
    envelope::Answer,
    filter,
    request::{PartOf, Request, context_field, fragment},
};
use crate::{
    domain::{DatabaseTime, Row, RowKey, SourceTime, TableSpec, Tenant, time::local_since},
    telemetry::Purpose,
};

/// Which rows of a table to ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageAsk<'a> {
    /// Rows behind this key.
    pub after: Option<&'a RowKey>,
    /// Rows up to this key and with it.
    pub through: Option<&'a RowKey>,
    /// Rows changed after this moment.
    pub changed_since: Option<SourceTime>,
    /// Rows to leave out at the beginning.
    pub skip: usize,
    /// Rows at most.
    pub rows_max: usize,
    /// Whether to count all rows that match, which is work for the source.
    pub is_counted: bool,
}

/// What changed lately in a table.
#[derive(Debug, Clone, Copy)]
pub struct ChangesAsk<'a> {
    /// Whose.
    pub tenant: Tenant,
    /// Of which table, one with a change time.
    pub table: &'a Arc<TableSpec>,
    /// Rows changed after this moment.
    pub since: SourceTime,
}

/// Some rows of a table, in the source's order.
#[derive(Debug)]
pub struct TablePage {
    /// Start of the request, by the database's clock.
    pub started_at: DatabaseTime,
    /// The rows that can be read.
    pub rows: Vec<Row>,
    /// Keys of rows with a value that cannot be read, and why.
    pub unreadable: Vec<(RowKey, String)>,
    /// Why there are rows whose key cannot be read.
    pub unnamed: Vec<String>,
    /// The last key of the page that the source can be asked for the rows behind of; `None` when there is none.
    pub last_key: Option<RowKey>,
    /// Rows of the page behind that key.
    pub behind: usize,
    /// Whether there are more rows behind it.
    pub has_next: bool,
    /// How many rows match, if they were counted.
    pub total: Option<u64>,
}

impl TablePage {
    fn new(started_at: DatabaseTime, mut page: Page) -> Result<Self, AskError> {
        page.hold_back_last();
        if page.has_next && page.rows.is_empty() {
            return Err(AskError::Shape("a page promises more rows but brings none".into()));
        }
        let (mut rows, mut unreadable, mut unnamed) = (Vec::with_capacity(page.rows.len()), vec![], vec![]);
        for row in page.rows {
            match row {
                Ok(row) => rows.push(row),
                Err(BadRow { key: Some(key), problem }) => unreadable.push((key, problem)),
                Err(BadRow { key: None, problem }) => unnamed.push(problem),
            }
        }
        let (last_key, behind) = (page.position, page.behind);
        Ok(Self { started_at, rows, unreadable, unnamed, last_key, behind, has_next: page.has_next, total: page.total })
    }
}

impl Upstream {
    /// A page of a table, in the order of its key. Uses the share of the budget that live work leaves.
    pub async fn page(
        &self,
        tenant: Tenant,
        table: &Arc<TableSpec>,
        ask: PageAsk<'_>,
    ) -> Result<Result<TablePage, AskError>, UpstreamError> {
        let answer = self.ask_page(tenant, table, ask).await?;
        let started_at = answer.started_at;
        let page = self.read_pages(answer, &[only_place(table)]).pop().expect("one place gives one page");
        Ok(page.and_then(|page| TablePage::new(started_at, page)))
    }

    /// What changed in many tables of many tenants, in one request: of each at most `rows_max` rows, in any order.
    pub async fn changes(
        &self,
        asks: &[ChangesAsk<'_>],
        rows_max: usize,
    ) -> Result<Vec<Result<TablePage, AskError>>, UpstreamError> {
        let parts = asks.iter().map(|ask| {
            let changed = PageAsk { changed_since: Some(ask.since), ..PageAsk::default() };
            PartOf { tenant: ask.tenant, table: ask.table, filter: self.page_filter(ask.table, &changed), rows_max }
        });
        let request = Request::build("ChangedRows", parts.collect());
        let answer = self.for_purpose(Purpose::Sweep).post(&request.tenants, Share::Background, &request.body).await?;
        let started_at = answer.started_at;
        let pages = self.read_pages(answer, &request.places);
        Ok(pages.into_iter().map(|page| page.and_then(|page| TablePage::new(started_at, page))).collect())
    }

    /// The key of the first row of a page, without its values; `None` for an empty page, and where the source cannot be
    /// asked for the rows behind that key. A row whose values cannot be read may still have one.
    pub async fn first_key(
        &self,
        tenant: Tenant,
        table: &TableSpec,
        ask: PageAsk<'_>,
    ) -> Result<Result<Option<RowKey>, AskError>, UpstreamError> {
        let columns: Vec<_> = table.key_columns().cloned().collect();
        let keys_alone = Arc::new(TableSpec { key: (0..columns.len()).collect(), columns, ..table.clone() });
        let ask = PageAsk { rows_max: 1, is_counted: false, ..ask };
        let body = request(tenant, &keys_alone, &ask, &self.page_filter(table, &ask));
        let answer = self.post(&[tenant], Share::Background, &body).await?;
        let page = answer::read(&answer, &[only_place(&keys_alone)], self.timezone).pop();
        Ok(page.expect("one place gives one page").map(|page| page.position))
    }

    /// Takes an answer apart and learns how wide its rows are.
    pub(super) fn read_pages(&self, answer: Answer, places: &[Place]) -> Vec<Result<Page, AskError>> {
        let pages = answer::read(&answer, places, self.timezone);
        // What was read from it is enough.
        drop(answer);
        for (place, page) in places.iter().zip(&pages) {
            if let Ok(page) = page {
                self.widths.learn(&place.table, page);
            }
        }
        pages
    }

    async fn ask_page(
        &self,
        tenant: Tenant,
        table: &Arc<TableSpec>,
        ask: PageAsk<'_>,
    ) -> Result<Answer, UpstreamError> {
        let body = request(tenant, table, &ask, &self.page_filter(table, &ask));
        let purpose = if ask.changed_since.is_some() { Purpose::Sweep } else { self.purpose() };
        let upstream = self.for_purpose(purpose);
        upstream.post_for_rows((1, ask.rows_max), &[tenant], Share::Background, &body, &|| {}).await
    }

    fn page_filter(&self, table: &TableSpec, ask: &PageAsk<'_>) -> Value {
        let behind = ask.after.map(|key| filter::after(table, key));
        let up_to = ask.through.map(|key| filter::through(table, key));
        let changed = ask.changed_since.zip(table.changed_column()).map(
            |(since, column)| json!({ &table.columns[column].name: { "_gt": local_since(since, self.timezone) } }),
        );
        let mut terms: Vec<Value> = [behind, up_to, changed].into_iter().flatten().collect();
        match terms.len() {
            0 => Value::Null,
            1 => terms.remove(0),
            _ => json!({ "_and": terms }),
        }
    }
}

/// Where the rows of a request for one table are.
fn only_place(table: &Arc<TableSpec>) -> Place {
    Place { context: "c0".into(), part: "t0".into(), table: Arc::clone(table), lines: vec![] }
}

fn request(tenant: Tenant, table: &TableSpec, ask: &PageAsk<'_>, filter: &Value) -> Value {
    let order: Vec<String> = table.key_columns().map(|column| format!("{{ {}: ASC }}", column.name)).collect();
    let (mut header, mut arguments, mut variables) = (String::new(), String::new(), Map::new());
    if ask.skip > 0 {
        header.push_str(", $s: Int");
        arguments.push_str(", skip: $s");
        variables.insert("s".into(), json!(ask.skip));
    }
    if !filter.is_null() {
        _ = write!(header, ", $f: FilterExpression_{}", table.name);
        arguments.push_str(", filter: $f");
        variables.insert("f".into(), filter.clone());
    }
    let query = format!(
        "query WalkTable($no: Int!, $n: Int{header}) {{ c0: {context}(no: $no) {{ \
         t0: {field}(first: $n{arguments}, orderBy: [{order}]) {{ {total}pageInfo {{ hasNextPage }} items {{ ...{name}Row }} }} }} }}\n{fragment}",
        context = context_field(tenant),
        name = table.name,
        field = table.field,
        order = order.join(", "),
        total = if ask.is_counted { "totalCount " } else { "" },
        fragment = fragment(table),
    );
    variables.insert("no".into(), json!(tenant.number()));
    variables.insert("n".into(), json!(ask.rows_max));
    json!({ "query": query, "variables": variables, "operationName": "WalkTable" })
}
