//! The request budget, kept in PostgreSQL so that all replicas share it and no restart forgets it.
//!
//! Each of `requests_per_minute` slots is held from the start of a request until 60 s after its end. Whatever the
//! network does in between, no 60 s can contain more requests than there are slots. A request whose process was
//! killed keeps its slot as if it had run for the longest time a request may take.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;
use sqlx::PgPool;

use super::{UpstreamError, alone::Alone};
use crate::{
    domain::{DatabaseTime, Tenant},
    telemetry::Purpose,
};

/// After this a request is over, even if nobody said so. Longer than the client's own time-out.
pub(super) const HOLD: Duration = Duration::from_secs(75);
/// The longest sleep between two tries for a slot: another replica may give slots back early.
const POLL_MAX: Duration = Duration::from_secs(1);
/// One in so many requests is out of reach for walks, so that live work need not wait for them.
const LIVE_SHARE: u32 = 5;
/// One in so many is out of reach for live work while walks want any, so that they never starve.
const WALK_FLOOR: u32 = 20;
/// How long a count of used slots is good enough.
const USED_HOLDS: Duration = Duration::from_millis(200);

/// Whose share of the budget a request uses: live work may use all of it but for the walks' floor, walks leave a share
/// of it free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Notifications, and whatever they wait for.
    Live,
    /// First loads, sweeps and walks.
    Background,
}

/// Grants requests.
#[derive(Debug, Clone)]
pub struct Budget {
    slots: Slots,
    requests_per_minute: u32,
    in_flight_max: u32,
    used: Arc<Mutex<Option<(Instant, u32)>>>,
}

/// Where it is noted which requests are under way.
#[derive(Debug, Clone)]
enum Slots {
    Shared(PgPool),
    Alone(Arc<Alone>),
}

/// One granted request. Give it back with [`Permit::finish`].
#[derive(Debug)]
#[must_use]
pub(super) struct Permit {
    slot: Slot,
    /// When it was granted, by the database's clock: the start of the request. Without a database nothing is dated, and
    /// it is older than everything.
    pub(super) started_at: DatabaseTime,
}

#[derive(Debug)]
enum Slot {
    Shared(PgPool, i32),
    Alone(Arc<Alone>, usize),
}

impl Budget {
    /// A budget over this database; makes the slots that are missing.
    pub async fn new(pool: PgPool, requests_per_minute: u32, in_flight_max: u32) -> Result<Self, UpstreamError> {
        sqlx::query!(
            "insert into nxt_mirror.api_slot (slot) select generate_series(1, $1) on conflict do nothing",
            clamp(requests_per_minute)
        )
        .execute(&pool)
        .await
        .map_err(UpstreamError::Budget)?;
        Ok(Self { slots: Slots::Shared(pool), requests_per_minute, in_flight_max, used: Arc::default() })
    }

    /// A budget of this process alone, for a set-up whose database is not there yet.
    pub fn alone(requests_per_minute: u32) -> Self {
        let slots = Slots::Alone(Arc::new(Alone::new(requests_per_minute)));
        Self { slots, requests_per_minute, in_flight_max: requests_per_minute, used: Arc::default() }
    }

    /// The database that others read, too.
    pub(super) fn pool(&self) -> Option<&PgPool> {
        match &self.slots {
            Slots::Shared(pool) => Some(pool),
            Slots::Alone(_) => None,
        }
    }

    /// Waits until a request for these tenants may be sent.
    pub(super) async fn acquire(
        &self,
        tenants: &[Tenant],
        share: Share,
        purpose: Purpose,
    ) -> Result<Permit, UpstreamError> {
        let names: Vec<_> = tenants.iter().map(ToString::to_string).collect();
        loop {
            let wait = match self.try_acquire(&names, share, purpose).await? {
                Ok(permit) => return Ok(permit),
                Err(wait) => wait,
            };
            tokio::time::sleep(wait.clamp(Duration::from_millis(20), POLL_MAX)).await;
        }
    }

    async fn try_acquire(
        &self,
        tenants: &[String],
        share: Share,
        purpose: Purpose,
    ) -> Result<Result<Permit, Duration>, UpstreamError> {
        match &self.slots {
            Slots::Shared(pool) => self.try_acquire_shared(pool, tenants, share, purpose).await,
            Slots::Alone(alone) => Ok(alone.take(Instant::now()).map(|slot| Permit {
                slot: Slot::Alone(Arc::clone(alone), slot),
                started_at: DatabaseTime::default(),
            })),
        }
    }

    async fn try_acquire_shared(
        &self,
        pool: &PgPool,
        tenants: &[String],
        share: Share,
        purpose: Purpose,
    ) -> Result<Result<Permit, Duration>, UpstreamError> {
        let answer = sqlx::query!(
            r#"select granted_slot as "slot?", granted_at as "at?: DatabaseTime", wait_seconds as "wait_seconds?"
                 from nxt_mirror.grant_request($1, $2, $3, $4, $5, $6, make_interval(secs => $7), $8)"#,
            clamp(self.requests_per_minute),
            clamp(self.in_flight_max),
            share == Share::Background,
            clamp(self.requests_per_minute / LIVE_SHARE),
            clamp(self.requests_per_minute / WALK_FLOOR),
            tenants,
            HOLD.as_secs_f64(),
            purpose.name()
        )
        .fetch_one(pool)
        .await
        .map_err(UpstreamError::Budget)?;
        Ok(match answer.slot.zip(answer.at) {
            Some((slot, started_at)) => Ok(Permit { slot: Slot::Shared(pool.clone(), slot), started_at }),
            None => Err(Duration::try_from_secs_f64(answer.wait_seconds.unwrap_or(1.0)).unwrap_or(POLL_MAX)),
        })
    }

    /// Requests that may be sent in any 60 seconds, by all replicas together.
    pub fn per_minute(&self) -> u32 {
        self.requests_per_minute
    }

    /// Slots in use now, by all replicas together. Asks the database at most five times a second.
    pub async fn used(&self) -> Result<u32, sqlx::Error> {
        let known = *self.used.lock();
        if let Some((_, used)) = known.filter(|(at, _)| at.elapsed() < USED_HOLDS) {
            return Ok(used);
        }
        let asked_at = Instant::now();
        let used = match &self.slots {
            Slots::Shared(pool) => usage(pool).await?.total(),
            Slots::Alone(alone) => alone.used(asked_at),
        };
        *self.used.lock() = Some((asked_at, used));
        Ok(used)
    }

    /// Nobody sends anything for this long, in no replica.
    pub(super) async fn pause(&self, pause: Duration) -> Result<(), UpstreamError> {
        let pool = match &self.slots {
            Slots::Shared(pool) => pool,
            Slots::Alone(alone) => {
                alone.pause(Instant::now() + pause);
                return Ok(());
            }
        };
        sqlx::query!(
            "update nxt_mirror.api_budget
                set paused_until = greatest(paused_until, clock_timestamp() + make_interval(secs => $1))",
            pause.as_secs_f64()
        )
        .execute(pool)
        .await
        .map_err(UpstreamError::Budget)?;
        Ok(())
    }
}

/// Slots in use, by what their requests are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// [`Purpose::Live`].
    pub live: u32,
    /// [`Purpose::Load`].
    pub load: u32,
    /// [`Purpose::Sweep`].
    pub sweep: u32,
    /// [`Purpose::Verify`].
    pub verify: u32,
    /// [`Purpose::Other`].
    pub other: u32,
}

impl Usage {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.parts().iter().map(|(_, requests)| requests).sum()
    }

    /// Each, with the name of its purpose.
    pub fn parts(&self) -> [(&'static str, u32); 5] {
        let mut usage = *self;
        Purpose::ALL.map(|purpose| (purpose.name(), *usage.of(purpose)))
    }

    fn of(&mut self, purpose: Purpose) -> &mut u32 {
        match purpose {
            Purpose::Live => &mut self.live,
            Purpose::Load => &mut self.load,
            Purpose::Sweep => &mut self.sweep,
            Purpose::Verify => &mut self.verify,
            Purpose::Other => &mut self.other,
        }
    }
}

/// Slots in use now, by all replicas together.
pub async fn usage(pool: &PgPool) -> Result<Usage, sqlx::Error> {
    let counted = sqlx::query!(
        r#"select purpose, count(*) as "requests!" from nxt_mirror.api_slot
            where free_at > clock_timestamp() group by purpose"#
    )
    .fetch_all(pool)
    .await?;
    let mut usage = Usage::default();
    for slots in counted {
        *usage.of(Purpose::from_name(&slots.purpose)) += u32::try_from(slots.requests).unwrap_or(u32::MAX);
    }
    Ok(usage)
}

impl Permit {
    /// The request has ended. On failure the slot stays held for its longest time, which is safe.
    pub(super) async fn finish(self) {
        let (pool, slot) = match self.slot {
            Slot::Shared(pool, slot) => (pool, slot),
            Slot::Alone(alone, slot) => return alone.give_back(slot, Instant::now()),
        };
        let done = sqlx::query!(
            "update nxt_mirror.api_slot set free_at = clock_timestamp() + interval '60 seconds', in_flight_until = null
              where slot = $1",
            slot
        )
        .execute(&pool)
        .await;
        if let Err(error) = done {
            tracing::warn!(%error, slot, "budget slot not given back; it frees itself");
        }
    }
}

fn clamp(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
