//! Tables distributed over the nodes of a cluster, where the database has the extension `citus`.
//!
//! Mirrored tables and those of their versions are distributed by tenant, so that all rows of one tenant are on one node.
//! What views join with them is on every node. The daemon's own tables stay where the daemon connects to. A table that
//! was there before the extension stays one until somebody distributes it.

use sqlx::{AssertSqlSafe, PgConnection};

/// Where each tenant's rows are: a row for each tenant, which inserts are sent to. All distributed tables lie as it does.
const PLACES: &str = "nxt_mirror.tenant_place";
/// What readable views join with.
const REFERENCES: [&str; 4] = [
    "business_nxt_model.company",
    "business_nxt_model.customer",
    "business_nxt_model.enum_member",
    "business_nxt_model.relation",
];

/// What a role was let in for.
const GRANTS: &str = "nxt_mirror.grantee";
/// Looks it up on every node.
const READABLE: &str = "business_nxt_model.readable_companies()";

/// Whether the database can distribute tables.
pub(super) async fn has_nodes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"select exists (select from pg_extension where extname = 'citus') as "exists!""#)
        .fetch_one(connection)
        .await
}

/// Whether the extension knows a table. Only to be asked where it is.
pub(super) async fn is_distributed(connection: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from pg_dist_partition where logicalrelid = to_regclass($1))")
        .bind(table)
        .fetch_one(connection)
        .await
}

/// Distributes a table by its tenants.
pub(super) async fn distribute(
    connection: &mut PgConnection,
    table: &str,
    tenant_column: &str,
) -> Result<(), sqlx::Error> {
    prepare(connection).await?;
    sqlx::query("select create_distributed_table($1::regclass, $2, colocate_with => $3)::text")
        .bind(table)
        .bind(tenant_column)
        .bind(PLACES)
        .execute(connection)
        .await
        .map(drop)
}

/// Gives a tenant its place, unless it has one.
pub(super) async fn place(connection: &mut PgConnection, tenant_no: i64) -> Result<(), sqlx::Error> {
    let sql = format!("insert into {PLACES} (tenant_no) values ($1) on conflict do nothing");
    sqlx::query(AssertSqlSafe(sql)).bind(tenant_no).execute(connection).await.map(drop)
}

/// Has every node know which roles were let in for which companies. Changes nothing where that is so.
pub(super) async fn tell_grants(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    refer(connection, GRANTS).await?;
    // It asks within a question, of what its own node has.
    let allow = format!("alter function {READABLE} set citus.allow_nested_distributed_execution = on");
    sqlx::query(AssertSqlSafe(allow)).execute(&mut *connection).await?;
    let sql = "select create_distributed_function($1::regprocedure)::text";
    sqlx::query(sql).bind(READABLE).execute(connection).await.map(drop)
}

/// Has a table on every node, unless it is there.
async fn refer(connection: &mut PgConnection, table: &str) -> Result<(), sqlx::Error> {
    if !is_distributed(connection, table).await? {
        let sql = "select create_reference_table($1::regclass)::text";
        sqlx::query(sql).bind(table).execute(connection).await?;
    }
    Ok(())
}

/// What distributed tables need: the places, and what is on every node.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    // Of several replicas and tables, one after the other.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 1))").bind(PLACES).execute(&mut *connection).await?;
    if is_distributed(connection, PLACES).await? {
        return Ok(());
    }
    let make = format!("create table if not exists {PLACES} (tenant_no bigint not null primary key)");
    sqlx::query(AssertSqlSafe(make)).execute(&mut *connection).await?;
    sqlx::query("select create_distributed_table($1::regclass, 'tenant_no', colocate_with => 'none')::text")
        .bind(PLACES)
        .execute(&mut *connection)
        .await?;
    for table in REFERENCES {
        refer(connection, table).await?;
    }
    tell_grants(connection).await
}
