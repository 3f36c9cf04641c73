//! Names of values, learned from rows: a column is asked for together with its second form.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{Share, Upstream, UpstreamError, request::context_field};
use crate::domain::{Column, TableSpec, Tenant, Twin};

/// A value whose name is asked for.
#[derive(Debug, Clone)]
pub struct NameAsk {
    /// Who has a row with it.
    pub tenant: Tenant,
    /// The table.
    pub table: TableSpec,
    /// The column, which has a second form with names.
    pub column: Column,
    /// The value.
    pub value: i64,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Option<Item>>,
}

#[derive(Deserialize)]
struct Item {
    value: Option<i64>,
    names: Option<Names>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<Option<String>>),
}

type Data = BTreeMap<String, Option<BTreeMap<String, Option<Page>>>>;

impl Upstream {
    /// The names of each value: of an enumeration one, of flags those of its bits. `None` where no row has the value any
    /// more, or it has no name, or that could not be read.
    pub async fn value_names(&self, asks: &[NameAsk]) -> Result<Vec<Option<Vec<String>>>, UpstreamError> {
        let tenants: Vec<Tenant> = asks.iter().map(|ask| ask.tenant).collect();
        let body = json!({ "query": query(asks), "operationName": "ValueNames" });
        let answer = self.post(&tenants, Share::Background, &body).await?;
        let is_refused = answer.data() == "{}";
        if is_refused && !answer.errors.is_empty() {
            return Err(UpstreamError::Graphql(answer.errors));
        }
        let data: Data =
            serde_json::from_str(answer.data()).map_err(|error| UpstreamError::Shape(error.to_string()))?;
        Ok(asks.iter().enumerate().map(|(index, ask)| read(&data, index, ask.value)).collect())
    }
}

fn query(asks: &[NameAsk]) -> String {
    let part = |(index, ask): (usize, &NameAsk)| {
        let ending = ask.column.twin.map_or("", Twin::ending);
        format!(
            "c{index}: {context}(no: {no}) {{ v: {field}(first: 1, filter: {{ {column}: {{ _eq: {value} }} }}) {{ items {{ \
             value: {column} names: {column}{ending} }} }} }}",
            context = context_field(ask.tenant),
            no = ask.tenant.number(),
            field = ask.table.field,
            column = ask.column.name,
            value = ask.value,
        )
    };
    let parts: Vec<String> = asks.iter().enumerate().map(part).collect();
    format!("query ValueNames {{\n{}\n}}", parts.join("\n"))
}

fn read(data: &Data, index: usize, value: i64) -> Option<Vec<String>> {
    let page = data.get(&format!("c{index}"))?.as_ref()?.get("v")?.as_ref()?;
    let item = page.items.iter().flatten().find(|item| item.value == Some(value))?;
    match item.names.as_ref()? {
        Names::One(name) => Some(vec![name.clone()]),
        Names::Many(names) => Some(names.iter().flatten().cloned().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_both_forms_and_only_of_the_value() {
        let data: Data = serde_json::from_str(
            r#"{"c0":{"v":{"items":[{"value":5,"names":"Quote"}]}},"c1":{"v":{"items":[{"value":10,"names":["A",null,"B"]}]}},
                "c2":{"v":{"items":[null,{"value":7,"names":null}]}},"c3":{"v":null},"c4":null,"c5":{"v":{"items":[]}}}"#,
        )
        .unwrap();
        assert_eq!(read(&data, 0, 5), Some(vec!["Quote".to_owned()]));
        assert_eq!(read(&data, 0, 6), None);
        assert_eq!(read(&data, 1, 10), Some(vec!["A".to_owned(), "B".to_owned()]));
        for index in 2..7 {
            assert_eq!(read(&data, index, 7), None);
        }
    }
}
