//! Claiming: a worker takes the lease of a target and reads its rows. Nothing is written for a row.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::PgPool;

use super::{Claim, Claims, Queue, QueueError, WorkerId};
use crate::domain::{
    AnnouncedKey, DatabaseTime, SourceTime, TableName, Target, TargetId, Tenant,
    settle::{Announcement, Deletion, Evidence, Rechecks},
};

/// Whether work is live or may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// A notification.
    Live,
    /// A replay or a walk asked for it.
    Deferred,
}

impl Priority {
    /// As the database has it.
    pub(crate) fn code(self) -> i16 {
        match self {
            Self::Live => 0,
            Self::Deferred => 1,
        }
    }
}

/// Which of the rows that are due are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable {
    /// All of them.
    All,
    /// Those that were deleted, for which the source may not be needed.
    Deleted,
}

/// Rows of a target that a worker has a place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The target.
    pub target: TargetId,
    /// Which of its rows.
    pub priority: Priority,
    /// How many at most.
    pub rows_max: usize,
}

/// Where the table of dirty rows has the version of a row that was seen (`ctid`). It moves with each change, and another
/// row may have taken its place: what is there must be asked for its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct Place(String);

/// A row that needs a fetch.
#[derive(Debug, Clone)]
pub struct DirtyRow {
    /// The row.
    pub key: AnnouncedKey,
    /// Its canonical text, by which the queue knows it.
    pub row_key: Arc<str>,
    /// Where it was when it was claimed.
    pub place: Place,
    /// Another one with whatever is learned of the row; a verdict settles the row only if it is still the same.
    pub generation: i64,
    /// Failures so far, one after the other.
    pub attempts: u32,
    /// Whether it may wait.
    pub priority: Priority,
    /// The latest notification.
    pub notification_id: Option<i64>,
    /// What the notifications say.
    pub evidence: Evidence,
    /// How long the oldest notification waits that is not settled.
    pub age: Age,
}

/// Time since something was received.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    /// By the database's clock, as of the claim.
    when_claimed: Duration,
    claimed_at: Instant,
}

impl Age {
    pub(super) fn when_claimed(when_claimed: Duration) -> Self {
        Self { when_claimed, claimed_at: Instant::now() }
    }

    /// By now.
    pub fn by_now(self) -> Duration {
        self.when_claimed + self.claimed_at.elapsed()
    }
}

impl DirtyRow {
    /// Whether this is the first look at what a notification announced.
    pub fn is_new(&self) -> bool {
        self.notification_id.is_some()
            && self.priority == Priority::Live
            && self.attempts == 0
            && self.evidence.rechecks == Rechecks::default()
    }
}

impl Queue {
    /// Claims due rows of each of these, those due first. Left out is what is in flight already, and what
    /// belongs to a target that another living worker has.
    ///
    /// There may be nothing although [`Queue::overview`] spoke of something: ask again when something has changed.
    pub async fn claim(
        &self,
        me: WorkerId,
        claims: &Claims,
        wanted: &[Wanted],
        claimable: Claimable,
    ) -> Result<Vec<Claim>, QueueError> {
        let targets = lease(&self.pool, me, wanted).await.map_err(QueueError::on("lease targets"))?;
        let wanted: Vec<_> = wanted.iter().copied().filter(|wanted| targets.contains_key(&wanted.target)).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let reading = claims.read();
        let limits: Vec<_> = wanted.iter().map(|wanted| wanted.rows_max + claims.rows_of(wanted.target)).collect();
        let mut rows = self.due_rows(&wanted, &limits, claimable).await.map_err(QueueError::on("claim rows"))?;
        let hold = |wanted: Wanted| {
            let target = targets.get(&wanted.target)?.clone();
            reading.hold(target, rows.remove(&(wanted.target, wanted.priority))?, wanted.rows_max)
        };
        Ok(wanted.into_iter().filter_map(hold).collect())
    }
}

/// The columns that hold a target.
pub(super) struct TargetRow {
    pub(super) id: TargetId,
    pub(super) tenant_kind: String,
    pub(super) tenant_no: i64,
    pub(super) table_name: String,
}

impl TargetRow {
    pub(super) fn read(self) -> Result<Target, sqlx::Error> {
        target_of(self.id, &self.tenant_kind, self.tenant_no, self.table_name)
    }
}

/// Puts a target together from its columns.
pub(super) fn target_of(id: TargetId, kind: &str, tenant_no: i64, table_name: String) -> Result<Target, sqlx::Error> {
    let tenant = Tenant::from_parts(kind, tenant_no).ok_or_else(|| corrupt("target: tenant_kind"))?;
    let table = TableName::new(table_name).map_err(|_| corrupt("target: table_name"))?;
    Ok(Target { id, tenant, table })
}

fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// Takes the leases of targets that nobody alive has; returns those that are mine now. One that is locked just now is
/// left for another time.
async fn lease(pool: &PgPool, me: WorkerId, wanted: &[Wanted]) -> Result<HashMap<TargetId, Target>, sqlx::Error> {
    let rows = sqlx::query_as!(
        TargetRow,
        r#"with free as materialized (
               select target.id from nxt_mirror.target as target
                where target.id = any($2) and target.worker_id is distinct from $1
                  and not exists (select from nxt_mirror.worker as holder
                                   where holder.id = target.worker_id and holder.alive_until > clock_timestamp())
                order by target.id for no key update of target skip locked
           ), taken as (
               update nxt_mirror.target as target set worker_id = $1 from free where target.id = free.id
               returning target.id, target.tenant_kind, target.tenant_no, target.table_name
           )
           select id as "id!: _", tenant_kind as "tenant_kind!", tenant_no as "tenant_no!", table_name as "table_name!"
             from taken
            union all
           select id, tenant_kind, tenant_no, table_name from nxt_mirror.target where id = any($2) and worker_id = $1"#,
        me as _,
        wanted.iter().map(|wanted| wanted.target).collect::<Vec<_>>() as _
    )
    .fetch_all(pool)
    .await?;
    let target = |row: TargetRow| Ok((row.id, row.read()?));
    rows.into_iter().map(target).collect()
}

struct DirtyRecord {
    target_id: TargetId,
    wanted: i16,
    row_key: String,
    place: Place,
    generation: i64,
    attempts: i32,
    due_at: DatabaseTime,
    notification_id: Option<i64>,
    waited_seconds: f64,
    deleted_at: Option<SourceTime>,
    delete_received_at: Option<DatabaseTime>,
    announced: bool,
    changed_at: Option<SourceTime>,
    found_rechecks: i32,
    missing_rechecks: i32,
}

/// Puts what notifications say together from its columns. A deletion is when it happened and when it was received.
pub(super) fn evidence_of(
    deletion: Option<(SourceTime, DatabaseTime)>,
    announced: bool,
    changed_at: Option<SourceTime>,
    (found, missing): (i32, i32),
) -> Evidence {
    let count = |rechecks| u32::try_from(rechecks).unwrap_or_default();
    Evidence {
        deletion: deletion.map(|(at, received_at)| Deletion { at, received_at }),
        announcement: announced.then_some(Announcement { changed_at }),
        rechecks: Rechecks { found: count(found), missing: count(missing) },
    }
}

impl DirtyRecord {
    fn read(self, priority: Priority) -> Result<DirtyRow, sqlx::Error> {
        let deletion = self.deleted_at.zip(self.delete_received_at);
        Ok(DirtyRow {
            key: AnnouncedKey::from_canonical(&self.row_key).ok_or_else(|| corrupt("dirty_row: row_key"))?,
            row_key: self.row_key.into(),
            place: self.place,
            generation: self.generation,
            attempts: u32::try_from(self.attempts).unwrap_or_default(),
            priority,
            notification_id: self.notification_id,
            evidence: evidence_of(
                deletion,
                self.announced,
                self.changed_at,
                (self.found_rechecks, self.missing_rechecks),
            ),
            age: Age::when_claimed(Duration::try_from_secs_f64(self.waited_seconds).unwrap_or_default()),
        })
    }
}

type Rows = HashMap<(TargetId, Priority), Vec<DirtyRow>>;

impl Queue {
    /// Reads the due rows of each target up to its limit.
    async fn due_rows(&self, wanted: &[Wanted], limits: &[usize], claimable: Claimable) -> Result<Rows, sqlx::Error> {
        let records = read_due(self, wanted, limits, claimable).await?;
        let mut rows = Rows::new();
        for record in records {
            let priority = if record.wanted == Priority::Live.code() { Priority::Live } else { Priority::Deferred };
            let of_target = rows.entry((record.target_id, priority)).or_default();
            if of_target.is_empty() && claimable == Claimable::All {
                self.floors.see(record.target_id, priority, record.due_at);
            }
            of_target.push(record.read(priority)?);
        }
        Ok(rows)
    }
}

async fn read_due(
    queue: &Queue,
    wanted: &[Wanted],
    limits: &[usize],
    claimable: Claimable,
) -> Result<Vec<DirtyRecord>, sqlx::Error> {
    // Planned for the value of $5, so that each has its index, for which "due_at > '-infinity'" asks.
    sqlx::query_as!(
        DirtyRecord,
        r#"select wanted.target_id as "target_id!: _", wanted.priority as "wanted!", dirty.row_key as "row_key!",
                  dirty.place as "place!: _", dirty.generation as "generation!", dirty.attempts as "attempts!", dirty.due_at as "due_at!: _",
                  dirty.notification_id as "notification_id?",
                  extract(epoch from clock_timestamp() - dirty.waiting_since)::float8 as "waited_seconds!",
                  dirty.deleted_at as "deleted_at?: _", dirty.delete_received_at as "delete_received_at?: _",
                  dirty.announced as "announced!", dirty.changed_at as "changed_at?: _",
                  dirty.found_rechecks as "found_rechecks!", dirty.missing_rechecks as "missing_rechecks!"
             from unnest($1::integer[], $2::smallint[], $3::bigint[], $4::timestamptz[])
                      as wanted (target_id, priority, rows_max, since)
            cross join lateral (
                  select row.row_key, row.ctid::text as place, row.generation, row.attempts, row.due_at, row.notification_id, row.waiting_since,
                         row.deleted_at, row.delete_received_at, row.announced, row.changed_at,
                         row.found_rechecks, row.missing_rechecks
                    from nxt_mirror.dirty_row as row
                   where row.target_id = wanted.target_id and row.priority = wanted.priority
                     and row.due_at > '-infinity' and row.due_at >= coalesce(wanted.since, '-infinity')
                     and row.due_at <= now()
                     and ($5 or row.deleted_at is not null)
                   order by row.due_at limit wanted.rows_max) as dirty"#,
        wanted.iter().map(|wanted| wanted.target).collect::<Vec<_>>() as _,
        &wanted.iter().map(|wanted| wanted.priority.code()).collect::<Vec<_>>(),
        &limits.iter().map(|&rows| i64::try_from(rows).unwrap_or(i64::MAX)).collect::<Vec<_>>(),
        wanted.iter().map(|wanted| queue.floors.of(wanted.target, wanted.priority)).collect::<Vec<_>>() as _,
        claimable == Claimable::All
    )
    .fetch_all(&queue.pool)
    .await
}
