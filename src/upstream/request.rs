//! One request for rows of many tables of many tenants.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write,
    sync::Arc,
};

use serde_json::{Map, Value, json};

use super::answer::Place;
use crate::domain::{TableSpec, Tenant};

/// Some rows of one table of one tenant.
pub(super) struct PartOf<'a> {
    pub(super) tenant: Tenant,
    pub(super) table: &'a Arc<TableSpec>,
    pub(super) filter: Value,
    pub(super) rows_max: usize,
}

/// The request's text and the places where its parts' answers will be.
pub(super) struct Request {
    pub(super) body: Value,
    pub(super) tenants: Vec<Tenant>,
    pub(super) places: Vec<Place>,
}

impl Request {
    /// A named operation with variables for all values, and a fragment for each table's columns.
    pub(super) fn build(name: &str, parts: Vec<PartOf<'_>>) -> Self {
        let mut tenants: Vec<Tenant> = parts.iter().map(|part| part.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        let (mut declared, mut variables, mut places) = (String::new(), Map::new(), Vec::new());
        let mut contexts: HashMap<Tenant, String> = HashMap::new();
        let mut tables: BTreeSet<&str> = BTreeSet::new();
        let mut fragments = String::new();
        for (index, PartOf { tenant, table, filter, rows_max }) in parts.into_iter().enumerate() {
            variables.insert(format!("f{index}"), filter);
            variables.insert(format!("n{index}"), json!(rows_max));
            _ = write!(declared, ", $f{index}: FilterExpression_{}, $n{index}: Int", table.name);
            _ = write!(
                contexts.entry(tenant).or_default(),
                " t{index}: {}(first: $n{index}, filter: $f{index}) {{ pageInfo {{ hasNextPage }} items {{ ...{}Row }} }}",
                table.field,
                table.name,
            );
            if tables.insert(table.name.as_str()) {
                fragments.push_str(&fragment(table));
            }
            let context = tenants.binary_search(&tenant).expect("every part's tenant is in the list");
            places.push(Place { context: format!("c{context}"), part: format!("t{index}"), table: Arc::clone(table) });
        }
        let (mut header, mut selection) = (String::new(), String::new());
        for (index, tenant) in tenants.iter().enumerate() {
            let field = match tenant {
                Tenant::Company(_) => "useCompany",
                Tenant::Customer(_) => "useCustomer",
            };
            variables.insert(format!("c{index}"), json!(tenant.number()));
            _ = write!(header, ", $c{index}: Int!");
            _ = write!(selection, " c{index}: {field}(no: $c{index}) {{{} }}", contexts[tenant]);
        }
        let header = header.trim_start_matches(", ");
        let query = format!("query {name}({header}{declared}) {{{selection} }}{fragments}");
        let body = json!({ "query": query, "variables": variables, "operationName": name });
        Self { body, tenants, places }
    }
}

/// All columns of a table.
pub(super) fn fragment(table: &TableSpec) -> String {
    let mut text = format!("\nfragment {0}Row on {0} {{", table.name);
    for column in &table.columns {
        text.push(' ');
        text.push_str(&column.name);
    }
    text.push_str(" }");
    text
}
