//! Columns that come and go at the source while the daemon runs.

use nxt_mirror::config::Role;
use nxt_testkit::object;
use serde_json::{Value, json};

use crate::support::{
    app::{COMPANY, TestApp},
    cluster::execute_each,
};

/// A daemon that knows the orders, and walks nothing that could renew what it knows of them.
async fn with_orders() -> TestApp {
    let app = TestApp::builder().set("NXT_SWEEP_SECONDS", 0).set("NXT_WALK_SECONDS", 0).start().await;
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number, "name": "at first", "employeeNo": 5 }));
    }
    app.assert_equal().await;
    app
}

/// A column of each mirrored order, in the order of their numbers; null where the table has no such column.
async fn mirrored(app: &TestApp, column: &str) -> Vec<Value> {
    let mut orders = app.mirrored("order").await;
    orders.sort_by_key(|order| order["order_no"].as_i64());
    orders.iter().map(|order| order.get(column).cloned().unwrap_or_default()).collect()
}

#[tokio::test]
async fn a_column_that_a_notification_announces_is_mirrored_with_its_row() {
    let app = with_orders().await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 2, "priority": 7 }));
    app.settle().await;
    assert_eq!(mirrored(&app, "priority").await, [Value::Null, json!(7), Value::Null]);
    app.assert_equal().await;
}

#[tokio::test]
async fn several_tables_that_gain_columns_at_once_have_them_at_once() {
    let app = with_orders().await;
    for number in 1..=3 {
        app.put("OrderLine", json!({ "orderNo": number, "lineNo": 1 }));
    }
    app.assert_equal().await;
    for (column, scalar) in [("priority", "Int"), ("remark", "String"), ("weightInKilos", "Decimal")] {
        app.simulator.add_column("Order", column, scalar).unwrap();
        app.simulator.add_column("OrderLine", column, scalar).unwrap();
    }
    let new = json!({ "orderNo": 2, "lineNo": 1, "priority": 1, "remark": "new", "weightInKilos": 2.5 });
    app.put("OrderLine", new);
    app.put("Order", json!({ "orderNo": 2, "priority": 2, "remark": "new", "weightInKilos": 2.5 }));
    app.assert_equal().await;
}

/// A command walks the table by a description that is newer than the daemon's.
#[tokio::test]
async fn a_column_that_somebody_else_has_met_is_mirrored_with_every_row_from_then_on() {
    let app = with_orders().await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    assert!(app.command(&["backfill", "--table", "Order"]).await.status.success());
    // Its notification does not name the column.
    app.put("Order", json!({ "orderNo": 4, "name": "after the walk" }));
    app.assert_equal().await;
    assert_eq!(mirrored(&app, "priority").await, [Value::Null, Value::Null, Value::Null, json!(0)]);
}

#[tokio::test]
async fn a_column_that_somebody_else_has_met_is_filled_by_the_next_walk() {
    // One target: the pages of several would be spread over half a day.
    let app = TestApp::builder()
        .set("NXT_SWEEP_SECONDS", 0)
        .set("NXT_TABLES", "Order")
        .set("NXT_COMPANIES", 2_000_001)
        .start()
        .await;
    app.put("Order", json!({ "orderNo": 1, "name": "at first" }));
    app.assert_equal().await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    assert!(app.command(&["backfill", "--table", "Order"]).await.status.success());
    let changed = object(json!({ "orderNo": 1, "priority": 9 }));
    app.simulator.put_all(COMPANY, "Order", &[changed], false).unwrap();
    let walked_long_ago = "update nxt_mirror.walk set last_finished_at = now() - interval '2 days'";
    sqlx::query(walked_long_ago).execute(&app.pool).await.unwrap();
    app.wait_for("the value", 1, "select count(*) from business_nxt.\"order\" where priority = 9").await;
}

/// The new daemon begins with the descriptions that the old one left behind.
#[tokio::test]
async fn an_announced_column_is_mirrored_after_a_restart() {
    let mut app = with_orders().await;
    let next = app.another(Role::All).await;
    let url = next.webhook_url();
    app.simulator.set_knobs(|knobs| knobs.url = Some(url));
    std::mem::replace(&mut app.daemon, next).stop().await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 2, "priority": 7 }));
    app.assert_equal().await;
}

#[tokio::test]
async fn a_column_announced_before_a_restart_is_mirrored_after_it() {
    let mut app = with_orders().await;
    let receiver = app.another(Role::Receiver).await;
    let url = receiver.webhook_url();
    app.simulator.set_knobs(|knobs| knobs.url = Some(url));
    std::mem::replace(&mut app.daemon, receiver).stop().await;
    app.simulator.add_column("Order", "priority", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 2, "priority": 7 }));
    app.simulator.drain().await;
    let worker = app.another(Role::Worker).await;
    app.assert_equal().await;
    worker.stop().await;
}

#[tokio::test]
async fn a_column_that_is_announced_again_and_again_and_never_shown_costs_little() {
    let app = with_orders().await;
    let before = app.row_requests();
    for number in 1..=20 {
        app.accept(&json!({
            "tableIdentifier": "Order", "customerNo": 1_000_001, "companyNo": 2_000_001, "event": "UPDATE",
            "primaryKeys": [{ "OrderNo": 1 + number % 3 }], "timestamp": "2026-01-01T00:00:00Z",
            "changedColumns": [{ "Imaginary": number }],
        }))
        .await;
        app.assert_equal().await;
    }
    let requests = app.row_requests() - before;
    assert!(requests <= 20 + 5, "{requests} requests for 20 changes");
    assert!(app.dead_letters().await.is_empty());
}

#[tokio::test]
async fn values_of_a_column_that_is_hidden_for_a_moment_stay() {
    let app = with_orders().await;
    app.simulator.hide_column("Order", "employeeNo").unwrap();
    app.put("Order", json!({ "orderNo": 1, "name": "while hidden" }));
    app.put("Order", json!({ "orderNo": 4, "name": "while hidden" }));
    app.assert_equal().await;
    assert_eq!(mirrored(&app, "employee_no").await, [json!(5), json!(5), json!(5), Value::Null]);
    app.simulator.add_column("Order", "employeeNo", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 1, "employeeNo": 6 }));
    app.put("Order", json!({ "orderNo": 4, "employeeNo": 6 }));
    let back = "select count(*) from business_nxt.\"order\" where employee_no = 6";
    app.wait_for("values of the column that is shown again", 2, back).await;
    app.assert_equal().await;
}

/// Whether the column is a bigint in the mirrored table and in that of its versions.
async fn are_wide(app: &TestApp, column: &str) -> Vec<bool> {
    sqlx::query_scalar(
        "select data_type = 'bigint' from information_schema.columns
          where table_schema in ('business_nxt', 'business_nxt_history') and table_name = 'order' and column_name = $1",
    )
    .bind(column)
    .fetch_all(&app.pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_column_that_widens_is_widened_by_itself_unless_a_view_of_the_users_reads_it() {
    let app = TestApp::builder()
        .set("NXT_SWEEP_SECONDS", 0)
        .set("NXT_WALK_SECONDS", 0)
        .set("NXT_HISTORY", "order")
        .start()
        .await;
    app.put("Order", json!({ "orderNo": 1, "name": "at first", "employeeNo": 5 }));
    app.assert_equal().await;
    let execute = async |sql: String| execute_each(&mut app.pool.acquire().await.unwrap(), &sql).await;
    execute(
        "create index by_employee on business_nxt.\"order\" (employee_no);
         create view public.counted as select count(*) from business_nxt.\"order\""
            .into(),
    )
    .await;
    app.simulator.change_type("Order", "employeeNo", "Long").unwrap();
    app.put("Order", json!({ "orderNo": 1, "employeeNo": 5_000_000_000_i64 }));
    // A value that does not fit has the table described anew: no row is set aside, and no walk is needed.
    app.assert_equal().await;
    assert!(app.dead_letters().await.is_empty());
    assert_eq!(are_wide(&app, "employee_no").await, [true; 2]);
    let kept = "select count(*) from business_nxt_history.order_as_of(now()) where employee_no = 5000000000";
    assert_eq!(app.count(kept).await, 1);
    let readable = "select count(*) from business_nxt_readable.\"order\" where employee_no = 5000000000";
    assert_eq!(app.count(readable).await, 1);

    execute(
        "create view public.customers_of_orders as select order_no, customer_no from business_nxt.\"order\";
         create view public.customers as select distinct customer_no from public.customers_of_orders;
         comment on view public.customers is 'whoever''s orders';
         comment on column public.customers.customer_no is 'who';
         grant select on public.customers to public"
            .into(),
    )
    .await;
    app.simulator.change_type("Order", "customerNo", "Long").unwrap();
    app.simulator.add_column("Order", "urgency", "Int").unwrap();
    app.put("Order", json!({ "orderNo": 2, "customerNo": 6_000_000_000_i64, "urgency": 1 }));
    app.put("Order", json!({ "orderNo": 3, "customerNo": 77 }));
    app.wait_for("the row that does not fit", 1, "select count(*) from nxt_mirror.dead_letter").await;
    app.wait_for("the row that fits", 1, "select count(*) from business_nxt.\"order\" where customer_no = 77").await;
    assert_eq!(are_wide(&app, "customer_no").await, [false; 2]);

    let said = app.command(&["doctor"]).await;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let statements = said.split("run:").nth(1).unwrap_or_else(|| panic!("{said}")).split("commit;").next().unwrap();
    assert!(statements.contains("alter column \"customer_no\" type bigint"), "{said}");
    execute(format!("{statements} commit;")).await;
    let views = "select count(*) from pg_class
                  where oid = 'public.customers'::regclass and obj_description(oid, 'pg_class') = 'whoever''s orders'
                    and col_description(oid, 1) = 'who' and has_table_privilege('public', oid, 'select')";
    assert_eq!(app.count(views).await, 1);
    app.wait_for("rows come back by themselves", 0, "select count(*) from nxt_mirror.dead_letter").await;
    app.assert_equal().await;
    assert_eq!(are_wide(&app, "customer_no").await, [true; 2]);
    assert_eq!(app.count("select count(*) from public.customers where customer_no = 6000000000").await, 1);
    let key = ["order_no"];
    crate::history::assert_sound(&app.pool, "\"order\"", &key, &["name", "employee_no", "customer_no"]).await;
    execute("drop view public.customers_of_orders cascade; drop view public.counted".into()).await;
}
