//! The fixed operations of `graphql/`, typed by graphql_client.

use graphql_client::GraphQLQuery;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{json, value::RawValue};

use super::{GraphqlError, Share, Upstream, UpstreamError, answer::members};
use crate::domain::{
    ColumnType, TableLevel,
    json::{self, Json},
};

/// `Long` of the API, which may come as a text, since JavaScript's numbers end at 53 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Long(i64);

impl<'de> Deserialize<'de> for Long {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::of(<&RawValue>::deserialize(deserializer)?);
        let number = json.integer().or_else(|| json::integer(json.text()?.trim()));
        number.map(Self).ok_or_else(|| D::Error::custom(format!("{} is no integer", json.as_str())))
    }
}

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/tables.graphql")]
struct Tables;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/table_description.graphql")]
#[expect(dead_code, reason = "only the types of its answer are used, for each alias of one request")]
struct TableDescription;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/available_companies.graphql")]
struct AvailableCompanies;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/available_customers.graphql")]
struct AvailableCustomers;

/// A company that the service may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Company {
    /// Visma.net company number.
    pub company_no: i64,
    /// Visma.net customer number it belongs to, where told.
    pub customer_no: Option<i64>,
    /// Its name.
    pub name: String,
}

/// A customer that the service may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    /// Visma.net customer number.
    pub customer_no: i64,
    /// Its name.
    pub name: String,
}

/// The field of one table under `useCompany` or `useCustomer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableField {
    pub(super) level: TableLevel,
    pub(super) field: String,
}

/// One field of a row type, as introspection shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowField {
    pub(super) name: String,
    pub(super) description: String,
    /// The scalar or enum it is; `None` for objects and lists.
    pub(super) leaf: Option<Leaf>,
}

/// A row type, as introspection shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowType {
    pub(super) description: String,
    pub(super) fields: Vec<RowField>,
}

/// The type of a field that has a value of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Leaf {
    Scalar(String),
    Enum,
}

impl Leaf {
    /// The column's type in the mirror; `None` for binary content, which is left out.
    pub(super) fn column_type(&self, column: &str) -> Option<ColumnType> {
        const BINARY: [&str; 5] = ["Binary", "Base64", "Base64String", "ByteArray", "Bytes"];
        match self {
            Self::Scalar(scalar) if BINARY.contains(&scalar.as_str()) => None,
            Self::Scalar(scalar) => Some(ColumnType::of_scalar(scalar, column)),
            Self::Enum => Some(ColumnType::Text),
        }
    }
}

/// A row type, or `None` when the schema has no such type, or why it cannot be told.
pub(super) type FoundType = Result<Option<RowType>, UpstreamError>;

impl Upstream {
    /// The tables of both levels, by the fields of the two context types.
    pub(super) async fn tables(&self, share: Share) -> Result<Vec<TableField>, UpstreamError> {
        let data: tables::ResponseData = self.fixed::<Tables>(tables::Variables {}, share).await?;
        let contexts = data.schema.query_type.fields.unwrap_or_default();
        let mut found = Vec::new();
        for context in contexts {
            let level = match context.name.as_str() {
                "useCompany" => TableLevel::Company,
                "useCustomer" => TableLevel::Customer,
                _ => continue,
            };
            let direct = context.type_.fields.into_iter().flatten().map(|field| field.name);
            let wrapped = context.type_.of_type.and_then(|inner| inner.fields).into_iter().flatten();
            let fields = direct.chain(wrapped.map(|field| field.name));
            found.extend(fields.map(|field| TableField { level, field }));
        }
        if found.is_empty() {
            return Err(UpstreamError::Shape("the schema shows no tables under useCompany".into()));
        }
        Ok(found)
    }

    /// Several row types, in one request: each, or `None` when the schema has no such type.
    pub(super) async fn row_types(&self, names: &[&str], share: Share) -> Result<Vec<FoundType>, UpstreamError> {
        let body = row_types_body(names);
        let answer = self.post(&[], share, &body).await?;
        let described = members(answer.data());
        let found = |index: usize| {
            let alias = format!("d{index}");
            let own: Vec<GraphqlError> =
                answer.errors.iter().filter(|error| concerns(error, &alias)).cloned().collect();
            match described.get(alias.as_str()) {
                _ if !own.is_empty() => Err(UpstreamError::Graphql(own)),
                Some(raw) => row_type(raw.get()).map_err(|error| UpstreamError::Shape(error.to_string())),
                None => Err(UpstreamError::Shape("a description is missing".into())),
            }
        };
        Ok((0..names.len()).map(found).collect())
    }

    /// The companies that the service may see.
    pub async fn available_companies(&self) -> Result<Vec<Company>, UpstreamError> {
        let data: available_companies::ResponseData =
            self.fixed::<AvailableCompanies>(available_companies::Variables {}, Share::Background).await?;
        companies(data)
    }

    /// The customers that the service may see.
    pub async fn available_customers(&self) -> Result<Vec<Customer>, UpstreamError> {
        let data: available_customers::ResponseData =
            self.fixed::<AvailableCustomers>(available_customers::Variables {}, Share::Background).await?;
        customers(data)
    }

    /// Sends a fixed operation. Any error fails it: half a description is none.
    async fn fixed<Q: GraphQLQuery>(
        &self,
        variables: Q::Variables,
        share: Share,
    ) -> Result<Q::ResponseData, UpstreamError> {
        let body = serde_json::to_value(Q::build_query(variables))
            .map_err(|error| UpstreamError::Shape(format!("the operation cannot be written: {error}")))?;
        self.post(&[], share, &body).await?.into_data()
    }
}

/// Reads a list of companies. Those without a number cannot be asked for anything.
fn companies(data: available_companies::ResponseData) -> Result<Vec<Company>, UpstreamError> {
    let items = listed("availableCompanies", data.available_companies.and_then(|companies| companies.items))?;
    let company = |item: available_companies::AvailableCompaniesAvailableCompaniesItems| {
        Some(Company {
            company_no: item.visma_net_company_id?.0,
            customer_no: item.visma_net_customer_id.map(|number| number.0),
            name: item.name.unwrap_or_default(),
        })
    };
    Ok(items.into_iter().filter_map(company).collect())
}

/// Reads a list of customers. Those without a number cannot be asked for anything.
fn customers(data: available_customers::ResponseData) -> Result<Vec<Customer>, UpstreamError> {
    let items = listed("availableCustomers", data.available_customers.and_then(|customers| customers.items))?;
    let customer = |item: available_customers::AvailableCustomersAvailableCustomersItems| {
        Some(Customer { customer_no: item.visma_net_customer_id?.0, name: item.name.unwrap_or_default() })
    };
    Ok(items.into_iter().filter_map(customer).collect())
}

/// A list that is not there is no empty list: who took it for one would forget every company. An entry that is null says
/// nothing of the others.
fn listed<T>(field: &str, items: Option<Vec<Option<T>>>) -> Result<Vec<T>, UpstreamError> {
    let items = items.ok_or_else(|| UpstreamError::Shape(format!("{field} has no items")))?;
    Ok(items.into_iter().flatten().collect())
}

/// [`TableDescription`] for several types, each under an alias of its own.
fn row_types_body(names: &[&str]) -> serde_json::Value {
    let numbers = 0..names.len();
    let header: Vec<String> = numbers.clone().map(|index| format!("$n{index}: String!")).collect();
    let types: String =
        numbers.clone().map(|index| format!("d{index}: __type(name: $n{index}) {{ ...Columns }}\n")).collect();
    let query = format!(
        "query TableDescriptions({}) {{\n{types}}}\n\
         fragment Columns on __Type {{ name description fields(includeDeprecated: true) {{ \
         name description type {{ kind name ofType {{ kind name }} }} }} }}",
        header.join(", "),
    );
    let variables: serde_json::Map<_, _> =
        numbers.zip(names).map(|(index, name)| (format!("n{index}"), json!(name))).collect();
    json!({ "query": query, "variables": variables, "operationName": "TableDescriptions" })
}

/// Whether an error is about this alias: it names it, or none.
fn concerns(error: &GraphqlError, alias: &str) -> bool {
    error.path.first().is_none_or(|first| first == alias)
}

/// Reads the answer of one alias.
pub(super) fn row_type(description: &str) -> Result<Option<RowType>, serde_json::Error> {
    let found: Option<table_description::TableDescriptionType> = serde_json::from_str(description)?;
    Ok(found.map(|found| RowType {
        description: found.description.unwrap_or_default(),
        fields: found.fields.into_iter().flatten().map(row_field).collect(),
    }))
}

fn row_field(field: table_description::TableDescriptionTypeFields) -> RowField {
    use table_description::__TypeKind as Kind;
    let leaf = |kind: Kind, name: Option<String>| match kind {
        Kind::SCALAR => name.map(Leaf::Scalar),
        Kind::ENUM => Some(Leaf::Enum),
        _ => None,
    };
    let leaf = match (field.type_.kind, field.type_.of_type) {
        (Kind::NON_NULL, Some(inner)) => leaf(inner.kind, inner.name),
        (kind, _) => leaf(kind, field.type_.name),
    };
    RowField { name: field.name, description: field.description.unwrap_or_default(), leaf }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_an_alias_and_a_variable() {
        let body = row_types_body(&["Order", "Text"]);
        let query = body["query"].as_str().unwrap();
        assert!(
            query.starts_with("query TableDescriptions($n0: String!, $n1: String!) {\nd0: __type(name: $n0)"),
            "{query}"
        );
        assert_eq!(body["variables"], json!({ "n0": "Order", "n1": "Text" }));
    }

    #[test]
    fn company_numbers_come_as_numbers_or_texts() {
        let data = r#"{"availableCompanies":{"items":[
            {"name":"A","vismaNetCompanyId":"9007199254740993","vismaNetCustomerId":12.0},
            {"name":null,"vismaNetCompanyId":2,"vismaNetCustomerId":null}]}}"#;
        let read = companies(serde_json::from_str(data).unwrap()).unwrap();
        let company = |company_no, customer_no, name: &str| Company { company_no, customer_no, name: name.into() };
        assert_eq!(read, [company(9_007_199_254_740_993, Some(12), "A"), company(2, None, "")]);
    }

    #[test]
    fn a_list_that_is_not_there_is_no_empty_one() {
        let count = |field: &str, list: &str| {
            let data = format!(r#"{{"{field}":{list}}}"#);
            match field {
                "availableCompanies" => companies(serde_json::from_str(&data).unwrap()).map(|read| read.len()),
                _ => customers(serde_json::from_str(&data).unwrap()).map(|read| read.len()),
            }
        };
        for field in ["availableCompanies", "availableCustomers"] {
            assert_eq!(count(field, r#"{"items":[]}"#).unwrap(), 0);
            let with_null = r#"{"items":[null,{"vismaNetCompanyId":1,"vismaNetCustomerId":1}]}"#;
            assert_eq!(count(field, with_null).unwrap(), 1);
            for list in ["null", r#"{"items":null}"#] {
                let error = count(field, list).unwrap_err();
                assert!(matches!(&error, UpstreamError::Shape(reason) if reason.starts_with(field)), "{list}: {error}");
            }
        }
    }

    #[test]
    fn a_type_that_the_schema_lacks_is_told_from_one_without_fields() {
        assert_eq!(row_type("null").unwrap(), None);
        let of = |fields| Some(RowType { description: String::new(), fields });
        assert_eq!(row_type(r#"{"name":"T","fields":null}"#).unwrap(), of(vec![]));
        assert!(row_type("5").is_err());
        let field = r#"{"fields":[{"name":"no","type":{"kind":"NON_NULL","name":null,"ofType":{"kind":"SCALAR","name":"Int"}}}]}"#;
        let leaf = Some(Leaf::Scalar("Int".into()));
        let expected = RowField { name: "no".into(), description: String::new(), leaf };
        assert_eq!(row_type(field).unwrap(), of(vec![expected]));
    }
}
