//! The beginning of a history: the rows that are there already. And its old end.

use sqlx::{Arguments, AssertSqlSafe, PgConnection};

use super::{Touched, keep, statement};
use crate::{
    domain::{DatabaseTime, KeyValue, RowKey, TargetId, TargetTable},
    mirror::{Carried, Mirror, MirrorError, arrays, error::failed, read::read_key},
};

/// Keys of one transaction, which keeps the target locked for a moment only.
const KEYS_MAX: i64 = 1_000;

impl Mirror {
    /// Notes that no other histories are kept than those of these targets: should they be again, they begin anew.
    pub async fn end_other_histories(&self, kept: &[TargetId]) -> Result<(), sqlx::Error> {
        let kept: Vec<i32> = kept.iter().map(|target| target.0).collect();
        sqlx::query!("delete from nxt_mirror.history where target_id <> all($1)", &kept)
            .execute(&self.pool)
            .await
            .map(drop)
    }

    /// Whether the history of a target has begun, in the table that there is now.
    pub async fn has_begun(&self, target: &TargetTable) -> Result<bool, MirrorError> {
        sqlx::query_scalar!(
            r#"select exists (select from nxt_mirror.history
                               where target_id = $1 and relation = to_regclass($2)::oid) as "exists!""#,
            target.id as _,
            statement::history(&target.table)
        )
        .fetch_one(&self.pool)
        .await
        .map_err(failed("look for the history", target, Carried::Nothing))
    }

    /// Begins the history of a target with the rows that it has, piece by piece. What has changed since it was last kept
    /// is brought in line.
    pub async fn begin_history(&self, target: &TargetTable) -> Result<(), MirrorError> {
        let mut behind = None;
        while let Some(last) = self.begin_piece(target, behind.as_ref()).await? {
            behind = Some(last);
        }
        sqlx::query!(
            "insert into nxt_mirror.history (target_id, relation) select $1, to_regclass($2)::oid
              where to_regclass($2) is not null
             on conflict on constraint history_pkey do update set relation = excluded.relation",
            target.id as _,
            statement::history(&target.table)
        )
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(failed("begin the history", target, Carried::Nothing))
    }

    /// Returns the last key of the piece; none at the end.
    async fn begin_piece(&self, target: &TargetTable, behind: Option<&RowKey>) -> Result<Option<RowKey>, MirrorError> {
        let failed = || failed("begin the history", target, Carried::Nothing);
        let mut transaction = self.begin().await.map_err(failed())?;
        self.lock(&mut transaction, target).await?;
        let keys = next_keys(&mut transaction, target, statement::Keys::Current, behind).await.map_err(failed())?;
        let touched: Vec<Touched<'_>> =
            keys.iter().map(|key| Touched { key, changed_by: None, deleted_at: None }).collect();
        keep(&mut transaction, target, &touched, self.is_distributed(&target.table)).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(keys.last().cloned())
    }

    /// Removes versions of a target that ended before a moment, piece by piece.
    pub async fn forget_versions(&self, target: &TargetTable, before: DatabaseTime) -> Result<(), MirrorError> {
        let mut behind = None;
        while let Some(last) = self.forget_piece(target, behind.as_ref(), before).await? {
            behind = Some(last);
        }
        Ok(())
    }

    async fn forget_piece(
        &self,
        target: &TargetTable,
        behind: Option<&RowKey>,
        before: DatabaseTime,
    ) -> Result<Option<RowKey>, MirrorError> {
        let failed = || failed("forget old versions", target, Carried::Nothing);
        let mut transaction = self.begin().await.map_err(failed())?;
        let keys = next_keys(&mut transaction, target, statement::Keys::Kept, behind).await.map_err(failed())?;
        forget(&mut transaction, target, &keys, before, self.is_distributed(&target.table)).await.map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        Ok(keys.last().cloned())
    }
}

async fn next_keys(
    connection: &mut PgConnection,
    target: &TargetTable,
    which: statement::Keys,
    behind: Option<&RowKey>,
) -> Result<Vec<RowKey>, sqlx::Error> {
    let sql = statement::next_keys(&target.table, which, behind.is_some());
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(target.tenant.number()).bind(KEYS_MAX);
    for value in behind.map(RowKey::values).unwrap_or_default() {
        query = match value {
            KeyValue::Int(number) => query.bind(*number),
            KeyValue::Text(text) => query.bind(text.clone()),
        };
    }
    query.fetch_all(connection).await?.iter().map(|row| read_key(row, &target.table)).collect()
}

async fn forget(
    connection: &mut PgConnection,
    target: &TargetTable,
    keys: &[RowKey],
    before: DatabaseTime,
    is_distributed: bool,
) -> Result<(), sqlx::Error> {
    let mut arguments = arrays::of_tenant(target)?;
    arguments.add(before).map_err(sqlx::Error::Encode)?;
    arrays::add_keys(&mut arguments, &target.table, &keys.iter().collect::<Vec<_>>())?;
    let sql = statement::forget_old(&target.table, is_distributed);
    sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await.map(drop)
}
