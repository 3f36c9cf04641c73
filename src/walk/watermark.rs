//! How far each target is swept.

use sqlx::{PgConnection, PgPool};

use crate::domain::{SourceTime, TargetId};

/// Where the last sweep ended. The first one reaches back to when the load began, so that nothing lies between the two.
/// What a clock has left in the future that was set back since is taken for now.
pub(super) async fn read(pool: &PgPool, target: TargetId) -> Result<SourceTime, sqlx::Error> {
    sqlx::query_scalar!(
        r#"with begun as (
               insert into nxt_mirror.sweep (target_id, watermark)
               select $1, coalesce((select started_at from nxt_mirror.walk where target_id = $1), clock_timestamp())
                where not exists (select from nxt_mirror.sweep where target_id = $1)
               on conflict on constraint sweep_pkey do nothing
               returning watermark)
           select least(watermark, clock_timestamp()) as "watermark!: _"
             from (select watermark from begun
                    union all
                   select watermark from nxt_mirror.sweep where target_id = $1) as told"#,
        target as _
    )
    .fetch_one(pool)
    .await
}

/// A sweep has applied everything up to this change. It never runs ahead of the database's clock, however far in the
/// future a change is dated.
pub(super) async fn advance(
    connection: &mut PgConnection,
    target: TargetId,
    newest: SourceTime,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update nxt_mirror.sweep
            set watermark = least(greatest(watermark, $2), clock_timestamp()), swept_at = now()
          where target_id = $1",
        target as _,
        newest as _
    )
    .execute(connection)
    .await
    .map(drop)
}
