//! What the charts are drawn from: a row every ten seconds, for a day.

use std::time::Duration;

use sqlx::PgPool;

/// How often a sample is taken.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// How things were in a stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stretch {
    /// How long ago it began.
    pub(super) seconds_ago: f64,
    /// Notifications.
    pub(super) received: i64,
    /// Rows that were written or removed.
    pub(super) applied: i64,
    /// The longest lag.
    pub(super) lag_seconds: f64,
}

/// A day or an hour, cut into stretches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    Hour,
    Day,
}

impl Span {
    /// All of it.
    pub(super) fn seconds(self) -> u32 {
        match self {
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// One stretch.
    pub(super) fn stretch_seconds(self) -> u32 {
        self.seconds() / 120
    }
}

/// Takes a sample, unless another replica has.
pub(super) async fn take(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"with moment as materialized (
               select date_bin(make_interval(secs => $1), clock_timestamp(), timestamptz '2000-01-01Z') as at
           ), previous as materialized (
               -- After a while without samples counting begins anew, so that the first one does not tell of hours.
               select sample.at, sample.block_id, sample.log_id
                 from nxt_mirror.sample, moment
                where sample.at > moment.at - interval '1 minute'
                order by sample.at desc limit 1
           ), newest as materialized (
               select (select coalesce(max(id), 0) from nxt_mirror.ledger_block) as block_id,
                      (select coalesce(max(id), 0) from nxt_mirror.sync_log) as log_id
           ), received as materialized (
               select coalesce(sum(cardinality(block.is_company)), 0) as notifications, min(block.id) as first_id
                 from moment cross join previous
                 join nxt_mirror.ledger_block as block
                   on block.id >= previous.block_id and block.received_at >= previous.at
                  and block.received_at < moment.at
           ), done as materialized (
               select count(*) filter (where log.action in ('inserted', 'updated', 'deleted')) as applied,
                      count(*) filter (where log.action in ('failed', 'dead_letter')) as failed
                 from newest cross join previous
                 join nxt_mirror.sync_log as log on log.id > previous.log_id and log.id <= newest.log_id
           ), requests as materialized (
               select count(*) filter (where not background) as live, count(*) filter (where background) as of_walks
                 from nxt_mirror.api_slot where free_at > clock_timestamp()
           )
           insert into nxt_mirror.sample
               (at, received, applied, failed, lag_seconds, backlog, live_requests, walk_requests, block_id, log_id)
           select moment.at, received.notifications, done.applied, done.failed,
                  coalesce(greatest(extract(epoch from clock_timestamp() - waiting.since), 0), 0), waiting.rows,
                  requests.live, requests.of_walks,
                  coalesce(received.first_id, previous.block_id, newest.block_id), newest.log_id
             from moment cross join newest cross join received cross join done cross join requests
            cross join nxt_mirror.waiting as waiting
             left join previous on true
            where previous.at is distinct from moment.at
           on conflict on constraint sample_pkey do nothing"#,
        INTERVAL.as_secs_f64()
    )
    .execute(pool)
    .await?;
    sqlx::query!("delete from nxt_mirror.sample where at < clock_timestamp() - interval '25 hours'")
        .execute(pool)
        .await?;
    Ok(())
}

/// A span in stretches, oldest first. Those of which nothing is known are left out.
pub(super) async fn stretches(pool: &PgPool, span: Span) -> Result<Vec<Stretch>, sqlx::Error> {
    sqlx::query_as!(
        Stretch,
        r#"select extract(epoch from clock_timestamp() - date_bin(make_interval(secs => $1), at, '2000-01-01Z'))::float8
                      as "seconds_ago!",
                  sum(received)::bigint as "received!", sum(applied)::bigint as "applied!",
                  max(lag_seconds) as "lag_seconds!"
             from nxt_mirror.sample
            where at > clock_timestamp() - make_interval(secs => $2)
            group by date_bin(make_interval(secs => $1), at, '2000-01-01Z')
            order by date_bin(make_interval(secs => $1), at, '2000-01-01Z')"#,
        f64::from(span.stretch_seconds()),
        f64::from(span.seconds())
    )
    .fetch_all(pool)
    .await
}

/// What is shown beside the figures of this moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Recent {
    /// Notifications of the last minute.
    pub(super) received: i64,
    /// Rows of the last hour that were written or removed.
    pub(super) applied: i64,
    /// Tries of the last hour that failed.
    pub(super) failed: i64,
    /// Lags of the last hour: half of the samples were below.
    pub(super) lag_median: f64,
    /// 95 of 100 samples were below.
    pub(super) lag_95: f64,
    /// 99 of 100 samples were below.
    pub(super) lag_99: f64,
}

/// Reads it.
pub(super) async fn recent(pool: &PgPool) -> Result<Recent, sqlx::Error> {
    sqlx::query_as!(
        Recent,
        r#"with begin as materialized (
               select coalesce((select block_id from nxt_mirror.sample
                                 where at <= clock_timestamp() - interval '1 minute' order by at desc limit 1),
                               (select min(block_id) from nxt_mirror.sample), 0) as block_id
           )
           select (select coalesce(sum(cardinality(block.is_company)), 0)
                     from begin join nxt_mirror.ledger_block as block on block.id >= begin.block_id
                    where block.received_at > clock_timestamp() - interval '1 minute')::bigint as "received!",
                  coalesce(sum(applied), 0)::bigint as "applied!", coalesce(sum(failed), 0)::bigint as "failed!",
                  coalesce(percentile_disc(0.5) within group (order by lag_seconds), 0) as "lag_median!",
                  coalesce(percentile_disc(0.95) within group (order by lag_seconds), 0) as "lag_95!",
                  coalesce(percentile_disc(0.99) within group (order by lag_seconds), 0) as "lag_99!"
             from nxt_mirror.sample where at > clock_timestamp() - interval '1 hour'"#
    )
    .fetch_one(pool)
    .await
}
