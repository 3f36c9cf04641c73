//! Databases on every node of a cluster, where the test server is its coordinator (extension `citus`).

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use crate::database::administer;

/// The nodes beside the coordinator; none where the server is no coordinator.
pub(crate) async fn workers(server: &PgConnectOptions) -> Vec<PgConnectOptions> {
    let mut connection = PgConnection::connect_with(server).await.expect("the test server accepts connections");
    let has_extension: bool = sqlx::query_scalar("select exists (select from pg_extension where extname = 'citus')")
        .fetch_one(&mut connection)
        .await
        .expect("extensions can be listed");
    if !has_extension {
        return vec![];
    }
    let nodes: Vec<(String, i32)> =
        sqlx::query_as("select nodename, nodeport from pg_dist_node where isactive and groupid <> 0 order by 2")
            .fetch_all(&mut connection)
            .await
            .expect("nodes can be listed");
    let options = |(host, port): (String, i32)| {
        server.clone().host(&host).port(u16::try_from(port).expect("a port")).database("postgres")
    };
    nodes.into_iter().map(options).collect()
}

/// Makes the database on the other nodes, too, and has them know each other there.
pub(crate) async fn join(coordinator: &PgConnectOptions, workers: &[PgConnectOptions], name: &str) {
    if workers.is_empty() {
        return;
    }
    // A node that joins is told of the server's roles, which two databases cannot do at once.
    let mut turn = PgConnection::connect_with(&coordinator.clone().database("postgres"))
        .await
        .expect("the test server accepts connections");
    sqlx::query("select pg_advisory_lock(1)").execute(&mut turn).await.expect("a lock is given");
    for worker in workers {
        administer(worker, format!("create database {name}")).await;
        administer(&worker.clone().database(name), "create extension citus".to_owned()).await;
    }
    administer(coordinator, "create extension citus".to_owned()).await;
    let itself = address(coordinator);
    administer(coordinator, format!("select citus_set_coordinator_host({itself})")).await;
    for worker in workers {
        administer(coordinator, format!("select citus_add_node({})", address(worker))).await;
    }
}

/// Ends what a killed daemon has prepared and nobody will commit, once the coordinator's part is gone. A database that has
/// such a transaction cannot be dropped, and no shard of any database is moved while there is one.
pub(crate) async fn end_prepared(database: &PgConnectOptions) {
    let Ok(mut connection) = PgConnection::connect_with(database).await else { return };
    let sql = "select gid from pg_prepared_xacts where database = current_database()";
    let prepared: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap_or_default();
    for name in prepared {
        let sql = format!("rollback prepared '{}'", name.replace('\'', "''"));
        _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
    }
}

fn address(node: &PgConnectOptions) -> String {
    format!("'{}', {}", node.get_host(), node.get_port())
}
