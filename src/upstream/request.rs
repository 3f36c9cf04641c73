//! One request for rows of many tables of many tenants.
//!
//! Each part, and each table's columns, stand in a line of their own, so that the place of a validation error tells
//! which table no longer fits.

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

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
    /// One for each part, in their order.
    pub(super) places: Vec<Place>,
}

impl Request {
    /// A named operation with variables for all values, and a fragment for each table's columns.
    pub(super) fn build(name: &str, parts: Vec<PartOf<'_>>) -> Self {
        let mut by_tenant: BTreeMap<Tenant, Vec<usize>> = BTreeMap::new();
        for (index, part) in parts.iter().enumerate() {
            by_tenant.entry(part.tenant).or_default().push(index);
        }
        let tenants: Vec<Tenant> = by_tenant.keys().copied().collect();
        let mut lines = vec![format!("query {name}({}) {{", header(&tenants, &parts))];
        let mut places: Vec<Option<Place>> = parts.iter().map(|_| None).collect();
        for (context, (tenant, indexes)) in by_tenant.iter().enumerate() {
            lines.push(format!("c{context}: {}(no: $c{context}) {{", context_field(*tenant)));
            for &index in indexes {
                lines.push(selection(index, parts[index].table));
                let table = Arc::clone(parts[index].table);
                let (context, part) = (format!("c{context}"), format!("t{index}"));
                places[index] = Some(Place { context, part, table, lines: vec![lines.len() as u64] });
            }
            lines.push("}".into());
        }
        lines.push("}".into());
        let mut places: Vec<Place> = places.into_iter().flatten().collect();
        add_fragments(&mut lines, &mut places);
        let variables = variables(&tenants, parts);
        let body = json!({ "query": lines.join("\n"), "variables": variables, "operationName": name });
        Self { body, tenants, places }
    }
}

/// The field of a tenant's tables.
pub(super) fn context_field(tenant: Tenant) -> &'static str {
    match tenant {
        Tenant::Company(_) => "useCompany",
        Tenant::Customer(_) => "useCustomer",
    }
}

/// All columns of a table.
pub(super) fn fragment(table: &TableSpec) -> String {
    let mut text = format!("fragment {0}Row on {0} {{", table.name);
    for column in table.columns.iter().filter(|column| column.extension.is_none()) {
        _ = write!(text, " {}", column.name);
    }
    let mut extensions = String::new();
    for (column, kind) in table.columns.iter().filter_map(|column| Some((column, column.extension?))) {
        // The alias names the column (API documentation, extensions).
        _ = write!(extensions, " {}: {}", column.name, kind.field());
    }
    if !extensions.is_empty() {
        _ = write!(text, " extensions {{{extensions} }}");
    }
    text.push_str(" }");
    text
}

fn header(tenants: &[Tenant], parts: &[PartOf<'_>]) -> String {
    let mut header = String::new();
    for index in 0..tenants.len() {
        _ = write!(header, "$c{index}: Int!, ");
    }
    for (index, part) in parts.iter().enumerate() {
        _ = write!(header, "$f{index}: FilterExpression_{}, $n{index}: Int, ", part.table.name);
    }
    header.truncate(header.len().saturating_sub(2));
    header
}

fn variables(tenants: &[Tenant], parts: Vec<PartOf<'_>>) -> Map<String, Value> {
    let mut variables = Map::new();
    for (index, tenant) in tenants.iter().enumerate() {
        variables.insert(format!("c{index}"), json!(tenant.number()));
    }
    for (index, part) in parts.into_iter().enumerate() {
        variables.insert(format!("f{index}"), part.filter);
        variables.insert(format!("n{index}"), json!(part.rows_max));
    }
    variables
}

fn selection(index: usize, table: &TableSpec) -> String {
    format!(
        "t{index}: {}(first: $n{index}, filter: $f{index}) {{ pageInfo {{ hasNextPage }} items {{ ...{}Row }} }}",
        table.field, table.name,
    )
}

/// A fragment for each table, in a line that all of its places name. Two descriptions of one table share the first
/// one's.
fn add_fragments(lines: &mut Vec<String>, places: &mut [Place]) {
    let mut line_of: BTreeMap<String, u64> = BTreeMap::new();
    for place in places {
        let line = *line_of.entry(place.table.name.to_string()).or_insert_with(|| {
            lines.push(fragment(&place.table));
            lines.len() as u64
        });
        place.lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_and_each_table_has_a_line_of_its_own() {
        let table = |name: &str| Arc::new(TableSpec::plain(name, &["no"]));
        let (a, b) = (table("A"), table("B"));
        let part = |company, table| PartOf { tenant: Tenant::Company(company), table, filter: json!({}), rows_max: 1 };
        let request = Request::build("Rows", vec![part(2, &a), part(1, &b), part(2, &b)]);
        let query = request.body["query"].as_str().unwrap();
        let lines: Vec<&str> = query.lines().collect();
        assert!(
            lines[0].starts_with("query Rows($c0: Int!, $c1: Int!, $f0: FilterExpression_A, $n0: Int, "),
            "{query}"
        );
        for (place, (context, part)) in request.places.iter().zip([("c1", "t0"), ("c0", "t1"), ("c1", "t2")]) {
            assert_eq!((place.context.as_str(), place.part.as_str()), (context, part));
            let [own, columns] = [place.lines[0], place.lines[1]].map(|line| lines[line as usize - 1]);
            assert!(own.starts_with(&format!("{part}: ")), "{own}");
            assert_eq!(columns, format!("fragment {0}Row on {0} {{ no }}", place.table.name));
        }
        assert_eq!(request.tenants, [Tenant::Company(1), Tenant::Company(2)]);
    }
}
