//! Pages of a whole table, by keyset.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    AskError, Lane, Upstream, UpstreamError,
    answer::{self, Place},
    fetch::fragment,
    filter,
};
use crate::domain::{Row, RowKey, TableSpec, Tenant, Time};

/// Some rows of a table, in the source's order.
#[derive(Debug)]
pub struct TablePage {
    /// Start of the request, by the database's clock.
    pub started_at: Time,
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether there are more behind them.
    pub has_next: bool,
}

impl Upstream {
    /// The first `rows_max` rows behind `after`, of those changed since a time if so wished. Uses the share of the budget
    /// that live work leaves.
    pub async fn page(
        &self,
        tenant: Tenant,
        table: &Arc<TableSpec>,
        after: Option<&RowKey>,
        changed_since: Option<Time>,
        rows_max: usize,
    ) -> Result<Result<TablePage, AskError>, UpstreamError> {
        let filter = self.page_filter(table, after, changed_since);
        let body = request(tenant, table, &filter, rows_max);
        let answer = self.post(&[tenant], Lane::Background, &body).await?;
        let started_at = answer.started_at;
        let place = Place { context: "c0".into(), part: "t0".into(), table: Arc::clone(table) };
        let page = answer::read(answer, &[place], self.timezone).pop().expect("one place gives one page");
        Ok(page.and_then(|page| {
            let rows: Result<Vec<Row>, _> = page.rows.into_iter().collect();
            let rows = rows.map_err(|bad| AskError::Shape(format!("row {}: {}", bad.key, bad.problem)))?;
            if page.has_next && rows.is_empty() {
                return Err(AskError::Shape("a page promises more rows but brings none".into()));
            }
            Ok(TablePage { started_at, rows, has_next: page.has_next })
        }))
    }

    fn page_filter(&self, table: &TableSpec, after: Option<&RowKey>, changed_since: Option<Time>) -> Value {
        let behind = after.map(|key| filter::after(table, key));
        let changed = changed_since.zip(table.changed_column()).map(|(since, column)| {
            // Without an offset, as the API itself writes it.
            let local = since.with_timezone(&self.timezone).naive_local().format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
            json!({ &table.columns[column].name: { "_gt": local } })
        });
        match (behind, changed) {
            (None, None) => Value::Null,
            (Some(one), None) | (None, Some(one)) => one,
            (Some(one), Some(other)) => json!({ "_and": [one, other] }),
        }
    }
}

fn request(tenant: Tenant, table: &TableSpec, filter: &Value, rows_max: usize) -> Value {
    let context = match tenant {
        Tenant::Company(_) => "useCompany",
        Tenant::Customer(_) => "useCustomer",
    };
    let order: Vec<String> = table.key_columns().map(|column| format!("{{ {}: ASC }}", column.name)).collect();
    let query = format!(
        "query WalkTable($no: Int!, $n: Int, $f: FilterExpression_{name}) {{ c0: {context}(no: $no) {{ \
         t0: {field}(first: $n, filter: $f, orderBy: [{order}]) {{ pageInfo {{ hasNextPage }} items {{ ...{name}Row }} }} }} }}{fragment}",
        name = table.name,
        field = table.field,
        order = order.join(", "),
        fragment = fragment(table),
    );
    let mut variables = Map::new();
    variables.insert("no".into(), json!(tenant.number()));
    variables.insert("n".into(), json!(rows_max));
    if !filter.is_null() {
        variables.insert("f".into(), filter.clone());
    }
    json!({ "query": query, "variables": variables, "operationName": "WalkTable" })
}
