//! The API's own model (`useModel`): labels of tables and columns in a language, and names of values.
//!
//! Which lists and fields it has is documented in part (API notes, metadata), so they are found by introspection. What is
//! not found is not told: a table without labels is mirrored like any other.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::{Share, Upstream, UpstreamError};
use crate::domain::{Language, TableSpec};

/// What a value's number may be called in the list of members.
const MEMBER_VALUES: [&str; 6] = ["value", "memberValue", "integerValue", "memberNo", "domainMemberNo", "number"];
const NUMBERS: [&str; 4] = ["Int", "Long", "Short", "Byte"];

/// What the model tells of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableModel {
    /// Its label.
    pub label: Option<String>,
    /// Labels of its columns, by their identifiers in lower case.
    pub column_labels: BTreeMap<String, String>,
    /// Names of values: the column's identifier in lower case, the value, its name.
    pub members: Vec<(String, i64, String)>,
}

/// How the model is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Where the language goes, and the type of that argument.
    language: Option<(Place, String)>,
    tables: Option<List>,
    columns: Option<List>,
    members: Option<List>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Model,
    Lists,
}

/// A list of the model: its field, and its elements' fields by what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    field: String,
    by_table: bool,
    fields: BTreeMap<&'static str, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    #[serde(default)]
    kind: String,
    name: Option<String>,
    #[serde(default)]
    fields: Option<Vec<Field>>,
    #[serde(default)]
    of_type: Option<Box<Type>>,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    #[serde(default)]
    args: Vec<Argument>,
    #[serde(rename = "type")]
    kind: Type,
}

#[derive(Deserialize)]
struct Argument {
    name: String,
    #[serde(rename = "type")]
    kind: Type,
}

#[derive(Deserialize)]
struct RootData {
    #[serde(rename = "__schema")]
    schema: Schema,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Schema {
    query_type: Type,
}

#[derive(Deserialize)]
struct TypeData {
    #[serde(rename = "__type")]
    found: Option<Type>,
}

const ROOT: &str = "query ModelRoot { __schema { queryType { fields { name args { name type { kind name ofType { kind \
                    name } } } type { kind name ofType { kind name } } } } } }";
const LISTS: &str = "query ModelLists($name: String!) { __type(name: $name) { fields { name args { name type { kind name \
                     ofType { kind name } } } type { ...Element ofType { ...Element ofType { ...Element ofType { ...Element \
                     } } } } } } } fragment Element on __Type { kind name fields { name type { kind name ofType { kind \
                     name } } } }";

impl Upstream {
    /// Finds out how the model can be asked; `None` where the API has none.
    pub async fn model_shape(&self) -> Result<Option<ModelShape>, UpstreamError> {
        let body = json!({ "query": ROOT, "operationName": "ModelRoot" });
        let data: RootData = self.post(&[], Share::Background, &body).await?.into_data()?;
        let fields = data.schema.query_type.fields;
        let fields = fields.ok_or_else(|| UpstreamError::Shape("the schema shows no fields of its queries".into()))?;
        let Some(root) = fields.into_iter().find(|field| field.name == "useModel") else { return Ok(None) };
        let Some(name) = root.kind.innermost().name.clone() else { return Ok(None) };
        let body = json!({ "query": LISTS, "operationName": "ModelLists", "variables": { "name": name } });
        let data: TypeData = self.post(&[], Share::Background, &body).await?.into_data()?;
        Ok(data.found.map(|found| ModelShape::of(&root, &found.fields.unwrap_or_default())))
    }

    /// What the model tells of these tables, in their order; `None` of a table that it says nothing about this time.
    pub async fn model(
        &self,
        shape: &ModelShape,
        tables: &[TableSpec],
        language: Language,
    ) -> Result<Vec<Option<TableModel>>, UpstreamError> {
        let Some(query) = shape.query(tables) else { return Ok(vec![Some(TableModel::default()); tables.len()]) };
        let variables = json!({ "lang": language.name().to_uppercase() });
        let body = json!({ "query": query, "operationName": "Model", "variables": variables });
        let data: ModelData = self.post(&[], Share::Background, &body).await?.into_data()?;
        let lists = data.model.ok_or_else(|| UpstreamError::Shape("the model is null".into()))?;
        Ok(tables.iter().enumerate().map(|(index, table)| read(&lists, index, table)).collect())
    }
}

impl Type {
    fn innermost(&self) -> &Self {
        self.of_type.as_deref().map_or(self, Self::innermost)
    }

    fn is_required(&self) -> bool {
        self.kind == "NON_NULL"
    }
}

impl ModelShape {
    fn of(root: &Field, lists: &[Field]) -> Self {
        let language_of = |field: &Field| {
            let argument = field.args.iter().find(|argument| argument.name.to_lowercase().starts_with("lang"))?;
            let kind = argument.kind.innermost();
            let name = kind.name.clone().filter(|name| kind.kind == "ENUM" || name == "String")?;
            Some(if argument.kind.is_required() { format!("{name}!") } else { name })
        };
        let list = |wanted: fn(&str) -> bool, meanings: &[(&'static str, &[&str], bool)]| {
            lists.iter().filter(|field| wanted(&field.name)).find_map(|field| List::of(field, meanings))
        };
        let of_lists = || lists.iter().find(|field| field.name == "tables").and_then(language_of);
        let language = language_of(root).map(|kind| (Place::Model, kind));
        Self {
            language: language.or_else(|| of_lists().map(|kind| (Place::Lists, kind))),
            tables: list(
                |name| name == "tables",
                &[("table", &["tableNo"], false), ("identifier", &["identifier"], true), ("name", &["name"], true)],
            ),
            columns: list(
                |name| name == "columns",
                &[
                    ("table", &["tableNo"], true),
                    ("column", &["columnNo"], false),
                    ("identifier", &["identifier"], true),
                    ("name", &["name"], true),
                    ("domain", &["domainNo", "domain"], false),
                ],
            ),
            members: list(
                |name| name.to_lowercase().ends_with("members"),
                &[
                    ("domain", &["domainNo"], true),
                    ("value", &MEMBER_VALUES, true),
                    ("identifier", &["identifier"], true),
                ],
            ),
        }
    }

    /// The request for these tables; `None` when the model tells nothing of tables.
    fn query(&self, tables: &[TableSpec]) -> Option<String> {
        let (header, on_model, on_lists) = match &self.language {
            Some((Place::Model, kind)) => (format!("($lang: {kind})"), "(lang: $lang)", ""),
            Some((Place::Lists, kind)) => (format!("($lang: {kind})"), "", "lang: $lang"),
            None => (String::new(), "", ""),
        };
        let mut parts = vec![];
        for (letter, list) in [("t", &self.tables), ("c", &self.columns)] {
            let Some(list) = list else { continue };
            let numbers: Option<Vec<i64>> = tables.iter().map(|table| table.origin.number).collect();
            match numbers.filter(|_| list.by_table) {
                Some(numbers) => parts.extend(numbers.iter().enumerate().map(|(index, number)| {
                    list.selection(&format!("{letter}{index}"), &[&format!("tableNo: {number}"), on_lists])
                })),
                None => parts.push(list.selection(letter, &[on_lists])),
            }
        }
        if parts.is_empty() {
            return None;
        }
        parts.extend(self.members.as_ref().map(|list| list.selection("m", &[on_lists])));
        Some(format!("query Model{header} {{ useModel{on_model} {{\n{}\n}} }}", parts.join("\n")))
    }
}

impl List {
    /// The list behind a field, if its elements have all fields that are required.
    fn of(field: &Field, meanings: &[(&'static str, &[&str], bool)]) -> Option<Self> {
        let elements = field.kind.innermost().fields.as_deref().unwrap_or_default();
        let is_plain = |element: &&Field| matches!(element.kind.innermost().kind.as_str(), "SCALAR" | "ENUM");
        let is_number = |element: &Field| {
            let name = element.kind.innermost().name.as_deref();
            name.is_some_and(|name| NUMBERS.contains(&name))
        };
        let mut fields = BTreeMap::new();
        for (meaning, names, is_required) in meanings {
            let is_text = matches!(*meaning, "identifier" | "name");
            let found = names.iter().find_map(|name| {
                elements
                    .iter()
                    .filter(is_plain)
                    .find(|element| element.name == *name && (is_text || is_number(element)))
            });
            match found {
                Some(found) => _ = fields.insert(*meaning, found.name.clone()),
                None if *is_required => return None,
                None => {}
            }
        }
        let needs_more = field.args.iter().any(|argument| {
            argument.kind.is_required() && argument.name != "tableNo" && !argument.name.starts_with("lang")
        });
        let by_table = field.args.iter().any(|argument| argument.name == "tableNo");
        (!needs_more).then(|| Self { field: field.name.clone(), by_table, fields })
    }

    fn selection(&self, alias: &str, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = arguments.iter().copied().filter(|argument| !argument.is_empty()).collect();
        let arguments = if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
        let fields: Vec<String> = self.fields.iter().map(|(meaning, field)| format!("{meaning}: {field}")).collect();
        format!("{alias}: {}{arguments} {{ {} }}", self.field, fields.join(" "))
    }
}

#[derive(Deserialize)]
struct ModelData {
    #[serde(rename = "useModel")]
    model: Option<Lists>,
}

/// An element of any of the lists.
#[derive(Debug, Default, Deserialize)]
struct Element {
    table: Option<i64>,
    column: Option<i64>,
    domain: Option<i64>,
    value: Option<i64>,
    identifier: Option<String>,
    name: Option<String>,
}

type Lists = BTreeMap<String, Option<Vec<Option<Element>>>>;

/// Elements of a list that was asked for, that of one table or that of all. A list that is null is not empty: `None`.
fn elements<'a>(lists: &'a Lists, letter: &str, index: usize) -> Option<Vec<&'a Element>> {
    match lists.get(&format!("{letter}{index}")).or_else(|| lists.get(letter)) {
        Some(list) => Some(list.as_ref()?.iter().flatten().collect()),
        None => Some(vec![]),
    }
}

fn read(lists: &Lists, index: usize, table: &TableSpec) -> Option<TableModel> {
    let [tables, columns, members] = ["t", "c", "m"].map(|letter| elements(lists, letter, index));
    Some(read_elements(&tables?, &columns?, &members?, table))
}

fn read_elements(tables: &[&Element], columns: &[&Element], members: &[&Element], table: &TableSpec) -> TableModel {
    let is_named = |element: &&Element, name: &str| {
        element.identifier.as_deref().is_some_and(|identifier| identifier.eq_ignore_ascii_case(name))
    };
    let number = table.origin.number;
    let is_of_table = |element: &&Element| match (number, element.table) {
        (Some(own), Some(other)) => own == other,
        _ => false,
    };
    let own = tables.iter().find(|element| is_of_table(element) || is_named(element, table.name.as_str()));
    let number = number.or_else(|| own.and_then(|own| own.table));
    let mut found = TableModel { label: own.and_then(|own| own.name.clone()), ..TableModel::default() };
    let columns: Vec<&Element> = columns.iter().copied().filter(|column| column.table == number).collect();
    for column in &table.columns {
        let by_number = columns.iter().find(|other| other.column.is_some() && other.column == column.origin.number);
        let element = by_number.or_else(|| columns.iter().find(|other| is_named(other, &column.name)));
        let Some(element) = element else { continue };
        let name = column.name.to_ascii_lowercase();
        if column.twin.is_some_and(|twin| twin.has_names()) && element.domain.is_some() {
            let members = members.iter().filter(|member| member.domain == element.domain);
            let named = members.filter_map(|member| Some((name.clone(), member.value?, member.identifier.clone()?)));
            found.members.extend(named);
        }
        if let Some(label) = &element.name {
            found.column_labels.insert(name, label.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::{Column, ColumnType, Origin, Twin};

    fn table() -> TableSpec {
        let column = |name: &str, number| Column {
            origin: Origin { number: Some(number), sql_name: None },
            ..Column::new(name, ColumnType::Integer)
        };
        let order_type = Column { twin: Some(Twin::Enum), ..column("orderType", 2) };
        TableSpec {
            columns: vec![column("orderNo", 1), order_type],
            key: vec![0],
            origin: Origin { number: Some(127), sql_name: None },
            ..TableSpec::plain("Order", &[])
        }
    }

    fn shape(root: Value, lists: Value) -> ModelShape {
        let root: Field = serde_json::from_value(root).unwrap();
        let lists: Vec<Field> = serde_json::from_value(lists).unwrap();
        ModelShape::of(&root, &lists)
    }

    fn scalar(name: &str, kind: &str) -> Value {
        json!({ "name": name, "type": { "kind": "SCALAR", "name": kind } })
    }

    fn list(name: &str, arguments: Value, fields: &[Value]) -> Value {
        let element = json!({ "kind": "OBJECT", "name": "E", "fields": fields });
        json!({ "name": name, "args": arguments, "type": { "kind": "LIST", "name": null, "ofType": element } })
    }

    fn argument(name: &str, kind: &str, type_name: &str) -> Value {
        json!({ "name": name, "type": { "kind": kind, "name": type_name } })
    }

    #[test]
    fn the_model_is_asked_as_it_can_be() {
        let root = json!({ "name": "useModel", "args": [argument("lang", "ENUM", "Lang")], "type": { "kind": "OBJECT", "name": "M" } });
        let tables = list(
            "tables",
            json!([argument("tableNo", "SCALAR", "Int")]),
            &[scalar("tableNo", "Int"), scalar("identifier", "String"), scalar("name", "String")],
        );
        let query = shape(root, json!([tables])).query(&[table()]).unwrap();
        assert_eq!(
            query,
            "query Model($lang: Lang) { useModel(lang: $lang) {\nt0: tables(tableNo: 127) { identifier: identifier name: name table: tableNo }\n} }"
        );
        let root = json!({ "name": "useModel", "args": [], "type": { "kind": "OBJECT", "name": "M" } });
        let tables = list(
            "tables",
            json!([argument("lang", "ENUM", "Lang")]),
            &[scalar("identifier", "String"), scalar("name", "String")],
        );
        let query = shape(root.clone(), json!([tables])).query(&[table()]).unwrap();
        assert_eq!(
            query,
            "query Model($lang: Lang) { useModel {\nt: tables(lang: $lang) { identifier: identifier name: name }\n} }"
        );
        assert_eq!(shape(root, json!([list("folders", json!([]), &[])])).query(&[table()]), None);
    }

    #[test]
    fn labels_and_members_are_found_by_number_or_name() {
        let lists: ModelData = serde_json::from_value(json!({ "useModel": {
            "t0": [{ "table": 127, "identifier": "Order", "name": "Ordre" }],
            "c": [{ "table": 127, "column": 1, "identifier": "Something", "name": "Ordrenr.", "domain": 9 }, null,
                  { "table": 127, "identifier": "OrderType", "name": "Ordretype", "domain": 4 },
                  { "table": 128, "column": 1, "identifier": "OrderNo", "name": "another table's" }],
            "m": [{ "domain": 4, "value": 5, "identifier": "Quote" }, { "domain": 9, "value": 5, "identifier": "No" }],
        } }))
        .unwrap();
        let found = read(&lists.model.unwrap(), 0, &table()).unwrap();
        assert_eq!(found.label.as_deref(), Some("Ordre"));
        assert_eq!(
            (found.column_labels["orderno"].as_str(), found.column_labels["ordertype"].as_str()),
            ("Ordrenr.", "Ordretype")
        );
        assert_eq!(found.members, [("ordertype".to_owned(), 5, "Quote".to_owned())]);
    }

    #[test]
    fn a_list_that_is_null_says_nothing_about_its_table() {
        let lists = |value| serde_json::from_value::<Lists>(value).unwrap();
        let named = json!([{ "table": 127, "identifier": "Order", "name": "Ordre" }]);
        for null in [json!({ "t0": null }), json!({ "t0": named, "c": null }), json!({ "t0": named, "m": null })] {
            assert_eq!(read(&lists(null), 0, &table()), None);
        }
        let beside = lists(json!({ "t0": null, "t1": named }));
        assert_eq!(read(&beside, 1, &table()).unwrap().label.as_deref(), Some("Ordre"));
        assert_eq!(
            read(&lists(json!({ "t0": [] })), 0, &table()),
            Some(TableModel::default()),
            "it has no label any more"
        );
    }
}
