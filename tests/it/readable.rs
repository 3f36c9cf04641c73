//! What the database says of itself: comments, readable views, names of values and of companies.

use nxt_simulator::model::Twin;
use nxt_testkit::object;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::support::app::{COMPANY, TestApp};

/// The comment of a column, or of the table itself.
async fn comment(app: &TestApp, relation: &str, column: Option<&str>) -> Option<String> {
    let number = "(select attnum from pg_attribute where attrelid = $1::regclass and attname = $2)";
    let sql = format!(
        "select case when $2 is null then obj_description($1::regclass) else col_description($1::regclass, {number}) end"
    );
    let asked = sqlx::query_scalar(AssertSqlSafe(sql)).bind(relation).bind(column).fetch_one(&app.pool).await;
    asked.expect("the relation is there")
}

async fn wait_for_comment(app: &TestApp, relation: &str, column: Option<&str>, wanted: &str) {
    let look = async || match comment(app, relation, column).await {
        Some(text) if text == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    };
    nxt_testkit::Wait::seconds(120).until(wanted, look).await.unwrap_or_else(|late| panic!("{late}"));
}

/// A row of a query as JSON.
async fn row(app: &TestApp, sql: &str) -> Value {
    let sql = format!("select row_to_json(r)::text from ({sql}) as r");
    let text: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&app.pool).await.expect("the query works");
    serde_json::from_str(&text).unwrap()
}

async fn columns(app: &TestApp, relation: &str) -> Vec<String> {
    let sql = "select attname::text from pg_attribute where attrelid = $1::regclass and attnum > 0 order by attnum";
    sqlx::query_scalar(sql).bind(relation).fetch_all(&app.pool).await.unwrap()
}

/// How often the catalog was written for a relation's comments: their rows' versions.
async fn versions(app: &TestApp, relation: &str) -> Vec<String> {
    let sql = "select xmin::text || ':' || objsubid from pg_description where objoid = $1::regclass order by objsubid";
    sqlx::query_scalar(sql).bind(relation).fetch_all(&app.pool).await.unwrap()
}

const ORDER: &str = "business_nxt.\"order\"";
const VIEW: &str = "business_nxt_readable.\"order\"";

#[tokio::test]
async fn comments_tell_labels_numbers_and_names_and_follow_language_and_labels() {
    let mut app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_LANGUAGE", "norwegian").start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.put("Product", json!({ "productNo": "A" }));
    app.settle().await;
    wait_for_comment(&app, ORDER, None, "Ordre (Order, table 127, SQL name Ord)").await;
    wait_for_comment(&app, ORDER, Some("order_no"), "Ordrenr. (orderNo, column 127000, SQL name OrderNo)").await;
    wait_for_comment(&app, VIEW, Some("order_no"), "Ordrenr. (orderNo, column 127000, SQL name OrderNo)").await;
    wait_for_comment(&app, "business_nxt.product", None, "Produkt (Product, table 114, SQL name Prod)").await;
    let uncommented =
        "select count(*) from pg_attribute where attrelid = 'business_nxt.\"order\"'::regclass and attnum > 0
                          and col_description(attrelid, attnum) is null";
    assert_eq!(app.count(uncommented).await, 0);

    // What did not change is not touched: neither the other table nor the other columns.
    let (before, product) = (versions(&app, ORDER).await, versions(&app, "business_nxt.product").await);
    app.simulator.rename("Order", Some("orderNo"), "Nummer");
    app.restart(async |_| {}).await;
    wait_for_comment(&app, ORDER, Some("order_no"), "Nummer (orderNo, column 127000, SQL name OrderNo)").await;
    let after = versions(&app, ORDER).await;
    assert_eq!(before.iter().zip(&after).filter(|(before, after)| before != after).count(), 1);
    assert_eq!(versions(&app, "business_nxt.product").await, product);

    app.set("NXT_LANGUAGE", "swedish");
    app.restart(async |_| {}).await;
    wait_for_comment(&app, ORDER, None, "Order (swedish) (Order, table 127, SQL name Ord)").await;
    wait_for_comment(&app, "business_nxt.product", None, "Product (swedish) (Product, table 114, SQL name Prod)").await;
}

#[tokio::test]
async fn a_readable_view_shows_dates_times_and_names() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_DELETES", "soft").start().await;
    app.simulator.add_twin("OrderLine", "invoiceNo", Twin::Time).unwrap();
    app.put(
        "Order",
        json!({ "orderNo": 1, "orderDate": 20_260_201, "finishDate": 20_260_231, "orderType": 5, "transactionType": 77, "orderPreferences": 264 }),
    );
    app.put("Order", json!({ "orderNo": 2, "orderDate": 0, "orderType": null, "orderPreferences": 0 }));
    app.put("Order", json!({ "orderNo": 3, "orderPreferences": null }));
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 1, "invoiceNo": 1330 }));
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 2, "invoiceNo": 2400 }));
    app.simulator
        .put(nxt_simulator::Owner::Customer(1_000_001), "User", object(json!({ "userName": "kari" })))
        .unwrap();
    app.settle().await;
    app.simulator.delete(COMPANY, "Order", object(json!({ "orderNo": 3 }))).unwrap();
    app.settle().await;
    assert_eq!(
        columns(&app, VIEW).await[..10],
        [
            "_company_no",
            "company_name",
            "order_no",
            "order_date",
            "customer_no",
            "supplier_no",
            "employee_no",
            "name",
            "transaction_type",
            "transaction_type_name"
        ]
    );
    let all = columns(&app, VIEW).await;
    assert!(all.contains(&"order_preferences_names".to_owned()) && all.contains(&"_changed_at".to_owned()), "{all:?}");
    assert!(!all.contains(&"_deleted_at".to_owned()) && !all.contains(&"_notification_id".to_owned()), "{all:?}");
    let named = "select count(*) from business_nxt_readable.\"order\" where order_type_name = 'Quote' and company_name is not null
                    and order_preferences_names = '{JustifyExchangeRates,GrossOrder}'";
    app.wait_for("names of values", 1, named).await;
    let first = "select company_name, order_date, finish_date, order_type, order_type_name, transaction_type_name, order_preferences_names
                   from business_nxt_readable.\"order\" where order_no = 1";
    assert_eq!(
        row(&app, first).await,
        json!({ "company_name": "Simulated 2000001 AS", "order_date": "2026-02-01", "finish_date": null, "order_type": 5,
                "order_type_name": "Quote", "transaction_type_name": null,
                "order_preferences_names": ["JustifyExchangeRates", "GrossOrder"] })
    );
    let second = "select order_date, order_type_name, order_preferences_names from business_nxt_readable.\"order\" where order_no = 2";
    assert_eq!(
        row(&app, second).await,
        json!({ "order_date": null, "order_type_name": null, "order_preferences_names": [] })
    );
    assert_eq!(app.count("select count(*) from business_nxt_readable.\"order\" where order_no = 3").await, 0);
    let times = "select array_agg(invoice_no order by line_no) as times from business_nxt_readable.order_line";
    assert_eq!(row(&app, times).await, json!({ "times": ["13:30:00", null] }));
    let user = "select customer_name from business_nxt_readable.\"user\"";
    assert!(row(&app, user).await["customer_name"].is_string());
    // Values are taken in a little at a time, those of later rows perhaps after the first ones have their names.
    app.wait_for("all values", 6, "select count(*) from business_nxt_model.enum_member where table_name = 'Order'")
        .await;
    let members = "select array_agg(array[column_name, value::text, name] order by column_name, value) as m
                     from business_nxt_model.enum_member where table_name = 'Order'";
    assert_eq!(
        row(&app, members).await["m"],
        json!([
            ["order_preferences", "8", "JustifyExchangeRates"],
            ["order_preferences", "256", "GrossOrder"],
            ["order_type", "0", null],
            ["order_type", "5", "Quote"],
            ["transaction_type", "0", null],
            ["transaction_type", "77", null]
        ])
    );
    a_new_value_gets_its_name(&app).await;
    a_bit_beside_others_without_a_name_gets_its_own(&app).await;
    the_planner_sees_through_the_view(&app).await;
}

async fn a_new_value_gets_its_name(app: &TestApp) {
    app.simulator.add_member("orderType", 9, "Repair").unwrap();
    app.put("Order", json!({ "orderNo": 9, "orderType": 9 }));
    app.settle().await;
    let named =
        "select count(*) from business_nxt_readable.\"order\" where order_no = 9 and order_type_name = 'Repair'";
    app.wait_for("the name of the new value", 1, named).await;
}

async fn a_bit_beside_others_without_a_name_gets_its_own(app: &TestApp) {
    app.simulator.add_member("orderPreferences", 1 << 20, "Pallets").unwrap();
    for (number, value) in [(21, (1 << 20) + (1 << 21)), (22, (1 << 20) + (1 << 22))] {
        app.put("Order", json!({ "orderNo": number, "orderPreferences": value }));
    }
    app.settle().await;
    let named = "select count(*) from business_nxt_readable.\"order\"
                  where order_no in (21, 22) and order_preferences_names = '{Pallets}'";
    app.wait_for("the name of the bit", 2, named).await;
}

async fn the_planner_sees_through_the_view(app: &TestApp) {
    let rows: Vec<_> = (100..2_100).map(|number| object(json!({ "orderNo": number }))).collect();
    app.simulator.put_all(COMPANY, "Order", &rows, true).unwrap();
    app.settle().await;
    sqlx::query("analyze business_nxt.\"order\"").execute(&app.pool).await.unwrap();
    let sql = "explain select * from business_nxt_readable.\"order\" where _company_no = 2000001 and order_no = 1000";
    let plan: Vec<String> = sqlx::query_scalar(sql).fetch_all(&app.pool).await.unwrap();
    let scan = plan.iter().find(|line| line.contains(" Scan using ") || line.contains("Seq Scan"));
    assert!(scan.is_some_and(|line| line.contains("Index Scan using order_pkey")), "{plan:#?}");
}

#[tokio::test]
async fn a_view_follows_its_table_and_people_s_views_on_it_go_on_working() {
    let mut app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1, "orderStatus1": 34 }));
    app.settle().await;
    let mine = "create view public.mine as select * from business_nxt_readable.\"order\"";
    sqlx::query(mine).execute(&app.pool).await.unwrap();
    let before = columns(&app, VIEW).await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    app.simulator.add_member("orderStatus1", 34, "Picked").unwrap();
    app.simulator.add_twin("Order", "orderStatus1", Twin::Enum).unwrap();
    app.put("Order", json!({ "orderNo": 2, "orderStatus1": 34, "priority": 7 }));
    app.settle().await;
    let named = "select count(*) from business_nxt_readable.\"order\" where order_status1_name = 'Picked'";
    app.wait_for("names of the twin that came later", 2, named).await;
    let after = columns(&app, VIEW).await;
    assert_eq!(after[..before.len()], before);
    assert_eq!(after[before.len()..], ["order_status1_name", "priority"]);
    assert_eq!(app.count("select count(*) from public.mine where order_status1 = 34").await, 2);

    // A column that vanishes stays, a form that comes later is taken where nobody is in the way.
    app.simulator.hide_column("Order", "employeeNo").unwrap();
    app.simulator.add_twin("Order", "orgUnit1", Twin::Date).unwrap();
    app.restart(async |pool| {
        sqlx::query("drop view public.mine").execute(pool).await.unwrap();
        sqlx::query("create role nxt_reader_of_views").execute(pool).await.ok();
        sqlx::query("grant select on business_nxt_readable.\"order\" to nxt_reader_of_views")
            .execute(pool)
            .await
            .unwrap();
    })
    .await;
    app.simulator.add_column("Order", "urgency", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 2, "orgUnit1": 20_260_101, "urgency": 3 }));
    app.settle().await;
    let dated = "select count(*) from information_schema.columns where table_schema = 'business_nxt_readable'
                    and table_name = 'order' and column_name = 'org_unit1' and data_type = 'date'";
    app.wait_for("the date", 1, dated).await;
    assert!(columns(&app, VIEW).await.contains(&"employee_no".to_owned()));
    let granted = "select count(*) from information_schema.role_table_grants where grantee = 'nxt_reader_of_views'
                      and table_schema = 'business_nxt_readable' and privilege_type = 'SELECT'";
    assert_eq!(app.count(granted).await, 1);
    sqlx::query("drop owned by nxt_reader_of_views").execute(&app.pool).await.unwrap();
}

/// Nothing else happens at the table afterwards that would bring its view in line.
#[tokio::test]
async fn a_view_that_somebody_reads_follows_its_table_when_they_are_done() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    let mut reader = app.pool.begin().await.unwrap();
    sqlx::query(AssertSqlSafe(format!("select * from {VIEW}"))).execute(&mut *reader).await.unwrap();
    // A column of the table and the view of another type: both need the reader gone.
    app.simulator.add_twin("Order", "orgUnit1", Twin::Date).unwrap();
    app.simulator.add_column("Order", "urgency", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 1, "orgUnit1": 20_260_101, "urgency": 3 }));
    app.settle().await;
    assert!(!columns(&app, VIEW).await.contains(&"urgency".to_owned()));
    reader.commit().await.unwrap();
    let followed = "select count(*) from information_schema.columns
                     where table_schema = 'business_nxt_readable' and table_name = 'order'
                       and (column_name, data_type) in (('org_unit1', 'date'), ('urgency', 'integer'))";
    app.wait_for("the view to follow", 2, followed).await;
}

/// Who asked the model for labels meanwhile knows only the table's old description.
#[tokio::test]
async fn a_description_that_was_overtaken_turns_no_view_back() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    let mirror = nxt_mirror::mirror::Mirror::new(app.pool.clone(), nxt_mirror::config::Deletes::Hard);
    let old = mirror.descriptions().await.unwrap().into_iter().find(|spec| spec.sql_name == "order").unwrap();
    app.simulator.add_twin("Order", "orgUnit1", Twin::Date).unwrap();
    app.simulator.add_column("Order", "urgency", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 1, "orgUnit1": 20_260_101, "urgency": 3 }));
    let dated = "select count(*) from information_schema.columns where table_schema = 'business_nxt_readable'
                    and table_name = 'order' and column_name = 'org_unit1' and data_type = 'date'";
    app.wait_for("the date", 1, dated).await;
    mirror.explain(&old).await.unwrap();
    assert_eq!(app.count(dated).await, 1);
}

#[tokio::test]
async fn the_model_s_own_names_of_values_are_taken_where_it_lists_them() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.simulator.tell_members().unwrap();
    app.put("Order", json!({ "orderNo": 1 }));
    app.settle().await;
    let listed =
        "select count(*) from business_nxt_model.enum_member where table_name = 'Order' and column_name = 'order_type'
                     and (value, name) in ((1, 'Normal'), (2, 'Subscription'), (5, 'Quote'))";
    app.wait_for("the names that the model lists", 3, listed).await;
}

#[tokio::test]
async fn dates_and_times_fail_on_no_integer() {
    let database = crate::support::migrated().await;
    let pool = database.pool().await;
    let impossible = "select count(*) from unnest(array[0, -1, 1, 10100, 20260229, 20260230, 20260431, 20261301, 20260001, 20260100,
                          19000229, 99991232, 100000101, 2147483647, -2147483648, 9223372036854775807, -9223372036854775808]::bigint[]) as v
                       where business_nxt_model.as_date(v) is not null";
    let count = |sql: &'static str| sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool);
    assert_eq!(count(impossible).await.unwrap(), 0);
    let possible =
        "select count(*) from (values (10101, '0001-01-01'), (20240229, '2024-02-29'), (20000229, '2000-02-29'),
                        (99991231, '9999-12-31'), (20260630, '2026-06-30')) as v (number, day)
                     where business_nxt_model.as_date(number) = day::date";
    assert_eq!(count(possible).await.unwrap(), 5);
    let days = "select count(*) from generate_series(date '1899-12-01', date '2104-03-01', interval '1 day') as d (day)
                 where business_nxt_model.as_date(to_char(day, 'YYYYMMDD')::integer) is distinct from day::date";
    assert_eq!(count(days).await.unwrap(), 0);
    let dates = "select count(business_nxt_model.as_date(v)) from generate_series(20200000, 20209999) as v";
    assert_eq!(count(dates).await.unwrap(), 366);
    let times = "select count(business_nxt_model.as_time(v)) from generate_series(-100, 100000) as v";
    assert_eq!(count(times).await.unwrap(), 24 * 60);
    assert_eq!(
        count("select count(*) from (select business_nxt_model.as_time(2400) as t) as x where t is null")
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn relations_are_recorded_drawn_and_have_indexes() {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).start().await;
    app.put("Order", json!({ "orderNo": 1, "customerNo": 5 }));
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 1 }));
    app.put("Associate", json!({ "associateNo": 1, "customerNo": 5 }));
    app.settle().await;
    app.wait_for("relations", 2, "select count(*) from business_nxt_model.relation").await;
    let relations = "select array_agg(array[from_table, from_columns::text, to_table, to_columns::text, name] order by from_table) as found
                       from business_nxt_model.relation";
    assert_eq!(
        row(&app, relations).await["found"],
        json!([
            ["Order", "{customer_no}", "Associate", "{customer_no}", "Customer"],
            ["OrderLine", "{order_no}", "Order", "{order_no}", "Order"]
        ])
    );
    let indexes = "select count(*) from pg_indexes where schemaname = 'business_nxt' and indexdef like '%(_company_no, customer_no)'";
    app.wait_for("indexes of the joins", 2, indexes).await;
    wait_for_comment(&app, ORDER, None, "Order (Order, table 127, SQL name Ord)").await;
    let sql = app.command(&["schema"]).await;
    let sql = String::from_utf8_lossy(&sql.stdout).into_owned();
    assert!(sql.contains("create table \"business_nxt\".\"order_line\" ("), "{sql}");
    assert!(sql.contains("comment on column \"business_nxt\".\"order\".\"order_no\" is E'"), "{sql}");
    assert!(sql.contains("-- relation Order: \"business_nxt\".\"order_line\" (order_no) refers to \"business_nxt\".\"order\" (order_no)"), "{sql}");
    // What is printed makes the same tables.
    let again = app.database.pool().await;
    sqlx::raw_sql("drop schema business_nxt cascade").execute(&again).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&again).await.unwrap();
    assert_eq!(comment(&app, ORDER, None).await.as_deref(), Some("Order (Order, table 127, SQL name Ord)"));
    let mermaid = app.command(&["schema", "--format", "mermaid"]).await;
    let mermaid = String::from_utf8_lossy(&mermaid.stdout).into_owned();
    assert!(
        mermaid.starts_with("erDiagram\n") && mermaid.contains("    order_line }o--o| order : \"Order\"\n"),
        "{mermaid}"
    );
    let dot = app.command(&["schema", "--format", "dot"]).await;
    let dot = String::from_utf8_lossy(&dot.stdout).into_owned();
    assert!(dot.starts_with("digraph ") && dot.contains("\"order_line\" -> \"order\""), "{dot}");
}
