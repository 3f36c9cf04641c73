//! The mirror by itself: what users do to mirrored tables, and what becomes of it.

mod rows;
mod tables;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{NaiveDate, TimeZone, Utc};
use nxt_mirror::{
    config::Deletes,
    database::{self, Connector, Session},
    domain::{
        Column, ColumnType, DatabaseTime, KeyValue, Origin, Owner, Row, RowKey, SourceTime, TableLevel, TableName,
        TableSpec, TargetId, TargetTable, Tenant, Value,
    },
    mirror::{Carried, Comparison, Fetched, Mirror, MirrorError, Removal, SchemaError, WalkId, Written, diagnose},
    queue::{self, Claimable, Claims, DirtyRow, Journal, Priority, Queue, SyncAction, Wanted},
    reconcile::{Item, Page, Tally, Writer},
};
use nxt_testkit::TestDatabase;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions, types::Uuid};

use crate::support::{
    self,
    cluster::{self, execute_each},
};

/// A database of the test's own with the daemon's schema.
struct Bed {
    database: TestDatabase,
    pool: PgPool,
    mirror: Mirror,
    connector: Connector,
}

impl Bed {
    async fn new() -> Self {
        Self::with(Deletes::Hard).await
    }

    async fn with(deletes: Deletes) -> Self {
        let database = support::migrated().await;
        let connector = Connector::to(&database.url().into()).unwrap();
        let pool = database::connect(&connector).await.unwrap();
        let mirror = Mirror::new(pool.clone(), deletes);
        Self { database, pool, mirror, connector }
    }

    async fn execute(&self, sql: &str) {
        execute_each(&mut self.pool.acquire().await.unwrap(), sql).await;
    }

    async fn scalar<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }

    async fn connect(&self) -> PgConnection {
        self.connector.connect(&Session::WORK).await.unwrap()
    }

    /// Writes rows as live work does: known under the lock, then written, then committed.
    async fn write(&self, target: &TargetTable, rows: &[Row], at: i64) -> Result<Vec<Became>, MirrorError> {
        write_with(&self.mirror, target, rows, at).await
    }

    async fn remove(&self, target: &TargetTable, keys: &[RowKey]) -> HashSet<RowKey> {
        let removals: Vec<_> =
            keys.iter().map(|key| Removal { key: key.clone(), deleted_at: SourceTime::new(time(500)) }).collect();
        let mut transaction = self.mirror.begin().await.unwrap();
        let removed = self.mirror.remove(&mut transaction, target, &removals).await.unwrap();
        transaction.commit().await.unwrap();
        removed
    }

    async fn compare(&self, target: &TargetTable, rows: &[Row]) -> Vec<Comparison> {
        let mut connection = self.pool.acquire().await.unwrap();
        self.mirror.compare(&mut connection, target, &rows.iter().collect::<Vec<_>>()).await.unwrap()
    }

    async fn count(&self, target: &TargetTable) -> i64 {
        let mut connection = self.pool.acquire().await.unwrap();
        self.mirror.count(&mut connection, target).await.unwrap()
    }

    /// Which version of which row there is: changes when a row is written, or locked for that.
    async fn versions(&self, table: &str) -> String {
        let sql = format!(
            "select string_agg(concat_ws(':', t.ctid, t.xmin, t.xmax), ' ' order by t.ctid) from business_nxt.{table} t"
        );
        self.scalar(&sql).await
    }
}

async fn write_with(mirror: &Mirror, target: &TargetTable, rows: &[Row], at: i64) -> Result<Vec<Became>, MirrorError> {
    let mut transaction = mirror.begin().await.unwrap();
    mirror.lock(&mut transaction, target).await?;
    let keys: Vec<RowKey> = rows.iter().map(|row| row.key.clone()).collect();
    let known = mirror.known(&mut transaction, target, &keys).await?;
    let fetched: Vec<_> = rows
        .iter()
        .zip(known)
        .map(|(row, known)| Fetched {
            row,
            started_at: DatabaseTime::new(time(at)),
            notification_id: Some(at),
            is_mirrored: known.is_some(),
        })
        .collect();
    let written = mirror.write(&mut transaction, target, &fetched).await?;
    transaction.commit().await.unwrap();
    Ok(written.into_iter().map(Became::from).collect())
}

/// What became of a row, whatever its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Became {
    Inserted,
    Updated,
    Unchanged,
}

impl From<Written> for Became {
    fn from(written: Written) -> Self {
        match written {
            Written::Inserted => Self::Inserted,
            Written::Updated(columns) => {
                assert!(!columns.is_empty(), "what differs is named");
                Self::Updated
            }
            Written::Unchanged => Self::Unchanged,
        }
    }
}

fn time(seconds: i64) -> chrono::DateTime<Utc> {
    Utc.timestamp_opt(1_770_000_000 + seconds, 0).unwrap()
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column::new(name, kind)
}

fn table(name: &str, columns: &[(&str, ColumnType)], key: &[usize]) -> Arc<TableSpec> {
    Arc::new(TableSpec {
        name: TableName::new(name).unwrap(),
        field: nxt_mirror::domain::naming::camel_case(name),
        sql_name: nxt_mirror::domain::naming::snake_case(name),
        level: TableLevel::Company,
        columns: columns.iter().map(|(name, kind)| column(name, *kind)).collect(),
        key: key.to_vec(),
        origin: Origin::default(),
        joins: vec![],
    })
}

fn target(table: &Arc<TableSpec>) -> TargetTable {
    TargetTable { id: TargetId(1), tenant: Tenant::Company(7), table: Arc::clone(table) }
}

/// A table with a text key, a number and a text.
fn product() -> Arc<TableSpec> {
    table(
        "Product",
        &[("productNo", ColumnType::Text), ("price", ColumnType::Numeric), ("stock", ColumnType::Integer)],
        &[0],
    )
}

fn product_row(spec: &Arc<TableSpec>, no: &str, price: &str, stock: i64) -> Row {
    row(spec, vec![Value::Text(no.into()), Value::Decimal(price.into()), Value::Int(stock)])
}

fn row(spec: &Arc<TableSpec>, values: Vec<Value>) -> Row {
    let key = spec.key.iter().map(|&index| values[index].to_key().unwrap()).collect();
    Row { table: Arc::clone(spec), key: RowKey::from_values(key), changed_at: Some(SourceTime::new(time(1))), values }
}

fn text_key(text: &str) -> RowKey {
    RowKey::from_values(vec![KeyValue::Text(text.into())])
}

/// A product table that is ready, with these rows.
async fn with_products(bed: &Bed, count: i64) -> (TargetTable, Vec<Row>) {
    let spec = product();
    assert!(Arc::ptr_eq(&bed.mirror.ensure(&spec).await.unwrap(), &spec));
    let rows: Vec<Row> = (0..count).map(|number| product_row(&spec, &format!("P{number}"), "1.50", number)).collect();
    let target = target(&spec);
    let written = bed.write(&target, &rows, 10).await.unwrap();
    assert!(written.iter().all(|written| *written == Became::Inserted));
    (target, rows)
}

/// A table with a column of every type and a key of three.
fn every_type() -> Arc<TableSpec> {
    table(
        "EveryType",
        &[
            ("text", ColumnType::Text),
            ("lineNo", ColumnType::SmallInt),
            ("orderNo", ColumnType::Integer),
            ("big", ColumnType::BigInt),
            ("amount", ColumnType::Numeric),
            ("flag", ColumnType::Boolean),
            ("changedTimestamp", ColumnType::TimestampTz),
            ("at", ColumnType::Timestamp),
            ("day", ColumnType::Date),
            ("code", ColumnType::Text),
        ],
        &[2, 1, 9],
    )
}

fn every_type_row(spec: &Arc<TableSpec>, order: i64, line: i64, text: &str, amount: &str) -> Row {
    let day = NaiveDate::from_ymd_opt(1999, 12, 31).unwrap();
    row(
        spec,
        vec![
            Value::Text(text.into()),
            Value::Int(line),
            Value::Int(order),
            Value::Int(i64::MIN),
            Value::Decimal(amount.into()),
            Value::Bool(true),
            Value::TimestampTz(SourceTime::new(time(0) + chrono::Duration::microseconds(123_456))),
            Value::Timestamp(day.and_hms_micro_opt(23, 59, 59, 999_999).unwrap()),
            Value::Date(day),
            Value::Text("a".into()),
        ],
    )
}
