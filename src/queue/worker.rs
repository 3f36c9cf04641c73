//! Workers: alive while they say so.

use std::time::Duration;

use super::{Queue, QueueError};

/// How often a worker says that it is alive.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long that is believed, and what a dead worker holds stays with it.
const ALIVE: Duration = Duration::from_secs(4);

/// A process that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct WorkerId(i64);

impl Queue {
    /// Enters a worker, which is alive from now on.
    pub async fn register(&self) -> Result<WorkerId, QueueError> {
        sqlx::query_scalar!(
            r#"insert into nxt_mirror.worker (alive_until) values (clock_timestamp() + make_interval(secs => $1))
               returning id as "id: _""#,
            ALIVE.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await
        .map_err(QueueError::on("register a worker"))
    }

    /// Says that the worker is alive; to be called every [`BEAT_INTERVAL`]. One that was taken for dead comes back.
    pub async fn beat(&self, me: WorkerId) -> Result<(), QueueError> {
        sqlx::query!(
            "insert into nxt_mirror.worker (id, alive_until) overriding system value
             values ($1, clock_timestamp() + make_interval(secs => $2))
             on conflict on constraint worker_pkey do update set alive_until = excluded.alive_until",
            me as _,
            ALIVE.as_secs_f64()
        )
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(QueueError::on("say that a worker is alive"))
    }

    /// Whether this worker does what one does for all: it stays so for as long as it lives.
    pub async fn lead(&self, me: WorkerId) -> Result<bool, QueueError> {
        sqlx::query_scalar!(
            r#"with taken as (
                   update nxt_mirror.lease as lease set worker_id = $1
                    where lease.name = 'schedule' and lease.worker_id is distinct from $1
                      and not exists (select from nxt_mirror.worker as holder
                                       where holder.id = lease.worker_id and holder.alive_until > clock_timestamp())
                   returning lease.name
               )
               select exists (select from taken)
                   or exists (select from nxt_mirror.lease as lease
                                join nxt_mirror.worker as holder on holder.id = lease.worker_id
                               where lease.name = 'schedule' and holder.id = $1
                                 and holder.alive_until > clock_timestamp()) as "leads!""#,
            me as _
        )
        .fetch_one(&self.pool)
        .await
        .map_err(QueueError::on("take the lead"))
    }

    /// Takes the worker out: all that it holds is free at once.
    pub async fn leave(&self, me: WorkerId) -> Result<(), QueueError> {
        sqlx::query!("delete from nxt_mirror.worker where id = $1", me as _)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(QueueError::on("take a worker out"))
    }
}
