//! How far a walk has come, range by range.

use sqlx::{PgConnection, PgPool, types::Uuid};

use super::{Target, ranges::Range};
use crate::{
    domain::{KeyValue, RowKey, Time},
    mirror::WalkId,
};

const LOAD: &str = "load";
const SWEEP: &str = "sweep";

/// A walk of a whole table that is under way.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) id: WalkId,
    /// Whether an earlier walk came to the end.
    pub(super) finished_before: bool,
    pub(super) rows_walked: u64,
    pub(super) rows_total: Option<u64>,
    pub(super) ranges: Vec<Range>,
}

/// Binds the table's identity and the purpose as `$1` to `$4`.
macro_rules! query {
    ($kind:ident, $target:expr, $purpose:expr, $sql:expr) => {
        sqlx::$kind($sql)
            .bind($target.tenant.kind())
            .bind($target.tenant.number())
            .bind($target.table.name.as_str())
            .bind($purpose)
    };
}

type Columns = (Option<Uuid>, Time, Option<Time>, Option<Time>, i64, Option<i64>);

/// Takes up a walk that was interrupted, or begins a new one.
pub(super) async fn begin(pool: &PgPool, target: &Target) -> Result<Walk, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let existing: Option<Columns> = query!(
        query_as,
        target,
        LOAD,
        "select walk_id, started_at, finished_at, last_finished_at, rows_walked, rows_total from nxt_mirror.checkpoint
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4) for update"
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let finished_before = matches!(existing, Some((_, _, _, Some(_), ..)));
    if let Some((Some(id), started_at, None, _, rows_walked, rows_total)) = existing {
        let ranges = ranges(&mut transaction, target).await?;
        let (rows_walked, rows_total) = (rows_walked.unsigned_abs(), rows_total.map(i64::unsigned_abs));
        return Ok(Walk { id: WalkId { id, started_at }, finished_before, rows_walked, rows_total, ranges });
    }
    let id = Uuid::new_v4();
    let started_at: Time = query!(
        query_scalar,
        target,
        LOAD,
        "insert into nxt_mirror.checkpoint (tenant_kind, tenant_no, table_name, purpose, walk_id, started_at)
         values ($1, $2, $3, $4, $5, clock_timestamp())
         on conflict on constraint checkpoint_pkey do update set
             started_at = excluded.started_at, walk_id = excluded.walk_id, finished_at = null, rows_walked = 0,
             rows_total = null
         returning started_at"
    )
    .bind(id)
    .fetch_one(&mut *transaction)
    .await?;
    let ranges = vec![Range::whole()];
    write_ranges(&mut transaction, target, &ranges).await?;
    sqlx::query(
        "insert into nxt_mirror.mirrored_tenant (tenant_kind, tenant_no, table_name) values ($1, $2, $3)
         on conflict do nothing",
    )
    .bind(target.tenant.kind())
    .bind(target.tenant.number())
    .bind(target.table.name.as_str())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Walk { id: WalkId { id, started_at }, finished_before, rows_walked: 0, rows_total: None, ranges })
}

/// The walk goes on in these ranges, in the place of those it had; `rows_total` is what the source counted.
pub(super) async fn cut(
    connection: &mut PgConnection,
    target: &Target,
    rows_total: Option<u64>,
    ranges: &[Range],
) -> Result<(), sqlx::Error> {
    query!(
        query,
        target,
        LOAD,
        "update nxt_mirror.checkpoint set rows_total = $5
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)"
    )
    .bind(rows_total.map(|total| i64::try_from(total).unwrap_or(i64::MAX)))
    .execute(&mut *connection)
    .await?;
    write_ranges(connection, target, ranges).await
}

/// Records a page, in the transaction that applies it.
pub(super) async fn advance(
    connection: &mut PgConnection,
    target: &Target,
    range_no: i32,
    rows: usize,
    position: Option<&RowKey>,
    is_last: bool,
) -> Result<(), sqlx::Error> {
    query!(
        query,
        target,
        LOAD,
        "update nxt_mirror.walk_range set position = coalesce($6, position), finished = $7
          where (tenant_kind, tenant_no, table_name, purpose, range_no) = ($1, $2, $3, $4, $5)"
    )
    .bind(range_no)
    .bind(position.map(key_json))
    .bind(is_last)
    .execute(&mut *connection)
    .await?;
    query!(
        query,
        target,
        LOAD,
        "update nxt_mirror.checkpoint set rows_walked = rows_walked + $5
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)"
    )
    .bind(i64::try_from(rows).unwrap_or(i64::MAX))
    .execute(connection)
    .await
    .map(drop)
}

/// The walk has come to the end of the table. `note` says what it could not read.
pub(super) async fn finish(
    connection: &mut PgConnection,
    target: &Target,
    walk: WalkId,
    note: Option<String>,
) -> Result<(), sqlx::Error> {
    forget_met(connection, walk).await?;
    query!(
        query,
        target,
        LOAD,
        "update nxt_mirror.checkpoint set finished_at = now(), last_finished_at = now(), note = $5
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)"
    )
    .bind(note)
    .execute(&mut *connection)
    .await?;
    write_ranges(connection, target, &[]).await
}

/// Forgets which keys a walk has met.
pub(super) async fn forget_met(connection: &mut PgConnection, walk: WalkId) -> Result<(), sqlx::Error> {
    let forget = sqlx::query("delete from nxt_mirror.walk_met where walk_id = $1").bind(walk.id);
    forget.execute(connection).await.map(drop)
}

/// Where the last sweep ended; at first, now.
pub(super) async fn watermark(pool: &PgPool, target: &Target) -> Result<Time, sqlx::Error> {
    query!(
        query_scalar,
        target,
        SWEEP,
        "insert into nxt_mirror.checkpoint (tenant_kind, tenant_no, table_name, purpose, started_at)
         values ($1, $2, $3, $4, clock_timestamp())
         on conflict on constraint checkpoint_pkey do update set purpose = excluded.purpose
         returning started_at"
    )
    .fetch_one(pool)
    .await
}

/// A sweep has applied everything up to this change.
pub(super) async fn set_watermark(
    connection: &mut PgConnection,
    target: &Target,
    watermark: Time,
) -> Result<(), sqlx::Error> {
    query!(
        query,
        target,
        SWEEP,
        "update nxt_mirror.checkpoint set started_at = greatest(started_at, $5), last_finished_at = now()
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)"
    )
    .bind(watermark)
    .execute(connection)
    .await
    .map(drop)
}

type RangeColumns = (i32, Option<serde_json::Value>, Option<serde_json::Value>, Option<serde_json::Value>, bool);

async fn ranges(connection: &mut PgConnection, target: &Target) -> Result<Vec<Range>, sqlx::Error> {
    let rows: Vec<RangeColumns> = query!(
        query_as,
        target,
        LOAD,
        "select range_no, after_key, through_key, position, finished from nxt_mirror.walk_range
          where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4) order by range_no"
    )
    .fetch_all(connection)
    .await?;
    let read = |key: Option<serde_json::Value>| key.map(|key| read_key(&key)).transpose();
    rows.into_iter()
        .map(|(no, after, through, position, finished)| {
            Ok(Range { no, after: read(after)?, through: read(through)?, position: read(position)?, finished })
        })
        .collect()
}

async fn write_ranges(connection: &mut PgConnection, target: &Target, ranges: &[Range]) -> Result<(), sqlx::Error> {
    query!(
        query,
        target,
        LOAD,
        "delete from nxt_mirror.walk_range where (tenant_kind, tenant_no, table_name, purpose) = ($1, $2, $3, $4)"
    )
    .execute(&mut *connection)
    .await?;
    for range in ranges {
        query!(
            query,
            target,
            LOAD,
            "insert into nxt_mirror.walk_range
                 (tenant_kind, tenant_no, table_name, purpose, range_no, after_key, through_key, position, finished)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        )
        .bind(range.no)
        .bind(range.after.as_ref().map(key_json))
        .bind(range.through.as_ref().map(key_json))
        .bind(range.position.as_ref().map(key_json))
        .bind(range.finished)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn key_json(key: &RowKey) -> sqlx::types::Json<Vec<KeyValue>> {
    sqlx::types::Json(key.values().to_vec())
}

fn read_key(json: &serde_json::Value) -> Result<RowKey, sqlx::Error> {
    let values = json.as_array().and_then(|values| values.iter().map(KeyValue::from_json).collect::<Option<Vec<_>>>());
    values.map(RowKey::from_values).ok_or_else(|| sqlx::Error::Decode(format!("not a key: {json}").into()))
}
