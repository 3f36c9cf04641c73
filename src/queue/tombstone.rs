//! Deletions that are remembered until their row comes back.

use sqlx::PgConnection;

use super::QueueError;
use crate::domain::{RowKey, TableName, Tenant, Time, settle::Deletion};

/// A deletion to remember.
#[derive(Debug, Clone)]
pub struct Tombstone {
    /// The key as the mirror or the notification spells it.
    pub key: RowKey,
    /// The deletion.
    pub deletion: Deletion,
}

/// The deletions remembered for these keys of one table, by folded key.
pub async fn of_keys(
    connection: &mut PgConnection,
    tenant: Tenant,
    table: &TableName,
    folded_keys: &[String],
) -> Result<Vec<(String, Deletion)>, QueueError> {
    let rows: Vec<(String, Time, Time)> = sqlx::query_as(
        "select folded_key, deleted_at, received_at from nxt_mirror.tombstone
          where tenant_kind = $1 and tenant_no = $2 and table_name = $3 and folded_key = any($4)",
    )
    .bind(tenant.kind())
    .bind(tenant.number())
    .bind(table.as_str())
    .bind(folded_keys)
    .fetch_all(connection)
    .await
    .map_err(QueueError::on("read tombstones"))?;
    Ok(rows.into_iter().map(|(key, at, received_at)| (key, Deletion { at, received_at })).collect())
}

/// Remembers deletions; of two for one key, the later counts.
pub async fn bury(
    connection: &mut PgConnection,
    tenant: Tenant,
    table: &TableName,
    tombstones: &[Tombstone],
) -> Result<(), QueueError> {
    if tombstones.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into nxt_mirror.tombstone as t (tenant_kind, tenant_no, table_name, folded_key, deleted_at, received_at)
         select $1, $2, $3, folded_key, max(deleted_at), max(received_at)
           from unnest($4::text[], $5::timestamptz[], $6::timestamptz[]) as i (folded_key, deleted_at, received_at)
          group by folded_key order by folded_key
         on conflict on constraint tombstone_pkey do update set
             deleted_at = greatest(t.deleted_at, excluded.deleted_at),
             received_at = greatest(t.received_at, excluded.received_at)",
    )
    .bind(tenant.kind())
    .bind(tenant.number())
    .bind(table.as_str())
    .bind(tombstones.iter().map(|tombstone| tombstone.key.folded_text()).collect::<Vec<_>>())
    .bind(tombstones.iter().map(|tombstone| tombstone.deletion.at).collect::<Vec<_>>())
    .bind(tombstones.iter().map(|tombstone| tombstone.deletion.received_at).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map_err(QueueError::on("write tombstones"))?;
    Ok(())
}

/// Forgets the deletions of rows that live again.
pub async fn revive(
    connection: &mut PgConnection,
    tenant: Tenant,
    table: &TableName,
    folded_keys: &[String],
) -> Result<(), QueueError> {
    sqlx::query(
        "delete from nxt_mirror.tombstone
          where tenant_kind = $1 and tenant_no = $2 and table_name = $3 and folded_key = any($4)",
    )
    .bind(tenant.kind())
    .bind(tenant.number())
    .bind(table.as_str())
    .bind(folded_keys)
    .execute(connection)
    .await
    .map_err(QueueError::on("remove tombstones"))?;
    Ok(())
}
