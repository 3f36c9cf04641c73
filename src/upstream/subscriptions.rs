//! The webhook setup in Business NXT: targets of the service's user, and the subscriptions below them.
//!
//! Both are system tables. The documentation tells the names that people see of their columns (webhooks, filtering), and
//! not their identifiers; so columns are found by what their names mean.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Share, Upstream, UpstreamError,
    queries::{Leaf, RowField},
};
use crate::domain::{NumberedTable, SubscribedTable, Subscription, TableLevel, TableName, Tenant, naming};

/// Rows of a page; more are followed.
const PAGE_ROWS: usize = 500;
/// Pages of one table at most.
const PAGES_MAX: usize = 200;
/// Words that begin the names of audit columns, which every table has.
const AUDIT: [&str; 4] = ["created", "changed", "create", "change"];
const TARGETS: &str = "WebhookTarget";
const SUBSCRIPTIONS: &str = "WebhookSubscription";

/// Why the setup cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The service may not see one of the tables.
    #[error("the API shows no table {0}: the service's access group may not read it")]
    Hidden(&'static str),
    /// No column means what is looked for.
    #[error("none of the columns of {table} is the {meaning}")]
    NotUnderstood {
        /// The table.
        table: &'static str,
        /// What the column should hold.
        meaning: &'static str,
    },
    /// The API gives no answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Where the setup lies: which columns mean what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    targets: Columns,
    subscriptions: Columns,
}

/// A table's field, and its columns by what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Columns {
    field: String,
    by_meaning: BTreeMap<&'static str, String>,
}

/// What a column's name must say to have a meaning.
struct Meaning {
    name: &'static str,
    is_number: bool,
    is_required: bool,
    is_told_by: fn(&HashSet<&str>) -> bool,
}

const OF_TARGETS: [Meaning; 2] = [
    Meaning { name: "user", is_number: false, is_required: true, is_told_by: |words| words.contains("user") },
    Meaning { name: "line", is_number: true, is_required: true, is_told_by: |words| words.contains("line") },
];
const OF_SUBSCRIPTIONS: [Meaning; 6] = [
    Meaning { name: "target", is_number: true, is_required: true, is_told_by: |words| words.contains("target") },
    // Only if the number of a target is not enough to tell it.
    Meaning { name: "user", is_number: false, is_required: false, is_told_by: |words| words.contains("user") },
    Meaning { name: "company", is_number: true, is_required: true, is_told_by: |words| words.contains("company") },
    Meaning { name: "table", is_number: true, is_required: true, is_told_by: |words| words.contains("table") },
    Meaning {
        name: "filter",
        is_number: true,
        is_required: false,
        is_told_by: |words| words.contains("filter") && !is_path(words),
    },
    Meaning { name: "path", is_number: false, is_required: false, is_told_by: is_path },
];

/// The display name is *JQ filter*, and what it holds is a JSONPath.
fn is_path(words: &HashSet<&str>) -> bool {
    ["jq", "json", "path", "jsonpath"].iter().any(|word| words.contains(word))
}

impl Columns {
    fn find(table: &'static str, fields: &[RowField], meanings: &[Meaning]) -> Result<Self, SetupError> {
        let mut by_meaning = BTreeMap::new();
        for meaning in meanings {
            match meaning.find(fields) {
                Some(column) => _ = by_meaning.insert(meaning.name, column),
                None if meaning.is_required => {
                    return Err(SetupError::NotUnderstood { table, meaning: meaning.name });
                }
                None => {}
            }
        }
        Ok(Self { field: naming::camel_case(table), by_meaning })
    }

    /// `target: webhookTarget company: companyNo`
    fn selection(&self) -> String {
        let aliases: Vec<String> =
            self.by_meaning.iter().map(|(meaning, column)| format!("{meaning}: {column}")).collect();
        aliases.join(" ")
    }
}

impl Meaning {
    /// The column that has it: of the kind that fits best, then the one of the fewest words.
    fn find(&self, fields: &[RowField]) -> Option<String> {
        let candidate = |field: &RowField| {
            let Some(Leaf::Scalar(scalar)) = &field.leaf else { return None };
            let name = naming::snake_case(&field.name);
            let words: Vec<&str> = name.split('_').collect();
            let is_audit = AUDIT.contains(&words[0]);
            let is_number = matches!(scalar.as_str(), "Int" | "Long" | "Short" | "Byte");
            let is_told = !is_audit && (self.is_told_by)(&words.iter().copied().collect());
            is_told.then(|| ((is_number != self.is_number, words.len()), field.name.clone()))
        };
        fields.iter().filter_map(candidate).min_by_key(|(rank, _)| *rank).map(|(_, name)| name)
    }
}

#[derive(Deserialize)]
struct Data {
    c0: Option<Context>,
}

#[derive(Deserialize)]
struct Context {
    t0: Option<Page>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    page_info: PageInfo,
    items: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

impl Upstream {
    /// Identifiers of all tables of both levels.
    pub async fn table_names(&self) -> Result<Vec<(TableLevel, TableName)>, UpstreamError> {
        let tables = self.tables(Share::Background).await?;
        let name = |field: &str| TableName::new(naming::pascal_case(field)).ok();
        Ok(tables.iter().filter_map(|table| Some((table.level, name(&table.field)?))).collect())
    }

    /// Finds out where the setup lies.
    pub async fn webhook_setup(&self) -> Result<Setup, SetupError> {
        let mut types = self.row_types(&[TARGETS, SUBSCRIPTIONS], Share::Background).await?.into_iter();
        let mut of = |table| {
            let found = types.next().transpose()?.flatten().ok_or(SetupError::Hidden(table))?;
            Ok::<_, SetupError>(found.fields)
        };
        let (of_targets, of_subscriptions) = (of(TARGETS)?, of(SUBSCRIPTIONS)?);
        Ok(Setup {
            targets: Columns::find(TARGETS, &of_targets, &OF_TARGETS)?,
            subscriptions: Columns::find(SUBSCRIPTIONS, &of_subscriptions, &OF_SUBSCRIPTIONS)?,
        })
    }

    /// The subscriptions below the targets of one user of a customer, which is named as the service's client id.
    pub async fn subscriptions(
        &self,
        setup: &Setup,
        customer_no: i64,
        user: &str,
    ) -> Result<Vec<Subscription>, SetupError> {
        let targets = self.setup_rows(customer_no, &setup.targets).await?;
        let is_users = |row: &&Map<String, Value>| text(row.get("user")).eq_ignore_ascii_case(user);
        let lines: HashSet<String> = targets.iter().filter(is_users).map(|row| text(row.get("line"))).collect();
        let rows = self.setup_rows(customer_no, &setup.subscriptions).await?;
        let is_own = |row: &&Map<String, Value>| {
            let is_of_user = row.get("user").is_none_or(|own| text(Some(own)).eq_ignore_ascii_case(user));
            is_of_user && lines.contains(&text(row.get("target")))
        };
        Ok(rows.iter().filter(is_own).map(subscription).collect())
    }

    /// Numbers of tables, by which subscriptions name them: from the model, else from the descriptions of these tables.
    pub async fn with_numbers(&self, names: Vec<TableName>) -> Result<Vec<NumberedTable>, UpstreamError> {
        let numbers = match self.model_numbers().await {
            Ok(numbers) => numbers,
            Err(error) => {
                tracing::debug!(%error, "the model does not tell the numbers of tables");
                self.described_numbers(&names).await?
            }
        };
        let numbered = |name: TableName| {
            let number = numbers.get(&name.as_str().to_ascii_lowercase()).copied();
            NumberedTable { name, number }
        };
        Ok(names.into_iter().map(numbered).collect())
    }

    async fn model_numbers(&self) -> Result<BTreeMap<String, i64>, UpstreamError> {
        let body = json!({
            "query": "query TableNumbers { useModel { tables { tableNo identifier } } }",
            "operationName": "TableNumbers",
        });
        let data: Value = self.post(&[], Share::Background, &body).await?.into_data()?;
        let tables = data["useModel"]["tables"]
            .as_array()
            .ok_or_else(|| UpstreamError::Shape("the model has no tables".into()))?;
        let number =
            |table: &Value| Some((table["identifier"].as_str()?.to_ascii_lowercase(), table["tableNo"].as_i64()?));
        Ok(tables.iter().filter_map(number).collect())
    }

    async fn described_numbers(&self, names: &[TableName]) -> Result<BTreeMap<String, i64>, UpstreamError> {
        let header: Vec<String> = (0..names.len()).map(|index| format!("$n{index}: String!")).collect();
        let types: String =
            (0..names.len()).map(|index| format!(" d{index}: __type(name: $n{index}) {{ description }}")).collect();
        let variables: Map<String, Value> =
            names.iter().enumerate().map(|(index, name)| (format!("n{index}"), json!(name.as_str()))).collect();
        let body = json!({
            "query": format!("query TableNumbers({}) {{{types} }}", header.join(", ")),
            "variables": variables,
            "operationName": "TableNumbers",
        });
        let data: Value = self.post(&[], Share::Background, &body).await?.into_data()?;
        let number = |(index, name): (usize, &TableName)| {
            let description = data[format!("d{index}")]["description"].as_str()?;
            Some((name.as_str().to_ascii_lowercase(), number_in(description)?))
        };
        Ok(names.iter().enumerate().filter_map(number).collect())
    }

    /// All rows of one of the two tables, by the meanings of its columns.
    async fn setup_rows(&self, customer_no: i64, columns: &Columns) -> Result<Vec<Map<String, Value>>, UpstreamError> {
        let query = format!(
            "query WebhookSetup($no: Int!, $n: Int, $after: String) {{ c0: useCustomer(no: $no) {{ \
             t0: {}(first: $n, after: $after) {{ pageInfo {{ hasNextPage endCursor }} items {{ {} }} }} }} }}",
            columns.field,
            columns.selection(),
        );
        let (mut rows, mut after) = (vec![], None);
        for _ in 0..PAGES_MAX {
            let body = json!({
                "query": query,
                "variables": { "no": customer_no, "n": PAGE_ROWS, "after": after },
                "operationName": "WebhookSetup",
            });
            let data: Data =
                self.post(&[Tenant::Customer(customer_no)], Share::Background, &body).await?.into_data()?;
            let page = data.c0.and_then(|context| context.t0);
            let page = page.ok_or_else(|| UpstreamError::Shape("a part of the answer is null".into()))?;
            rows.extend(page.items);
            match page.page_info {
                PageInfo { has_next_page: false, .. } => return Ok(rows),
                PageInfo { end_cursor: Some(cursor), .. } => after = Some(cursor),
                PageInfo { end_cursor: None, .. } => break,
            }
        }
        Err(UpstreamError::Shape(format!("the pages of {} have no end", columns.field)))
    }
}

fn subscription(row: &Map<String, Value>) -> Subscription {
    let table = text(row.get("table"));
    Subscription {
        company_no: text(row.get("company")).parse().unwrap_or_default(),
        table: table.parse().map_or(SubscribedTable::Name(table), SubscribedTable::Number),
        withheld: withheld(row.get("filter")),
        has_path: !text(row.get("path")).is_empty(),
    }
}

/// The bits of a filter; one that is no number keeps back who knows what.
fn withheld(filter: Option<&Value>) -> i64 {
    let text = text(filter);
    if text.is_empty() { 0 } else { text.parse().unwrap_or(!0) }
}

/// A value as text, whatever its type; empty for none.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(other) => other.to_string(),
    }
}

/// `Table "Actor" (152).` → 152.
fn number_in(description: &str) -> Option<i64> {
    description.split('(').skip(1).find_map(|rest| rest.split_once(')')?.0.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(columns: &[(&str, &str)]) -> Vec<RowField> {
        let field = |(name, scalar): &(&str, &str)| RowField {
            name: (*name).into(),
            description: String::new(),
            leaf: Some(Leaf::Scalar((*scalar).into())),
        };
        columns.iter().map(field).collect()
    }

    fn found(columns: &[(&str, &str)]) -> Result<String, SetupError> {
        Columns::find(SUBSCRIPTIONS, &fields(columns), &OF_SUBSCRIPTIONS).map(|columns| columns.selection())
    }

    #[test]
    fn columns_are_found_by_what_their_names_mean() {
        let columns = [
            ("webhookTarget", "Int"),
            ("companyNo", "Int"),
            ("tableNo", "Int"),
            ("filter", "Int"),
            ("jqFilter", "String"),
            ("changedByUser", "String"),
        ];
        let expected = "company: companyNo filter: filter path: jqFilter table: tableNo target: webhookTarget";
        assert_eq!(found(&columns).unwrap(), expected);
        let columns = [
            ("jsonPathFilter", "String"),
            ("eventFilter", "Int"),
            ("table", "Int"),
            ("company", "Long"),
            ("targetLineNo", "Int"),
        ];
        let expected = "company: company filter: eventFilter path: jsonPathFilter table: table target: targetLineNo";
        assert_eq!(found(&columns).unwrap(), expected);
    }

    #[test]
    fn a_name_is_no_number_and_a_meaning_that_nothing_has_is_told() {
        let columns = [("companyName", "String"), ("companyNo", "Int"), ("webhookTarget", "Int"), ("tableNo", "Int")];
        assert_eq!(found(&columns).unwrap(), "company: companyNo table: tableNo target: webhookTarget");
        let error = found(&columns[..3]).unwrap_err();
        assert_eq!(error.to_string(), "none of the columns of WebhookSubscription is the table");
    }

    #[test]
    fn rows_are_read_whatever_the_types_of_their_values() {
        let row = |row: Value| subscription(row.as_object().unwrap());
        let told = row(json!({ "company": "7", "table": 127, "filter": null, "path": "" }));
        let expected =
            Subscription { company_no: 7, table: SubscribedTable::Number(127), withheld: 0, has_path: false };
        assert_eq!(told, expected);
        let told = row(json!({ "company": null, "table": "User", "filter": "odd", "path": "$[?@.event]" }));
        assert_eq!((told.company_no, told.table, told.has_path), (0, SubscribedTable::Name("User".into()), true));
        assert_ne!(told.withheld, 0);
    }

    #[test]
    fn the_number_of_a_table_stands_in_its_description() {
        assert_eq!(number_in("Table \"Actor\" (152)."), Some(152));
        assert_eq!(number_in("Actors (people) of table 152 (number 152) (152)"), Some(152));
        assert_eq!(number_in("Table \"Actor\"."), None);
    }
}
