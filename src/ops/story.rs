//! The story of one row.

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgPool;

use crate::{
    config::Deletes,
    domain::{
        AnnouncedKey, Column, KeyError, KeyValue, RowKey, ShownKey, TableLevel, TableName, TableSpec, Tenant, naming,
    },
    mirror::{LivingRow, Mirror, SchemaError},
    queue::{
        QueueError,
        ledger::{self, Event},
    },
    telemetry::chain,
};

/// A key as somebody gives it.
#[derive(Debug, Clone)]
pub enum GivenKey {
    /// Values in the order of the key.
    InOrder(Vec<String>),
    /// Values by their columns, in either form of their names.
    Named(Vec<(String, String)>),
}

/// Everything known of one row.
#[derive(Debug, Serialize)]
pub struct Story {
    /// Of which table.
    pub table: TableName,
    /// Which row: the mirrored names in the order of the key.
    pub key: Box<RawValue>,
    /// What is known, in order.
    pub events: Vec<Event>,
    #[serde(skip)]
    key_names: Vec<String>,
}

/// No story can be told.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// Nothing has ever been mirrored of such a table.
    #[error("nothing of table {0} is mirrored")]
    UnknownTable(String),
    /// The values are not one for each column of the key.
    #[error("the key of {table} has {} values: {}", .columns.len(), .columns.join(", "))]
    OtherColumns {
        /// The table.
        table: TableName,
        /// Its key.
        columns: Vec<String>,
    },
    /// A value does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The tables could not be read.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A statement failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Story {
    /// The key once more, part by part.
    pub(super) fn shown(&self) -> ShownKey {
        ShownKey::ordered(self.key.get(), &self.key_names).expect("a key is shown as an object")
    }

    /// Reads it. Without a tenant: of every tenant that has such a row.
    pub async fn read(pool: &PgPool, table: &str, key: &GivenKey, tenant: Option<Tenant>) -> Result<Self, StoryError> {
        let spec = described(pool, table).await?;
        let row_key = key.resolve(&spec)?;
        // A customer-level table belongs to no company, so that one that is given says nothing.
        let tenant = tenant.filter(|tenant| tenant.level() == spec.level);
        let subject = ledger::Subject {
            table: spec.name.clone(),
            key: row_key.announced(&spec)?,
            key_json: row_key.shown(&spec),
            folded_key: row_key.folded_text(),
            has_text: row_key.has_text(),
            company: tenant.filter(|tenant| tenant.level() == TableLevel::Company).map(Tenant::number),
            customer: tenant.filter(|tenant| tenant.level() == TableLevel::Customer).map(Tenant::number),
        };
        let mut events = ledger::explain(pool, &subject).await?;
        events.extend(untold(pool, &spec, &row_key, tenant, &events).await);
        events.sort_by_key(|event| event.at);
        let key = RawValue::from_string(subject.key_json).expect("a key is shown as JSON");
        let key_names = spec.key_columns().map(|column| column.sql_name.clone()).collect();
        Ok(Self { table: spec.name, key, events, key_names })
    }
}

/// Living rows whose last write no entry tells of any more: the mirror keeps rows for longer than the daemon its entries.
async fn untold(pool: &PgPool, spec: &TableSpec, key: &RowKey, tenant: Option<Tenant>, told: &[Event]) -> Vec<Event> {
    let rows = match Mirror::new(pool.clone(), Deletes::Hard).living(spec, key, tenant).await {
        Ok(rows) => rows,
        // Somebody holds the table, or has dropped it: the entries can be read all the same.
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the mirrored row itself was not looked at");
            return vec![];
        }
    };
    let events = rows.into_iter().map(|row| mirrored(spec.level, row));
    let is_told = |event: &Event| {
        told.iter()
            .any(|told| told.is_write() && (told.company_no, told.customer_no) == (event.company_no, event.customer_no))
    };
    events.filter(|event| !is_told(event)).collect()
}

fn mirrored(level: TableLevel, row: LivingRow) -> Event {
    let changed = row.changed_at.map(|at| format!(", changed at {at}")).unwrap_or_default();
    Event {
        at: row.fetched_at,
        company_no: Some(row.tenant_no).filter(|_| level == TableLevel::Company),
        customer_no: Some(row.tenant_no).filter(|_| level == TableLevel::Customer),
        source: "mirrored".to_owned(),
        what: format!("as fetched then{changed}; of what wrote it no entry is kept"),
        notification_id: row.notification_id,
        fetch_started_at: Some(row.fetched_at),
    }
}

/// The description of a mirrored table, by its name in either form.
pub(super) async fn described(pool: &PgPool, table: &str) -> Result<TableSpec, StoryError> {
    let specs = Mirror::new(pool.clone(), Deletes::Hard).descriptions().await?;
    let wanted = naming::folded(table);
    let mut named = specs.into_iter().filter(|spec| naming::folded(spec.name.as_str()) == wanted);
    named.next().ok_or_else(|| StoryError::UnknownTable(table.to_owned()))
}

impl GivenKey {
    fn resolve(&self, spec: &TableSpec) -> Result<RowKey, StoryError> {
        let others = || StoryError::OtherColumns {
            table: spec.name.clone(),
            columns: spec.key_columns().map(|column| column.name.clone()).collect(),
        };
        let given: Option<Vec<(String, KeyValue)>> = match self {
            Self::InOrder(values) if values.len() == spec.key.len() => {
                Some(spec.key_columns().zip(values).map(|(column, value)| pair(column, value)).collect())
            }
            Self::InOrder(_) => None,
            Self::Named(values) if values.len() == spec.key.len() => {
                spec.key_columns().map(|column| Some(pair(column, named(values, column)?))).collect()
            }
            Self::Named(_) => None,
        };
        // Once more in the columns' own types.
        Ok(AnnouncedKey::new(given.ok_or_else(others)?)?.resolve(spec)?)
    }
}

fn pair(column: &Column, value: &str) -> (String, KeyValue) {
    (column.name.clone(), KeyValue::Text(value.to_owned()))
}

fn named<'a>(values: &'a [(String, String)], column: &Column) -> Option<&'a str> {
    let is_it = |name: &str| name == column.sql_name || naming::folded(name) == naming::folded(&column.name);
    values.iter().find(|(name, _)| is_it(name)).map(|(_, value)| value.as_str())
}
