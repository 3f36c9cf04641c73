//! A mirror that is distributed over the nodes of a cluster: where the test server is a coordinator of the extension
//! `citus`.

use nxt_testkit::object;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    history::assert_sound,
    support::{
        app::{COMPANY, TestApp},
        cluster,
    },
};

/// Statements on rows, as they were run. Their constants are parameters here, of which one has to have its type again.
const RUN: &str = "select regexp_replace(query, ' as is_there', '::boolean as is_there') from pg_stat_statements
    where dbid = (select oid from pg_database where datname = current_database())
      and query ~ 'business_nxt(_history)?\"?\\.' and query ~ 'with ordinality as i'";

/// Moves the company's rows to the node that has none of them.
const MOVE: &str = "select citus_move_shard_placement(shardid, nodename, nodeport, other.name, other.port)
    from citus_shards, lateral (select node.nodename as name, node.nodeport as port from pg_dist_node as node
                                 where groupid <> 0 and node.nodeport <> citus_shards.nodeport limit 1) as other
    where shardid = get_shard_id_for_distribution_column('business_nxt.\"order\"', 2000001)";

#[tokio::test]
async fn a_distributed_mirror_is_loaded_changed_and_verified_each_statement_on_one_node() {
    let app = TestApp::builder().plain_role().set("NXT_HISTORY", "*").start().await;
    if !cluster::is_there(&app.database) {
        return;
    }
    // It has room for so many statements of all databases.
    for sql in ["create extension if not exists pg_stat_statements", "select pg_stat_statements_reset()"] {
        sqlx::query(sql).execute(&app.pool).await.unwrap();
    }
    for number in 1..=20 {
        app.put("Order", json!({"orderNo": number, "name": "first"}));
    }
    app.assert_equal().await;
    for number in 1..=10 {
        app.put("Order", json!({"orderNo": number, "name": "second"}));
    }
    app.simulator.delete(COMPANY, "Order", object(json!({"orderNo": 20}))).unwrap();
    app.assert_equal().await;
    assert_sound(&app.pool, "\"order\"", &["order_no"], &["name"]).await;
    assert_eq!(app.count("select count(*) from business_nxt_history.\"order\"").await, 30);
    assert_eq!(
        app.count(
            "select count(*) from pg_dist_partition
              where logicalrelid in ('business_nxt.\"order\"'::regclass, 'business_nxt_history.\"order\"'::regclass)
                and partmethod = 'h' and colocationid = (select colocationid from pg_dist_partition
                                                          where logicalrelid = 'nxt_mirror.tenant_place'::regclass)"
        )
        .await,
        2,
        "both are distributed alike"
    );
    let verified = app.command(&["verify", "--table", "Order"]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let statements: Vec<String> = sqlx::query_scalar(RUN).fetch_all(&app.pool).await.unwrap();
    assert!(statements.len() >= 5, "{statements:#?}");
    for statement in &statements {
        let plan = plan(&app.pool, statement).await;
        assert!(plan.contains("Task Count: 1\n"), "{statement}\n{plan}");
    }
}

#[tokio::test]
async fn a_tenant_moves_to_another_node_while_it_is_mirrored() {
    let app = TestApp::builder().plain_role().set("NXT_HISTORY", "*").start().await;
    if !cluster::is_there(&app.database) {
        return;
    }
    for (round, name) in ["before", "after one move", "after another"].into_iter().enumerate() {
        for number in 1..=20 {
            app.put("Order", json!({"orderNo": number, "name": name}));
        }
        if round > 0 {
            sqlx::query(MOVE).execute(&app.pool).await.unwrap();
        }
        app.assert_equal().await;
        assert_sound(&app.pool, "\"order\"", &["order_no"], &["name"]).await;
    }
    assert_eq!(app.count("select count(*) from business_nxt_history.\"order\"").await, 60);
}

/// The plan of a statement for the company: its first parameter.
async fn plan(pool: &PgPool, statement: &str) -> String {
    let mut connection = pool.acquire().await.unwrap();
    let run = async |connection: &mut sqlx::PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
    };
    run(&mut connection, "set plan_cache_mode = force_custom_plan; deallocate all".to_owned()).await;
    run(&mut connection, format!("prepare asked as {statement}")).await;
    let others: Vec<String> = sqlx::query_scalar(
        "select case when type in ('integer', 'bigint') then '0' else 'null' end
           from pg_prepared_statements, unnest(parameter_types::text[]) with ordinality as parameter (type, n)
          where name = 'asked' and n > 1 order by n",
    )
    .persistent(false)
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let others: String = others.iter().map(|value| format!(", {value}")).collect();
    let lines = run(&mut connection, format!("explain execute asked(2000001{others})")).await;
    lines.iter().map(|line| sqlx::Row::get::<String, _>(line, 0) + "\n").collect()
}
