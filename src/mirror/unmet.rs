//! Rows that only the mirror has: a walk remembers the keys it has met, and at its end asks for the others.

use sqlx::{AssertSqlSafe, PgConnection, types::Uuid};

use super::{Carried, Mirror, MirrorError, arrays, error::failed, read::read_key, statement};
use crate::domain::{DatabaseTime, RowKey, TargetTable};

/// A walk whose keys are remembered.
#[derive(Debug, Clone, Copy)]
pub struct WalkId {
    /// Which.
    pub id: Uuid,
    /// When it began.
    pub started_at: DatabaseTime,
}

impl WalkId {
    /// What the walk's fingerprints are made with, so that two keys that share one share it in no other walk.
    fn seed(self) -> i64 {
        self.started_at.utc().timestamp_micros()
    }
}

impl Mirror {
    /// Remembers keys as met by a walk.
    pub async fn note_met(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        walk: WalkId,
        keys: &[&RowKey],
    ) -> Result<(), MirrorError> {
        note_met(connection, target, walk, keys).await.map_err(failed("note met rows", target, Carried::Rows))
    }

    /// Declares a cursor over the keys of mirrored rows that a walk has not met and that no request since its begin has
    /// brought; read it with [`Mirror::next_unmet`] in the same transaction.
    pub async fn declare_unmet(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        walk: WalkId,
    ) -> Result<(), MirrorError> {
        declare_unmet(connection, target, walk).await.map_err(failed("list rows", target, Carried::Nothing))
    }

    /// The next keys of the cursor; none at its end.
    pub async fn next_unmet(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
    ) -> Result<Vec<RowKey>, MirrorError> {
        next_unmet(connection, target).await.map_err(failed("list rows", target, Carried::Nothing))
    }
}

async fn note_met(
    connection: &mut PgConnection,
    target: &TargetTable,
    walk: WalkId,
    keys: &[&RowKey],
) -> Result<(), sqlx::Error> {
    let mut arguments = arrays::of_walk(walk.id, walk.seed())?;
    arrays::add_keys(&mut arguments, &target.table, keys)?;
    let sql = statement::note_met(&target.table);
    sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map(drop)
}

async fn declare_unmet(connection: &mut PgConnection, target: &TargetTable, walk: WalkId) -> Result<(), sqlx::Error> {
    // The planner cannot know how many fingerprints a list holds, and a nested loop over millions would not end. Between
    // two fetches the caller may ask the source.
    sqlx::query(
        "select set_config('enable_nestloop', 'off', true),
                set_config('idle_in_transaction_session_timeout', '5min', true)",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query(AssertSqlSafe(statement::declare_unmet(&target.table)))
        .bind(target.tenant.number())
        .bind(walk.id)
        .bind(walk.seed())
        .bind(walk.started_at)
        .execute(connection)
        .await
        .map(drop)
}

async fn next_unmet(connection: &mut PgConnection, target: &TargetTable) -> Result<Vec<RowKey>, sqlx::Error> {
    // Not kept prepared: another table's cursor of this name has other columns.
    let rows = sqlx::query("fetch forward 5000 from nxt_unmet").persistent(false).fetch_all(connection).await?;
    rows.iter().map(|row| read_key(row, &target.table)).collect()
}
