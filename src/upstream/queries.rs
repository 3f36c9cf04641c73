//! The fixed operations of `graphql/`, typed by graphql_client.

use graphql_client::GraphQLQuery;
use serde_json::Value;

use super::{Lane, Upstream, UpstreamError};
use crate::domain::{ColumnType, TableLevel};

/// `Long` of the API.
type Long = i64;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/tables.graphql")]
struct Tables;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/table_description.graphql")]
struct TableDescription;

#[derive(GraphQLQuery)]
#[graphql(schema_path = "graphql/schema.graphql", query_path = "graphql/available_companies.graphql")]
struct AvailableCompanies;

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

impl Upstream {
    /// The tables of both levels, by the fields of the two context types.
    pub(super) async fn tables(&self) -> Result<Vec<TableField>, UpstreamError> {
        let data: tables::ResponseData = self.fixed::<Tables>(tables::Variables {}).await?;
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

    /// The fields of a row type; `None` when the schema has no such type.
    pub(super) async fn row_fields(&self, row_type: &str) -> Result<Option<Vec<RowField>>, UpstreamError> {
        use table_description::__TypeKind as Kind;
        let variables = table_description::Variables { name: row_type.to_owned() };
        let data: table_description::ResponseData = self.fixed::<TableDescription>(variables).await?;
        let Some(found) = data.type_ else { return Ok(None) };
        let leaf = |kind: Kind, name: Option<String>| match kind {
            Kind::SCALAR => name.map(Leaf::Scalar),
            Kind::ENUM => Some(Leaf::Enum),
            _ => None,
        };
        let fields = found.fields.unwrap_or_default().into_iter().map(|field| {
            let type_ = field.type_;
            let leaf = match (type_.kind, type_.of_type) {
                (Kind::NON_NULL, Some(inner)) => leaf(inner.kind, inner.name),
                (kind, _) => leaf(kind, type_.name),
            };
            RowField { name: field.name, description: field.description.unwrap_or_default(), leaf }
        });
        Ok(Some(fields.collect()))
    }

    /// The companies that the service may see.
    pub async fn available_companies(&self) -> Result<Vec<Company>, UpstreamError> {
        let data: available_companies::ResponseData =
            self.fixed::<AvailableCompanies>(available_companies::Variables {}).await?;
        let items = data.available_companies.and_then(|companies| companies.items).unwrap_or_default();
        Ok(items
            .into_iter()
            .flatten()
            .filter_map(|item| {
                Some(Company {
                    company_no: item.visma_net_company_id?,
                    customer_no: item.visma_net_customer_id,
                    name: item.name.unwrap_or_default(),
                })
            })
            .collect())
    }

    /// Sends a fixed operation. Any error fails it: half a description is none.
    async fn fixed<Q: GraphQLQuery>(&self, variables: Q::Variables) -> Result<Q::ResponseData, UpstreamError> {
        let body = serde_json::to_value(Q::build_query(variables))
            .map_err(|error| UpstreamError::Shape(format!("the operation cannot be written: {error}")))?;
        let answer = self.post(&[], Lane::Background, &body).await?;
        if !answer.errors.is_empty() {
            return Err(UpstreamError::Graphql(answer.errors));
        }
        serde_json::from_value(Value::Object(answer.data)).map_err(|error| UpstreamError::Shape(error.to_string()))
    }
}
