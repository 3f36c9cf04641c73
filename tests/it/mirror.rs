//! The mirror by itself: what users do to mirrored tables, and what becomes of it.

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
        let database = support::database().await;
        let connector = Connector::to(&database.url().into()).unwrap();
        let pool = database::connect(&connector).await.unwrap();
        database::migrate(&pool).await.unwrap();
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

#[tokio::test]
async fn what_is_unchanged_is_neither_written_nor_locked() {
    let bed = Bed::new().await;
    let (target, mut rows) = with_products(&bed, 3).await;
    let before = bed.versions("product").await;
    assert_eq!(bed.write(&target, &rows, 20).await.unwrap(), [Became::Unchanged; 3]);
    assert_eq!(bed.versions("product").await, before);
    rows[1] = product_row(&target.table, "P1", "2", 1);
    rows.push(product_row(&target.table, "P9", "9", 9));
    let written = bed.write(&target, &rows, 30).await.unwrap();
    assert_eq!(written, [Became::Unchanged, Became::Updated, Became::Unchanged, Became::Inserted]);
    let told: String = bed
        .scalar(
            "select string_agg(concat_ws(' ', product_no, price, extract(epoch from _fetched_at)::bigint - 1770000000, \
             _notification_id, extract(epoch from _changed_at)::bigint - 1770000000), ', ' order by product_no) \
             from business_nxt.product where _company_no = 7",
        )
        .await;
    assert_eq!(told, "P0 1.50 10 10 1, P1 2 30 30 1, P2 1.50 10 10 1, P9 9 30 30 1");
}

#[tokio::test]
async fn a_row_that_is_there_unexpectedly_is_brought_in_line() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 2).await;
    let changed = [rows[0].clone(), product_row(&target.table, "P1", "7", 7)];
    let mut transaction = bed.mirror.begin().await.unwrap();
    let fetched = changed.each_ref().map(|row| Fetched {
        row,
        started_at: DatabaseTime::new(time(20)),
        notification_id: None,
        is_mirrored: false,
    });
    let written = bed.mirror.write(&mut transaction, &target, &fetched).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(written, [Written::Unchanged, Written::Inserted]);
    assert_eq!(bed.compare(&target, &changed).await, [Comparison::Equal, Comparison::Equal]);
}

#[tokio::test]
async fn columns_of_the_users_are_left_alone() {
    if cluster::has_no("identity columns that are added to distributed tables").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, mut rows) = with_products(&bed, 3_000).await;
    bed.execute(
        "alter table business_nxt.product add column id bigint generated always as identity;
         alter table business_nxt.product add column g text not null default 'x';
         alter table business_nxt.product add column double integer generated always as (stock * 2) stored",
    )
    .await;
    bed.mirror.forget(&target.table);
    let effective = bed.mirror.ensure(&target.table).await.unwrap();
    assert!(Arc::ptr_eq(&effective, &target.table));
    assert!(bed.compare(&target, &rows).await.iter().all(|row| *row == Comparison::Equal));
    rows[5] = product_row(&target.table, "P5", "3", 50);
    rows.push(product_row(&target.table, "new", "3", 60));
    let written = bed.write(&target, &rows, 20).await.unwrap();
    assert_eq!(written.iter().filter(|written| **written != Became::Unchanged).count(), 2);
    assert_eq!(bed.scalar::<i32>("select double from business_nxt.product where product_no = 'P5'").await, 100);
    assert_eq!(bed.remove(&target, &[text_key("P7")]).await, HashSet::from([text_key("P7")]));
    // A column that must have a value and has no default hinders new rows and no others.
    bed.execute("alter table business_nxt.product add column must text not null default 'y'").await;
    bed.execute("alter table business_nxt.product alter column must drop default").await;
    rows[5] = product_row(&target.table, "P5", "4", 50);
    assert_eq!(bed.write(&target, &rows[5..6], 30).await.unwrap(), [Became::Updated]);
    let error = bed.write(&target, &[product_row(&target.table, "newer", "3", 60)], 30).await.unwrap_err();
    assert_eq!(error.diagnose().owner, Owner::Row);
    assert!(error.diagnose().reason.contains("give it a default"), "{}", error.diagnose().reason);
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_is_that_row_s_matter() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 3).await;
    bed.execute(
        "create function public.refuse() returns trigger language plpgsql as $$
         begin if new.product_no = 'P1' then raise exception 'not this one'; end if; return new; end $$;
         create trigger refuse before insert or update on business_nxt.product for each row execute function refuse()",
    )
    .await;
    let changed: Vec<Row> =
        rows.iter().map(|row| row.key.to_string()).map(|no| product_row(&target.table, &no, "8", 8)).collect();
    let diagnosis = bed.write(&target, &changed, 20).await.unwrap_err().diagnose();
    assert_eq!(diagnosis.owner, Owner::Row);
    assert!(diagnosis.reason.starts_with("not this one; a trigger or function"), "{}", diagnosis.reason);
    let written = bed.write(&target, &[changed[0].clone(), changed[2].clone()], 20).await.unwrap();
    assert_eq!(written, [Became::Updated; 2]);
    // A function that misses a table of its own is no reason to describe ours again.
    bed.execute(
        "create or replace function public.refuse() returns trigger language plpgsql as $$
         begin insert into nowhere values (1); return new; end $$",
    )
    .await;
    assert_eq!(bed.write(&target, &changed[1..2], 30).await.unwrap_err().diagnose().owner, Owner::Row);
}

#[tokio::test]
async fn an_error_at_the_commit_is_diagnosed_too() {
    if cluster::has_no("triggers on distributed tables").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 1).await;
    bed.execute(
        "create function public.refuse() returns trigger language plpgsql as $$ begin raise exception 'late'; end $$;
         create constraint trigger refuse after insert on business_nxt.product
         deferrable initially deferred for each row execute function refuse()",
    )
    .await;
    let row = product_row(&target.table, "late", "1", 1);
    let fetched =
        Fetched { row: &row, started_at: DatabaseTime::new(time(1)), notification_id: None, is_mirrored: false };
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.write(&mut transaction, &target, &[fetched]).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(diagnose(&error, Carried::Rows, &target.table.sql_name).owner, Owner::Row);
}

#[tokio::test]
async fn rows_are_inserted_when_another_transaction_gives_their_tenant_its_place_meanwhile() {
    let bed = Bed::new().await;
    if !cluster::is_there(&bed.database) {
        return;
    }
    let (target, _) = with_products(&bed, 1).await;
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    let row = product_row(&target.table, "first", "1", 1);
    let fetched =
        [Fetched { row: &row, started_at: DatabaseTime::new(time(1)), notification_id: None, is_mirrored: false }];
    let mut placing = bed.pool.begin().await.unwrap();
    execute_each(&mut placing, "insert into nxt_mirror.tenant_place (tenant_no) values (8)").await;
    let mut writing = bed.pool.begin().await.unwrap();
    let placed = async {
        let waits = "select least(1, count(*)) - 1 from citus_lock_waits";
        nxt_testkit::Wait::seconds(240).for_count("sessions that wait", &bed.pool, 0, waits).await.unwrap();
        placing.commit().await.unwrap();
    };
    let (written, ()) = tokio::join!(bed.mirror.write(&mut writing, &other, &fetched), placed);
    assert_eq!(written.unwrap(), [Written::Inserted]);
}

#[tokio::test]
async fn a_table_that_was_dropped_renamed_or_robbed_is_made_again() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 3).await;
    for deed in [
        "drop table business_nxt.product cascade",
        "alter table business_nxt.product rename to product_old",
        "alter table business_nxt.product drop column stock cascade",
        "alter table business_nxt.product rename column stock to stocks",
        "drop schema business_nxt cascade",
    ] {
        bed.execute(deed).await;
        let error = bed.write(&target, &rows, 20).await.unwrap_err();
        assert_eq!(error.diagnose().owner, Owner::Schema, "{deed}");
        bed.mirror.forget(&target.table);
        bed.mirror.ensure(&target.table).await.unwrap();
        bed.write(&target, &rows, 30).await.unwrap();
        assert!(bed.compare(&target, &rows).await.iter().all(|row| *row == Comparison::Equal), "{deed}");
        let spellings: i64 =
            bed.scalar("select count(*) from pg_indexes where tablename = 'product' and indexdef like '%rtrim%'").await;
        assert_eq!(spellings, 1, "{deed}");
    }
}

#[tokio::test]
async fn a_table_of_another_role_says_so_and_concerns_no_other() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 1).await;
    let url = bed.database.url_of_plain_role().await;
    bed.execute(
        "grant usage, create on schema business_nxt to nxt_test_plain;
         grant usage on schema nxt_mirror to nxt_test_plain;
         grant all on all tables in schema nxt_mirror to nxt_test_plain",
    )
    .await;
    let mirror = Mirror::new(PgPoolOptions::new().connect(&url).await.unwrap(), Deletes::Hard);
    mirror.ensure(&target.table).await.unwrap();
    let diagnosis = write_with(&mirror, &target, &rows, 20).await.unwrap_err().diagnose();
    assert_eq!(diagnosis.owner, Owner::Target);
    assert!(diagnosis.reason.contains("alter table business_nxt.\"product\" owner to"), "{}", diagnosis.reason);
    let mut wider = TableSpec::clone(&target.table);
    wider.columns.push(column("weight", ColumnType::Numeric));
    assert_eq!(mirror.ensure(&Arc::new(wider)).await.unwrap_err().diagnose().owner, Owner::Target);
    // Row-level security that is forced upon a table refuses its rows as well.
    bed.execute(
        "alter table business_nxt.product owner to nxt_test_plain;
         alter table business_nxt.product enable row level security, force row level security",
    )
    .await;
    let diagnosis = write_with(&mirror, &target, &rows, 20).await.unwrap_err().diagnose();
    assert_eq!(diagnosis.owner, Owner::Target, "{}", diagnosis.reason);
    assert!(diagnosis.reason.contains("row-level security"), "{}", diagnosis.reason);
    let other = table("Other", &[("no", ColumnType::Integer)], &[0]);
    mirror.ensure(&other).await.unwrap();
}

#[tokio::test]
async fn a_locked_table_is_busy_and_waited_for_a_moment_only() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 1).await;
    let mut user = bed.connect().await;
    let mut held = user.begin().await.unwrap();
    execute_each(&mut held, "lock table business_nxt.product in share mode").await;
    let began = Instant::now();
    let diagnosis = bed.write(&target, &[product_row(&target.table, "P0", "9", 9)], 20).await.unwrap_err().diagnose();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(diagnosis.owner, Owner::Target);
    assert!(diagnosis.pause.is_some());
    // Who only reads goes on.
    assert_eq!(bed.compare(&target, &rows).await, [Comparison::Equal]);
    held.rollback().await.unwrap();
    assert_eq!(bed.write(&target, &rows, 30).await.unwrap(), [Became::Unchanged]);
}

#[tokio::test]
async fn two_writers_of_a_target_follow_each_other() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 1).await;
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.lock(&mut transaction, &target).await.unwrap();
    assert_eq!(bed.write(&target, &rows, 20).await.unwrap_err().diagnose().owner, Owner::Target);
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    assert_eq!(bed.write(&other, &rows, 20).await.unwrap(), [Became::Inserted]);
}

#[tokio::test]
async fn a_column_that_cannot_be_added_now_is_left_out() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 2).await;
    let mut wider = TableSpec::clone(&target.table);
    wider.columns.insert(0, column("weight", ColumnType::Numeric));
    wider.key = vec![1];
    let wider = Arc::new(wider);
    let mut reader = bed.connect().await;
    let mut held = reader.begin().await.unwrap();
    execute_each(&mut held, "select count(*) from business_nxt.product").await;
    let began = Instant::now();
    let other = table("Other", &[("no", ColumnType::Integer)], &[0]);
    let after = async |table| (bed.mirror.ensure(table).await.unwrap(), began.elapsed());
    let ((effective, tried), (_, made)) = tokio::join!(after(&wider), after(&other));
    assert!(made < tried, "another table waited for {made:?}, the locked one for {tried:?}");
    assert_eq!(*effective, *target.table);
    // Served from memory until the next try.
    let began = Instant::now();
    assert_eq!(bed.mirror.ensure(&wider).await.unwrap(), effective);
    assert!(began.elapsed() < Duration::from_millis(100));
    // Rows of the whole description are cut to what the table has.
    let values = vec![Value::Decimal("1".into()), Value::Text("P1".into()), Value::Decimal("4".into()), Value::Int(4)];
    let narrow = TargetTable { table: effective, ..target.clone() };
    assert_eq!(bed.write(&narrow, &[row(&wider, values.clone())], 20).await.unwrap(), [Became::Updated]);
    let note: String = bed.scalar("select note from nxt_mirror.mirrored_table where table_name = 'Product'").await;
    assert!(note.contains("weight"), "{note}");
    held.rollback().await.unwrap();
    bed.mirror.forget(&wider);
    assert!(Arc::ptr_eq(&bed.mirror.ensure(&wider).await.unwrap(), &wider));
    let wide = TargetTable { table: Arc::clone(&wider), ..target.clone() };
    assert_eq!(bed.compare(&wide, &[row(&wider, values)]).await, [Comparison::Different(vec!["weight".into()])]);
    // The other way round, a row lacks what the table has.
    let error = bed.write(&wide, &[product_row(&target.table, "P1", "4", 4)], 20).await.unwrap_err();
    assert_eq!(error.diagnose().owner, Owner::Schema);
    assert_eq!(bed.mirror.descriptions().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_table_with_another_key_or_type_is_refused_by_name() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 1).await;
    let mut spec = TableSpec::clone(&target.table);
    spec.key = vec![2];
    assert!(matches!(bed.mirror.ensure(&Arc::new(spec)).await, Err(SchemaError::KeyChanged { .. })));
    let mut spec = TableSpec::clone(&target.table);
    spec.columns[2].kind = ColumnType::Text;
    let error = bed.mirror.ensure(&Arc::new(spec)).await.unwrap_err();
    assert!(matches!(error, SchemaError::TypeChanged { .. }));
    assert_eq!(error.diagnose().owner, Owner::Target);
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

#[tokio::test]
async fn values_of_every_type_arrive_without_loss() {
    let bed = Bed::new().await;
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let text = "tab\t newline\n backslash\\N quote' \"double\" {brace,} æøå 😀 NULL";
    let amount = "-12345678901234567890123456789.00000000000000000001230";
    let mut empty = every_type_row(&spec, 2, 1, "", "0.00");
    for index in [0, 3, 4, 5, 6, 7, 8] {
        empty.values[index] = Value::Null;
    }
    let rows = [every_type_row(&spec, 1, i64::from(i16::MIN), text, amount), empty];
    assert_eq!(bed.write(&target, &rows, 1).await.unwrap(), [Became::Inserted; 2]);
    let told: String = bed
        .scalar(
            "select concat_ws('|', text, line_no, order_no, big, amount, flag, changed_timestamp, at, day, code) \
             from business_nxt.every_type where order_no = 1",
        )
        .await;
    let expected = format!(
        "{text}|-32768|1|-9223372036854775808|{amount}|t|2026-02-02 02:40:00.123456+00|1999-12-31 23:59:59.999999|1999-12-31|a"
    );
    assert_eq!(told, expected);
    assert_eq!(bed.compare(&target, &rows).await, [Comparison::Equal, Comparison::Equal]);
    let changed = every_type_row(&spec, 2, 1, "x", "0.00");
    let differs = ["text", "big", "amount", "flag", "changed_timestamp", "at", "day"].map(String::from).to_vec();
    let absent = every_type_row(&spec, 2, 2, "x", "0.00");
    assert_eq!(
        bed.compare(&target, &[changed.clone(), absent]).await,
        [Comparison::Different(differs), Comparison::Missing]
    );
    assert_eq!(bed.write(&target, &[changed], 2).await.unwrap(), [Became::Updated]);
}

#[tokio::test]
async fn columns_may_be_wider_than_described() {
    let bed = Bed::new().await;
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let rows = [every_type_row(&spec, 1, 1, "x", "1"), every_type_row(&spec, 1, 2, "x", "1")];
    bed.write(&target, &rows, 1).await.unwrap();
    bed.execute(
        "drop view business_nxt_readable.every_type;
         alter table business_nxt.every_type alter column line_no type numeric, alter column order_no type bigint,
         alter column big type numeric",
    )
    .await;
    bed.mirror.forget(&spec);
    bed.mirror.ensure(&spec).await.unwrap();
    assert_eq!(bed.compare(&target, &rows).await, [Comparison::Equal, Comparison::Equal]);
    assert_eq!(bed.write(&target, &rows, 2).await.unwrap(), [Became::Unchanged; 2]);
    let others = [every_type_row(&spec, 1, 1, "y", "1"), every_type_row(&spec, 3, 2, "x", "1")];
    assert_eq!(bed.write(&target, &others, 2).await.unwrap(), [Became::Updated, Became::Inserted]);
    assert_eq!(bed.remove(&target, &[rows[1].key.clone()]).await.len(), 1);
}

#[tokio::test]
async fn values_that_do_not_fit_their_column_are_their_row_s_matter() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 1).await;
    for bad in [
        product_row(&target.table, "P0", "1", i64::MAX),
        product_row(&target.table, "P0", "many", 1),
        product_row(&target.table, "a\0b", "1", 1),
    ] {
        let error = bed.write(&target, &[bad], 20).await.unwrap_err();
        assert_eq!(error.diagnose().owner, Owner::Row, "{:?}", error.source);
    }
}

#[tokio::test]
async fn a_softly_deleted_row_comes_back() {
    let bed = Bed::with(Deletes::Soft).await;
    let (target, rows) = with_products(&bed, 3).await;
    let keys = [text_key("P1"), text_key("absent")];
    assert_eq!(bed.remove(&target, &keys).await, HashSet::from([text_key("P1")]));
    assert_eq!(bed.remove(&target, &keys).await, HashSet::new());
    assert_eq!(bed.count(&target).await, 2);
    let deleted_at: i64 = bed
        .scalar("select extract(epoch from _deleted_at)::bigint from business_nxt.product where product_no = 'P1'")
        .await;
    assert_eq!(deleted_at, time(500).timestamp());
    assert_eq!(bed.compare(&target, &rows[1..2]).await, [Comparison::Missing]);
    // The same content again: it lives again.
    let written = bed.write(&target, &rows, 600).await.unwrap();
    assert_eq!(written, [Became::Unchanged, Became::Inserted, Became::Unchanged]);
    assert_eq!(bed.count(&target).await, 3);
    assert_eq!(bed.compare(&target, &rows[1..2]).await, [Comparison::Equal]);
}

#[tokio::test]
async fn keys_spelled_otherwise_are_found() {
    let bed = Bed::new().await;
    let (target, _) = with_products(&bed, 3).await;
    bed.write(&target, &[product_row(&target.table, "Ærø ", "1", 1)], 20).await.unwrap();
    let mut connection = bed.pool.acquire().await.unwrap();
    let keys = ["p1  ", "P2", "ærø"].map(text_key);
    let found = bed.mirror.other_spellings(&mut connection, &target, &keys).await.unwrap();
    assert_eq!(found, HashSet::from([text_key("P1"), text_key("Ærø ")]));
    let elsewhere = TargetTable { tenant: Tenant::Company(8), ..target };
    assert!(bed.mirror.other_spellings(&mut connection, &elsewhere, &keys).await.unwrap().is_empty());
}

#[tokio::test]
async fn batches_of_any_size_reach_their_own_rows_alone() {
    let bed = Bed::new().await;
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let neighbour = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&spec) };
    let rows: Vec<Row> = (0..6_000).map(|number| every_type_row(&spec, number / 10, number % 10, "x", "1")).collect();
    for target in [&target, &neighbour] {
        let written = bed.write(target, &rows, 1).await.unwrap();
        assert!(written.iter().all(|written| *written == Became::Inserted));
    }
    let mut changed = rows.clone();
    for row in changed.iter_mut().step_by(2) {
        row.values[0] = Value::Text("y".into());
    }
    let written = bed.write(&target, &changed, 2).await.unwrap();
    for (index, written) in written.into_iter().enumerate() {
        assert_eq!(written, if index % 2 == 0 { Became::Updated } else { Became::Unchanged });
    }
    assert!(bed.compare(&target, &changed).await.iter().all(|row| *row == Comparison::Equal));
    assert!(bed.compare(&neighbour, &rows).await.iter().all(|row| *row == Comparison::Equal));
    let keys: Vec<RowKey> = rows.iter().skip(100).step_by(3).map(|row| row.key.clone()).collect();
    assert_eq!(bed.remove(&target, &keys).await, keys.iter().cloned().collect());
    assert_eq!(bed.count(&target).await, 6_000 - keys.len() as i64);
    assert_eq!(bed.count(&neighbour).await, 6_000);
}

#[tokio::test]
async fn what_a_batch_reads_does_not_grow_with_the_tenant() {
    if cluster::has_no("statistics of all nodes in one place").await {
        return;
    }
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 20_000).await;
    // The planner knows of one tenant only, and expects no row of the other.
    bed.execute("alter table business_nxt.product set (autovacuum_enabled = off); analyze business_nxt.product").await;
    let other = TargetTable { id: TargetId(2), tenant: Tenant::Company(8), table: Arc::clone(&target.table) };
    bed.write(&other, &rows, 20).await.unwrap();
    for count in [3, 40, 400] {
        let changed: Vec<Row> = rows[..count]
            .iter()
            .map(|row| product_row(&other.table, &row.key.to_string(), "2", -(count as i64)))
            .collect();
        let fetched: Vec<Fetched<'_>> = changed
            .iter()
            .map(|row| Fetched {
                row,
                started_at: DatabaseTime::new(time(30)),
                notification_id: None,
                is_mirrored: true,
            })
            .collect();
        let keys: Vec<RowKey> = changed.iter().map(|row| row.key.clone()).collect();
        let removals: Vec<Removal> = rows[1_000..1_000 + count]
            .iter()
            .map(|row| Removal { key: row.key.clone(), deleted_at: SourceTime::new(time(30)) })
            .collect();
        let mut transaction = bed.mirror.begin().await.unwrap();
        let known = bed.mirror.known(&mut transaction, &other, &keys).await.unwrap();
        assert!(known.iter().all(Option::is_some));
        assert!(bed.mirror.other_spellings(&mut transaction, &other, &keys).await.unwrap().is_empty());
        let rows: Vec<&Row> = changed.iter().collect();
        assert!(bed.mirror.differing(&mut transaction, &other, &rows).await.unwrap().iter().all(|differs| *differs));
        let written = bed.mirror.write(&mut transaction, &other, &fetched).await.unwrap();
        assert!(written.iter().all(|written| matches!(written, Written::Updated(_))));
        assert_eq!(bed.mirror.remove(&mut transaction, &other, &removals).await.unwrap().len(), count);
        let read: i64 = sqlx::query_scalar(
            "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'product'",
        )
        .fetch_one(&mut *transaction)
        .await
        .unwrap();
        transaction.rollback().await.unwrap();
        assert!(read <= 8 * count as i64, "{read} rows read for {count}");
    }
}

#[tokio::test]
async fn a_walk_finds_the_rows_that_it_has_not_met() {
    let bed = Bed::new().await;
    let (target, rows) = with_products(&bed, 10).await;
    let walk = WalkId { id: Uuid::new_v4(), started_at: DatabaseTime::new(time(50)) };
    let keys: Vec<&RowKey> = rows.iter().take(8).map(|row| &row.key).collect();
    bed.write(&target, &[product_row(&target.table, "young", "1", 1)], 60).await.unwrap();
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.note_met(&mut transaction, &target, walk, &keys).await.unwrap();
    bed.mirror.declare_unmet(&mut transaction, &target, walk).await.unwrap();
    let unmet = bed.mirror.next_unmet(&mut transaction, &target).await.unwrap();
    assert_eq!(HashSet::from_iter(unmet), HashSet::from(["P8", "P9"].map(text_key)));
    assert!(bed.mirror.next_unmet(&mut transaction, &target).await.unwrap().is_empty());
    transaction.rollback().await.unwrap();
    // Another table's cursor, with other columns, on the same connection.
    let spec = every_type();
    bed.mirror.ensure(&spec).await.unwrap();
    let other = TargetTable { table: spec, ..target };
    let rows = [every_type_row(&other.table, 1, 2, "x", "1")];
    bed.write(&other, &rows, 1).await.unwrap();
    let mut transaction = bed.mirror.begin().await.unwrap();
    bed.mirror.declare_unmet(&mut transaction, &other, walk).await.unwrap();
    assert_eq!(bed.mirror.next_unmet(&mut transaction, &other).await.unwrap(), [rows[0].key.clone()]);
}

/// A table of the source with integer columns of these names, the first one its key.
fn numbered(name: &str, sql_name: &str, level: TableLevel, columns: &[String]) -> Arc<TableSpec> {
    let column = |name: &String| Column { sql_name: name.clone(), ..Column::new(name, ColumnType::SmallInt) };
    Arc::new(TableSpec {
        name: TableName::new(name).unwrap(),
        field: name.to_lowercase(),
        sql_name: sql_name.into(),
        level,
        columns: columns.iter().map(column).collect(),
        key: vec![0],
        origin: Origin::default(),
        joins: vec![],
    })
}

#[tokio::test]
async fn two_tables_of_one_name_never_mix() {
    let bed = Bed::new().await;
    let columns = ["no".to_owned(), "amount".to_owned()];
    let first = numbered("OrderLine", "order_line", TableLevel::Company, &columns);
    bed.mirror.ensure(&first).await.unwrap();
    let others = [
        numbered("Order_Line", "order_line", TableLevel::Company, &columns),
        numbered("OrderLine", "order_line", TableLevel::Customer, &columns),
    ];
    // Neither now, nor after a restart, nor when the first one is gone.
    for mirror in [bed.mirror.clone(), Mirror::new(bed.pool.clone(), Deletes::Hard)] {
        for other in &others {
            let error = mirror.ensure(other).await.unwrap_err();
            assert!(matches!(error, SchemaError::NameTaken { .. }) && error.is_lasting(), "{error}");
            assert!(error.to_string().contains("where company table OrderLine is"), "{error}");
        }
        mirror.ensure(&first).await.unwrap();
    }
    bed.execute("drop table business_nxt.order_line cascade").await;
    let mirror = Mirror::new(bed.pool.clone(), Deletes::Hard);
    assert!(mirror.ensure(&others[0]).await.is_err());
    mirror.ensure(&first).await.unwrap();
}

#[tokio::test]
async fn a_table_may_have_as_many_columns_as_fit_and_no_more() {
    let bed = Bed::new().await;
    let columns: Vec<String> = (0..1_596).map(|number| format!("c{number}")).collect();
    let error = bed.mirror.ensure(&numbered("TooWide", "too_wide", TableLevel::Company, &columns)).await.unwrap_err();
    assert!(matches!(error, SchemaError::TooManyColumns { columns: 1_596, max: 1_595, .. }), "{error}");
    let spec = numbered("Wide", "wide", TableLevel::Company, &columns[..1_595]);
    bed.mirror.ensure(&spec).await.unwrap();
    let target = target(&spec);
    let row = |last: i64| {
        let mut values = vec![Value::Int(1); 1_595];
        values[1_594] = Value::Int(last);
        let key = RowKey::from_values(vec![KeyValue::Int(1)]);
        Row { table: Arc::clone(&spec), key, changed_at: None, values }
    };
    assert_eq!(bed.write(&target, &[row(1)], 1).await.unwrap(), [Became::Inserted]);
    assert_eq!(bed.write(&target, &[row(2)], 2).await.unwrap(), [Became::Updated]);
    assert_eq!(bed.compare(&target, &[row(2)]).await, [Comparison::Equal]);
    // A column that was dropped by hand keeps its place: another one does not fit.
    bed.execute("alter table business_nxt.wide drop column c7 cascade").await;
    bed.mirror.forget(&spec);
    let effective = bed.mirror.ensure(&spec).await.unwrap();
    assert_eq!(effective.columns.len(), 1_594);
}

#[tokio::test]
async fn columns_keep_their_names_whatever_comes_later() {
    let bed = Bed::new().await;
    let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let named = |names: &[&str]| {
        let mut spec = TableSpec::clone(&numbered("Odd", "odd", TableLevel::Company, &columns(names)));
        let sql_names = nxt_mirror::domain::naming::column_names(names, |_| None);
        spec.columns.iter_mut().zip(sql_names).for_each(|(column, sql_name)| column.sql_name = sql_name);
        Arc::new(spec)
    };
    let before = bed.mirror.ensure(&named(&["no", "aB"])).await.unwrap();
    let after = bed.mirror.ensure(&named(&["no", "A_B", "aB"])).await.unwrap();
    assert_eq!(after.columns[2], before.columns[1]);
    let restarted = Mirror::new(bed.pool.clone(), Deletes::Hard).ensure(&named(&["no", "A_B", "aB"])).await.unwrap();
    assert_eq!(restarted, after);
    assert_eq!(
        bed.scalar::<i64>(
            "select count(*) from pg_attribute where attrelid = 'business_nxt.odd'::regclass and attnum > 0"
        )
        .await,
        3 + 5
    );
}
