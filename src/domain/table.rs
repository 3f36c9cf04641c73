//! What a source table looks like, as far as the mirror cares.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    model::{Join, Origin, Twin},
    naming,
};

/// A table identifier that is well formed, such as `OrderLine`. Whether the source has it is another question, which
/// only a [`TableSpec`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName(String);

/// The text cannot be a table identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a table identifier (letters, digits and underscores)")]
pub struct BadTableName(String);

impl TableName {
    /// Checks the form of an identifier.
    pub fn new(name: impl Into<String>) -> Result<Self, BadTableName> {
        let name = name.into();
        if naming::is_well_formed(&name) { Ok(Self(name)) } else { Err(BadTableName(name)) }
    }

    /// The identifier as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TableName {
    type Error = BadTableName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a table belongs to companies (`useCompany`) or to customers (`useCustomer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableLevel {
    /// Rows of one company.
    Company,
    /// Rows of one customer ("system tables").
    Customer,
}

impl TableLevel {
    /// The kind of tenant, as stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Company => "company",
            Self::Customer => "customer",
        }
    }

    /// The mirrored tables' tenant column.
    pub fn tenant_column(self) -> &'static str {
        match self {
            Self::Company => "_company_no",
            Self::Customer => "_customer_no",
        }
    }
}

/// The PostgreSQL type of a mirrored column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    /// `smallint`, from `Short` and `Byte`.
    SmallInt,
    /// `integer`, from `Int`.
    Integer,
    /// `bigint`, from `Long`.
    BigInt,
    /// `numeric` without bounds, from `Decimal`.
    Numeric,
    /// `text`, from `String` and from every scalar that is not known.
    Text,
    /// `boolean`.
    Boolean,
    /// `timestamptz`, from the `DateTime` of the created and changed timestamps.
    TimestampTz,
    /// `timestamp`, from every other `DateTime`, since its zone is not known.
    Timestamp,
    /// `date`, from `Date`.
    Date,
    /// `time`, from the customer's own columns alone.
    Time,
}

impl ColumnType {
    /// The type of a column by its GraphQL scalar and its name.
    pub fn of_scalar(scalar: &str, column: &str) -> Self {
        match scalar {
            "Int" => Self::Integer,
            "Short" | "Byte" => Self::SmallInt,
            "Long" => Self::BigInt,
            "Decimal" => Self::Numeric,
            "Boolean" => Self::Boolean,
            "DateTime" if matches!(column, "createdTimestamp" | "changedTimestamp") => Self::TimestampTz,
            "DateTime" => Self::Timestamp,
            "Date" => Self::Date,
            _ => Self::Text,
        }
    }

    /// The name PostgreSQL prints for the type, which it also understands.
    pub fn sql(self) -> &'static str {
        match self {
            Self::SmallInt => "smallint",
            Self::Integer => "integer",
            Self::BigInt => "bigint",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Boolean => "boolean",
            Self::TimestampTz => "timestamp with time zone",
            Self::Timestamp => "timestamp without time zone",
            Self::Date => "date",
            Self::Time => "time without time zone",
        }
    }
}

/// The type of a column of the customer's own. Such columns are not in the typed schema; each is asked for by a field of
/// `extensions` that is named after its type (API documentation, extensions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtensionType {
    /// `integerValue`
    Integer,
    /// `decimalValue`
    Decimal,
    /// `stringValue`
    String,
    /// `booleanValue`
    Boolean,
    /// `dateValue`
    Date,
    /// `timeValue`
    Time,
    /// `timestampValue`
    Timestamp,
}

impl ExtensionType {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Integer, Self::Decimal, Self::String, Self::Boolean, Self::Date, Self::Time, Self::Timestamp];

    /// What the settings call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::String => "string",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Time => "time",
            Self::Timestamp => "timestamp",
        }
    }

    /// The field of `extensions` that has its values.
    pub fn field(self) -> &'static str {
        match self {
            Self::Integer => "integerValue",
            Self::Decimal => "decimalValue",
            Self::String => "stringValue",
            Self::Boolean => "booleanValue",
            Self::Date => "dateValue",
            Self::Time => "timeValue",
            Self::Timestamp => "timestampValue",
        }
    }

    /// Its type in the mirror.
    pub fn column_type(self) -> ColumnType {
        match self {
            Self::Integer => ColumnType::BigInt,
            Self::Decimal => ColumnType::Numeric,
            Self::String => ColumnType::Text,
            Self::Boolean => ColumnType::Boolean,
            Self::Date => ColumnType::Date,
            Self::Time => ColumnType::Time,
            Self::Timestamp => ColumnType::Timestamp,
        }
    }
}

/// A column of the customer's own, as the settings tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtensionColumn {
    /// Its identifier, `MyDme_approvedBy`.
    pub name: String,
    /// Its type.
    pub kind: ExtensionType,
}

/// One mirrored column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// GraphQL field name, from the API's metadata.
    pub name: String,
    /// Column name in the mirror.
    pub sql_name: String,
    /// Type in the mirror.
    pub kind: ColumnType,
    /// Set for a column of the customer's own, which is a field of `extensions` and not of the row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<ExtensionType>,
    /// The second form that the API has of it, which is not mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
    /// Its number and name in the source's database.
    #[serde(default)]
    pub origin: Origin,
}

impl Column {
    /// A column of the source's own.
    pub fn new(name: &str, kind: ColumnType) -> Self {
        Self {
            name: name.to_owned(),
            sql_name: naming::column_name(name),
            kind,
            extension: None,
            twin: None,
            origin: Origin::default(),
        }
    }
}

impl From<&ExtensionColumn> for Column {
    fn from(column: &ExtensionColumn) -> Self {
        Self { extension: Some(column.kind), ..Self::new(&column.name, column.kind.column_type()) }
    }
}

/// A table as the API's metadata describes it. Made by `upstream::describe` alone, so that every name in it is one
/// that the API gave, or the settings for a column of the customer's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// Identifier, equal to the GraphQL row type.
    pub name: TableName,
    /// The field under `useCompany` or `useCustomer`.
    pub field: String,
    /// Table name in the mirror.
    pub sql_name: String,
    /// Company or customer table.
    pub level: TableLevel,
    /// Columns in the source's order, key columns among them; behind them the customer's own.
    pub columns: Vec<Column>,
    /// Indexes into `columns`, in the order of the key. Never empty.
    pub key: Vec<usize>,
    /// Its number and name in the source's database.
    #[serde(default)]
    pub origin: Origin,
    /// Relations that its joins tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<Join>,
}

impl TableSpec {
    /// The key's columns in their order.
    pub fn key_columns(&self) -> impl ExactSizeIterator<Item = &Column> {
        self.key.iter().map(|&index| &self.columns[index])
    }

    /// The same table with these columns of the customer's own, and no others of them. One that is among the table's other
    /// columns is mirrored as that.
    pub fn with_extensions(mut self, extensions: &[ExtensionColumn]) -> Self {
        self.columns.retain(|column| column.extension.is_none());
        let mut columns = self.columns.clone();
        let is_own = |name: &str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        columns.extend(extensions.iter().filter(|extension| !is_own(&extension.name)).map(Column::from));
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let own = |name: &str| self.columns.iter().find(|column| column.name == name);
        let sql_names = naming::column_names(&names, |name| own(name).map(|column| column.sql_name.as_str()));
        columns.iter_mut().zip(sql_names).for_each(|(column, sql_name)| column.sql_name = sql_name);
        Self { columns, ..self }
    }

    /// A table of companies with these columns, all of which are integers and the first of which is the key; for tests
    /// that are about something else.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn plain(name: &str, columns: &[&str]) -> Self {
        Self {
            name: TableName::new(name).expect("a name"),
            field: naming::camel_case(name),
            sql_name: naming::snake_case(name),
            level: TableLevel::Company,
            columns: columns.iter().map(|column| Column::new(column, ColumnType::Integer)).collect(),
            key: (0..columns.len().min(1)).collect(),
            origin: Origin::default(),
            joins: vec![],
        }
    }

    /// The same table without these columns, none of which is part of the key.
    pub fn without(&self, is_left_out: impl Fn(&Column) -> bool) -> Self {
        let is_kept = |column: &&Column| !is_left_out(column);
        let key = self.key.iter().map(|&index| self.columns[..index].iter().filter(is_kept).count());
        let columns = self.columns.iter().filter(is_kept).cloned().collect();
        Self { columns, key: key.collect(), ..self.clone() }
    }

    /// The column that says who last changed a row, if the table has it.
    pub fn changed_by_column(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == "changedByUser")
    }

    /// The column that says when a row last changed, if the table has it.
    pub fn changed_column(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == "changedTimestamp")
    }
}
