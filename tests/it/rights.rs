//! Who may read what: roles that were let in for everything, or for one company alone.

use std::str::FromStr;

use futures_util::future::join_all;
use nxt_simulator::Owner;
use nxt_testkit::{Wait, object};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use crate::support::app::TestApp;

const OTHER: Owner = Owner::Company(2_000_002);
/// What stands in the rows of the other company alone.
const MARKER: &str = "other-marker";
const READER: &str = "nxt_test_reader";
const MEMBER: &str = "nxt_test_member";

async fn make_roles(app: &TestApp) {
    for role in [READER, MEMBER] {
        let sql = format!(
            "do $$ begin create role {role} login password '{role}'; exception when duplicate_object then null; end $$"
        );
        sqlx::query(AssertSqlSafe(sql)).execute(&app.pool).await.unwrap();
    }
    sqlx::query(AssertSqlSafe(format!("grant {READER} to {MEMBER}"))).execute(&app.pool).await.unwrap();
}

async fn session(app: &TestApp, role: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(&app.database.url()).unwrap().username(role).password(role);
    PgConnection::connect_with(&options).await.expect("the role can connect")
}

async fn grant(app: &TestApp, arguments: &[&str]) -> String {
    let output = app.command(&[&["grant", READER], arguments].concat()).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn texts(session: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(session)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn count(session: &mut PgConnection, sql: &str) -> i64 {
    let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(session).await;
    found.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

async fn refused(session: &mut PgConnection, sql: &str) {
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(session).await.expect_err(sql).to_string();
    assert!(error.contains("permission denied"), "{sql}: {error}");
}

/// Relations that the role may read, of all schemas but the server's own.
async fn readable(session: &mut PgConnection) -> Vec<String> {
    let sql = "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                where c.relkind in ('r', 'p', 'v', 'm') and n.nspname !~ '^(pg_|information_schema)' and has_schema_privilege(n.oid, 'usage')
                  and has_table_privilege(c.oid, 'select') order by 1";
    texts(session, sql).await
}

async fn with_two_companies() -> TestApp {
    let app = TestApp::builder().plain_role().set("NXT_SWEEP_SECONDS", 0).set("NXT_HISTORY", "*").start().await;
    for number in 1..=3 {
        app.put("Order", json!({ "orderNo": number, "name": "own" }));
        app.simulator.put(OTHER, "Order", object(json!({ "orderNo": number, "name": MARKER }))).unwrap();
    }
    app.simulator.put(OTHER, "Product", object(json!({ "productNo": MARKER }))).unwrap();
    let user = json!({ "userName": "Kari", "fullName": MARKER });
    app.simulator.put(Owner::Customer(1_000_001), "User", object(user)).unwrap();
    app.settle().await;
    app.wait_for("names of companies", 3, "select count(*) from business_nxt_model.company").await;
    app.wait_for("names of customers", 2, "select count(*) from business_nxt_model.customer").await;
    make_roles(&app).await;
    app
}

#[tokio::test]
async fn a_role_that_is_let_in_reads_what_people_read_and_nothing_else() {
    let app = with_two_companies().await;
    let missing = app.command(&["grant", "nxt_test_nobody"]).await;
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no role nxt_test_nobody"), "{missing:?}");
    let line = grant(&app, &[]).await;
    assert_eq!(line.trim(), "nxt_test_reader may read all rows, in 3 mirrored tables and in those to come");
    let mut reader = session(&app, READER).await;
    assert_eq!(count(&mut reader, "select count(*) from business_nxt_readable.\"order\"").await, 6);
    assert_eq!(count(&mut reader, "select count(*) from business_nxt.\"user\"").await, 1);
    // A table that comes later.
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 1 }));
    app.settle().await;
    assert_eq!(count(&mut reader, "select count(*) from business_nxt.order_line").await, 1);
    assert_eq!(count(&mut reader, "select count(*) from business_nxt_readable.order_line").await, 1);
    assert_eq!(
        count(&mut reader, "select count(distinct company_no) from nxt_mirror.freshness where company_no is not null")
            .await,
        2
    );
    nothing_else_is_open(&mut reader).await;
    app.assert_equal().await;
}

#[tokio::test]
async fn rights_come_back_with_schemas_and_tables_that_were_dropped() {
    let app = with_two_companies().await;
    grant(&app, &["--company", "2000001"]).await;
    for schema in ["business_nxt_readable", "business_nxt_history"] {
        sqlx::query(AssertSqlSafe(format!("drop schema {schema} cascade"))).execute(&app.pool).await.unwrap();
    }
    app.put("Order", json!({ "orderNo": 4, "name": "own" }));
    app.settle().await;
    for relation in ["business_nxt_readable.\"order\"", "business_nxt_history.\"order\""] {
        let sql = format!("select count(*) from {relation}");
        let look = async || {
            let found =
                sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(&mut session(&app, READER).await).await;
            match found {
                Ok(4_i64) => Ok(()),
                found => Err(format!("{found:?}")),
            }
        };
        Wait::seconds(120).until(relation, look).await.unwrap_or_else(|late| panic!("{late}"));
    }
    app.assert_equal().await;
}

/// PostgreSQL refuses the second of two that change the rights of one thing at the same time.
#[tokio::test]
async fn roles_are_let_in_by_several_at_the_same_time() {
    let app = with_two_companies().await;
    let granted = join_all((0..6).map(|_| app.command(&["grant", READER, "--company", "2000001"]))).await;
    for output in granted {
        assert!(output.status.success(), "{output:?}");
    }
    let mut reader = session(&app, READER).await;
    assert_eq!(count(&mut reader, "select count(*) from business_nxt.\"order\"").await, 3);
}

/// Of the daemon's own schema the four views, of all others nothing but what is mirrored; nothing that writes.
async fn nothing_else_is_open(reader: &mut PgConnection) {
    let open = readable(reader).await;
    let own: Vec<&str> = open.iter().filter_map(|name| name.strip_prefix("nxt_mirror.")).collect();
    assert_eq!(own, ["change", "freshness", "recent_activity", "verification"]);
    let schemas =
        ["business_nxt.", "business_nxt_readable.", "business_nxt_history.", "business_nxt_model.", "nxt_mirror."];
    // What an extension opens is its own matter.
    let open: Vec<&String> = open.iter().filter(|name| !name.starts_with("public.citus_")).collect();
    assert!(open.iter().all(|name| schemas.iter().any(|schema| name.starts_with(schema))), "{open:?}");
    let writes = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                   where (n.nspname like 'business_nxt%' or n.nspname = 'nxt_mirror')
                     and case when c.relkind = 'S' then has_sequence_privilege(c.oid, 'usage, select, update')
                              else c.relkind in ('r', 'p', 'v') and has_table_privilege(c.oid, 'insert, update, delete, truncate, references, trigger') end";
    assert_eq!(count(reader, writes).await, 0);
    let creates = "select count(*) from pg_namespace where (nspname like 'business_nxt%' or nspname = 'nxt_mirror') and has_schema_privilege(oid, 'create')";
    assert_eq!(count(reader, creates).await, 0);
    let calls = "select distinct proname::text from pg_proc where pronamespace = 'nxt_mirror'::regnamespace and has_function_privilege(oid, 'execute') order by 1";
    let calls = texts(reader, calls).await;
    let expected = [
        "end_look",
        "granted_companies",
        "is_settled",
        "plain_name",
        "row_question",
        "sleep_until",
        "wait_for_row",
        "wait_until",
    ];
    assert!(calls.iter().all(|call| expected.contains(&call.as_str())), "{calls:?}");
    for sql in [
        "select * from nxt_mirror.notification",
        "select * from nxt_mirror.dead_letter",
        "select * from nxt_mirror.sync_log",
        "select * from nxt_mirror.grantee",
        "select nxt_mirror.publish()",
        "call nxt_mirror.give_common_rights()",
        "delete from business_nxt.\"order\"",
        "insert into business_nxt_model.company values (1, 1, 'x')",
    ] {
        refused(reader, sql).await;
    }
}

#[tokio::test]
async fn a_role_that_is_let_in_for_a_company_sees_no_other_in_any_way() {
    let app = with_two_companies().await;
    let owner: String = sqlx::query_scalar("select current_user::text").fetch_one(&app.pool).await.unwrap();
    let free = app.command(&["grant", &owner, "--company", "2000001"]).await;
    assert_eq!(free.status.code(), Some(2), "{free:?}");
    assert!(String::from_utf8_lossy(&free.stderr).contains("cannot be kept from it"), "{free:?}");
    assert!(grant(&app, &["--company", "2000001"]).await.contains("the rows of company 2000001"));
    app.put("OrderLine", json!({ "orderNo": 1, "lineNo": 1 }));
    app.simulator.put(OTHER, "OrderLine", object(json!({ "orderNo": 1, "lineNo": 1, "description": MARKER }))).unwrap();
    app.settle().await;
    // The daemon may be making an index meanwhile, and PostgreSQL ends one of two that wait for each other.
    while let Err(error) = sqlx::query("analyze").execute(&app.pool).await {
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("40P01"), "{error}");
    }
    for role in [READER, MEMBER] {
        let mut reader = session(&app, role).await;
        own_rows_are_there(&mut reader).await;
        no_relation_shows_another_company(&app, &mut reader).await;
        no_trick_shows_another_company(&app, &mut reader, &owner).await;
        nothing_else_is_open(&mut reader).await;
    }
    // Nobody else notices, and what is let in anew replaces what was.
    app.assert_equal().await;
    // Plans that sessions keep are made anew. PostgreSQL keeps one that was asked for often enough.
    let names = "select distinct name from business_nxt.\"order\" where order_no > 0";
    let mut kept = session(&app, MEMBER).await;
    for _ in 0..8 {
        assert_eq!(texts(&mut kept, names).await, ["own"]);
    }
    grant(&app, &["--company", "2000002"]).await;
    assert_eq!(texts(&mut kept, names).await, [MARKER]);
    let mut reader = session(&app, READER).await;
    assert_eq!(texts(&mut reader, "select distinct name from business_nxt.\"order\"").await, [MARKER]);
    assert_eq!(texts(&mut reader, "select name from business_nxt_model.company").await, ["Simulated 2000002 AS"]);
    grant(&app, &[]).await;
    assert_eq!(count(&mut reader, "select count(*) from business_nxt.\"order\"").await, 6);
    assert_eq!(count(&mut reader, "select count(*) from business_nxt.\"user\"").await, 1);
    assert_eq!(count(&mut reader, "select count(*) from business_nxt_model.customer").await, 2);
}

async fn own_rows_are_there(reader: &mut PgConnection) {
    for (wanted, sql) in [
        (3, "select count(*) from business_nxt.\"order\""),
        (3, "select count(*) from business_nxt_readable.\"order\" where company_name = 'Simulated 2000001 AS'"),
        (1, "select count(*) from business_nxt.order_line"),
        (1, "select count(*) from business_nxt_model.company"),
        (0, "select count(*) from business_nxt_model.customer"),
        (0, "select count(*) from business_nxt.\"user\""),
        (0, "select count(*) from business_nxt_readable.\"user\""),
        (2, "select count(*) from nxt_mirror.freshness"),
        (4, "select count(*) from nxt_mirror.recent_activity"),
        (4, "select count(*) from nxt_mirror.change"),
    ] {
        assert_eq!(count(reader, sql).await, wanted, "{sql}");
    }
}

/// Reads everything, plainly and through a function that tells what it sees before any other condition is looked at.
async fn no_relation_shows_another_company(app: &TestApp, reader: &mut PgConnection) {
    let leak = |schema: &str| {
        AssertSqlSafe(format!(
            "create or replace function {schema}.leak(seen text) returns boolean language plpgsql cost 0.0000001 as $$
             begin if seen ~ '{MARKER}|2000002' then raise exception 'leaked: %', seen; end if; return true; end $$"
        ))
    };
    // On several nodes a function has to be on each of them, and whoever reads makes none there.
    let (leaking, made) = if app.database.is_distributed() {
        ("public", sqlx::raw_sql(leak("public")).execute(&app.pool).await)
    } else {
        ("pg_temp", sqlx::raw_sql(leak("pg_temp")).execute(&mut *reader).await)
    };
    made.unwrap();
    let relations = readable(reader).await;
    assert!(relations.len() > 10, "{relations:?}");
    for relation in relations {
        let hidden = format!("select count(*) from {relation} as r where r::text ~ '{MARKER}|2000002'");
        assert_eq!(count(reader, &hidden).await, 0, "{relation}");
        count(reader, &format!("select count(*) from {relation} as r where {leaking}.leak(r::text)")).await;
        let columns = format!(
            "select quote_ident(attname) from pg_attribute where attrelid = '{relation}'::regclass and attnum > 0"
        );
        for column in texts(reader, &columns).await {
            count(reader, &format!("select count(*) from {relation} as r where {leaking}.leak(r.{column}::text)"))
                .await;
        }
    }
}

async fn no_trick_shows_another_company(app: &TestApp, reader: &mut PgConnection, owner: &str) {
    let own = "business_nxt.\"order\"";
    // An error that would quote a value.
    let cast = format!("select count(*) from {own} where _company_no = 2000002 and name::integer = 1");
    assert_eq!(count(reader, &cast).await, 0);
    // Plans tell what is asked and not what is there; on several nodes they name the reader's own companies.
    let plan = texts(reader, &format!("explain (verbose) select * from {own} where order_no = 1")).await.join("\n");
    assert!(!plan.contains("2000002"), "{plan}");
    assert!(app.database.is_distributed() || !plan.contains("2000001"), "{plan}");
    for sql in [
        "select count(*) from pg_stats where schemaname like 'business_nxt%' and tablename in ('order', 'order_line', 'product', 'company')",
        "select count(*) from pg_stats where schemaname = 'nxt_mirror' and not tablename = any ('{freshness,change}')",
        "select count(*) from pg_policies as p where p::text ~ '2000002|other-marker'",
        "select count(*) from pg_description as d where d::text ~ '2000002|other-marker'",
        "select count(*) from pg_sequences where schemaname = 'nxt_mirror' and last_value is not null",
        "select count(*) from pg_stat_activity where query ~ 'other-marker' and pid <> pg_backend_pid()",
    ] {
        assert_eq!(count(reader, sql).await, 0, "{sql}");
    }
    for (sql, is_told) in [
        ("select nxt_mirror.wait_for_row('Order', '{\"order_no\": 1}', 2000001, null, '0')", true),
        ("select nxt_mirror.wait_for_row('Order', '{\"order_no\": 1}', 2000002, null, '0')", false),
        ("select nxt_mirror.wait_until(2000002, now() - interval '1 minute', '0')", false),
        ("select nxt_mirror.is_settled(2000002, '-infinity')", false),
    ] {
        let told: bool =
            sqlx::query_scalar(sql).fetch_one(&mut *reader).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(told, is_told, "{sql}");
    }
    let companies = "select nxt_mirror.granted_companies()::text";
    assert_eq!(texts(reader, companies).await, ["{2000001}"]);
    let take_role = format!("set role \"{owner}\"");
    for sql in ["set row_security = off; select * from business_nxt.\"order\"", &take_role] {
        let error =
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *reader).await.expect_err(sql).to_string();
        assert!(error.contains("row-level security") || error.contains("permission denied"), "{error}");
        sqlx::raw_sql("reset row_security").execute(&mut *reader).await.unwrap();
    }
}
