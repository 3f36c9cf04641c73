//! Tables and their columns: made, extended, made again, and refused by name.

use super::*;

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

/// A table of the source with integer columns of these names, the first one its key.
fn numbered(name: &str, sql_name: &str, level: TableLevel, columns: &[String]) -> Arc<TableSpec> {
    let column = |name: &String| Column { sql_name: name.clone(), ..Column::new(name, ColumnType::SmallInt) };
    let (columns, plain) = (columns.iter().map(column).collect(), table(name, &[], &[0]));
    Arc::new(TableSpec { sql_name: sql_name.into(), level, columns, ..TableSpec::clone(&plain) })
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
