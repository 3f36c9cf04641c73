//! What is due, target by target.

use std::{sync::atomic::Ordering, time::Duration};

use super::{
    Claimable, Claims, Priority, Queue, QueueError, WorkerId, claim::target_of, flights::InFlight, floors::From,
};
use crate::domain::{DatabaseTime, Target, TargetId};

/// Targets' priorities looked at by one overview. With more of them dirty, the next one goes on where it ended.
const LOOKED_AT_MAX: i64 = 2_000;

/// A target with rows that are due and not in flight, that is not paused and that this worker may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The target.
    pub target: Target,
    /// When the first of its live rows became due; `None` when no such row is due.
    pub oldest_live: Option<DatabaseTime>,
    /// When the first of its deferred rows became due; `None` when no such row is due.
    pub oldest_deferred: Option<DatabaseTime>,
    /// Its failures, one after the other.
    pub failures: u32,
}

/// The work that there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Targets to work on: those with live rows first, oldest first.
    pub due: Vec<Due>,
    /// How long until more may become due by itself; `None` when nothing waits for its time.
    pub next_in: Option<Duration>,
    /// How long the server took.
    took: Duration,
}

/// A line of the answer: a due target, and what is the same in every line.
struct Line {
    id: Option<TargetId>,
    tenant_kind: Option<String>,
    tenant_no: Option<i64>,
    table_name: Option<String>,
    failures: Option<i32>,
    oldest_live: Option<DatabaseTime>,
    oldest_deferred: Option<DatabaseTime>,
    /// When the first row became due, in flight or not.
    first_live: Option<DatabaseTime>,
    first_deferred: Option<DatabaseTime>,
    next_in: Option<f64>,
    looked_at: i64,
    last_target: Option<TargetId>,
    /// How long the server took.
    took: f64,
}

/// What is looked at: everything behind a target, or only what this process has seen lately.
enum Scope {
    Behind(TargetId),
    Known(Vec<From>),
}

impl Queue {
    /// Looks which targets have due rows, at most `targets_max` of them. Costs one look into an index for each target
    /// that has any dirty row, however many it has; where even that takes long, what another replica has folded shows
    /// up later.
    pub async fn overview(
        &self,
        me: WorkerId,
        claims: &Claims,
        claimable: Claimable,
        targets_max: i64,
    ) -> Result<Overview, QueueError> {
        let (until_full, is_slow) = (self.floors.until_full(), self.floors.is_slow());
        let error = QueueError::on("look for due rows");
        if (until_full > Duration::ZERO || is_slow) && claimable == Claimable::All {
            let known = Scope::Known(self.floors.all());
            let mut overview = self.look(me, claims, claimable, targets_max, &known).await.map_err(error)?.0;
            if !is_slow {
                overview.next_in = Some(overview.next_in.map_or(until_full, |next_in| next_in.min(until_full)));
            }
            return Ok(overview);
        }
        self.look_at_all(me, claims, claimable, targets_max).await.map_err(error)
    }

    /// Where looking at everything takes long, does so for the overviews to come, which look only at what is known. To
    /// be called again after the time that is returned, beside the overviews.
    pub async fn look_beside(&self, me: WorkerId, claims: &Claims, targets_max: i64) -> Result<Duration, QueueError> {
        if self.floors.is_slow() && self.floors.until_full().is_zero() {
            let error = QueueError::on("look for due rows");
            self.look_at_all(me, claims, Claimable::All, targets_max).await.map_err(error)?;
        }
        Ok(self.floors.until_full())
    }

    /// Goes on where the last such look ended, if it was cut.
    async fn look_at_all(
        &self,
        me: WorkerId,
        claims: &Claims,
        claimable: Claimable,
        targets_max: i64,
    ) -> Result<Overview, sqlx::Error> {
        let after = self.cursor.load(Ordering::Relaxed);
        let scope = Scope::Behind(TargetId(after));
        let (mut overview, cut_at) = self.look(me, claims, claimable, targets_max, &scope).await?;
        if claimable == Claimable::All {
            self.floors.note_full(overview.took, overview.next_in);
        }
        // The last target may have been seen in part.
        self.cursor.store(cut_at.map_or(0, |target| target.0 - 1), Ordering::Relaxed);
        if cut_at.is_some() || after > 0 {
            overview.next_in = Some(Duration::ZERO);
        }
        Ok(overview)
    }

    /// Also returns the target at which the look was cut.
    async fn look(
        &self,
        me: WorkerId,
        claims: &Claims,
        claimable: Claimable,
        targets_max: i64,
        scope: &Scope,
    ) -> Result<(Overview, Option<TargetId>), sqlx::Error> {
        let lines = self.lines(me, &claims.in_flight(), claimable, targets_max, scope).await?;
        if claimable == Claimable::All {
            self.remember(&lines);
        }
        let cut_at = lines.first().filter(|line| line.looked_at >= LOOKED_AT_MAX).and_then(|line| line.last_target);
        let cut_at = cut_at.filter(|_| matches!(scope, Scope::Behind(_)));
        Ok((read(lines)?, cut_at))
    }

    fn remember(&self, lines: &[Line]) {
        for line in lines {
            let Some(target) = line.id else { continue };
            for (priority, first) in [(Priority::Live, line.first_live), (Priority::Deferred, line.first_deferred)] {
                if let Some(due_at) = first {
                    self.floors.see(target, priority, due_at);
                }
            }
        }
    }

    /// A loose index scan: from the first row of each target's priority straight to the first one of the next.
    async fn lines(
        &self,
        me: WorkerId,
        in_flight: &[InFlight],
        claimable: Claimable,
        targets_max: i64,
        scope: &Scope,
    ) -> Result<Vec<Line>, sqlx::Error> {
        let (after, known) = match scope {
            Scope::Behind(target) => (Some(*target), &[][..]),
            Scope::Known(known) => (None, known.as_slice()),
        };
        // Planned for the value of $2, so that each has its index, for which "due_at > '-infinity'" asks. Rows in
        // flight are still due; they are the first ones.
        sqlx::query_as!(
            Line,
            r#"with recursive first as (
                 (select target_id, priority, due_at from nxt_mirror.dirty_row
                   where target_id > $1 and due_at > '-infinity' and ($2 or deleted_at is not null)
                   order by target_id, priority, due_at limit 1)
                  union all
                 select next.target_id, next.priority, next.due_at
                   from first cross join lateral (
                        select target_id, priority, due_at from nxt_mirror.dirty_row as row
                         where (row.target_id, row.priority) > (first.target_id, first.priority)
                           and row.due_at > '-infinity' and ($2 or row.deleted_at is not null)
                         order by row.target_id, row.priority, row.due_at limit 1) as next
             ), looked_at as materialized (
                 (select target_id, priority, due_at from first limit $3)
                  union all
                 select known.target_id, known.priority,
                        (select row.due_at from nxt_mirror.dirty_row as row
                          where row.target_id = known.target_id and row.priority = known.priority
                            and row.due_at > '-infinity' and row.due_at >= known.since
                            and ($2 or row.deleted_at is not null)
                          order by row.due_at limit 1)
                   from unnest($9::integer[], $10::smallint[], $11::timestamptz[])
                        as known (target_id, priority, since)
             ), waiting as materialized (
                 select looked_at.target_id, looked_at.priority, looked_at.due_at as first_at,
                        case when in_flight.rows is null then looked_at.due_at else
                            (select row.due_at from nxt_mirror.dirty_row as row
                              where row.target_id = looked_at.target_id and row.priority = looked_at.priority
                                and row.due_at > '-infinity' and row.due_at >= looked_at.due_at
                                and ($2 or row.deleted_at is not null)
                              order by row.due_at offset in_flight.rows limit 1)
                        end as due_at
                   from looked_at
                   left join unnest($4::integer[], $5::smallint[], $6::bigint[])
                             as in_flight (target_id, priority, rows) using (target_id, priority)
             ), judged as materialized (
                 select target.id, target.tenant_kind, target.tenant_no, target.table_name, target.failures,
                        waiting.priority, waiting.first_at, waiting.due_at,
                        greatest(waiting.due_at, target.paused_until,
                                 case when holder.id <> $7 then holder.alive_until end) as free_at
                   from waiting
                   join nxt_mirror.target as target on target.id = waiting.target_id
                   left join nxt_mirror.worker as holder on holder.id = target.worker_id
                  where waiting.due_at is not null
             ), due as (
                 select id, tenant_kind, tenant_no, table_name, failures,
                        min(due_at) filter (where priority = 0) as oldest_live,
                        min(due_at) filter (where priority = 1) as oldest_deferred,
                        min(first_at) filter (where priority = 0) as first_live,
                        min(first_at) filter (where priority = 1) as first_deferred
                   from judged where free_at <= now()
                  group by id, tenant_kind, tenant_no, table_name, failures
                  order by oldest_live nulls last, oldest_deferred limit $8
             ), summary as (
                 select (select count(*) from looked_at) as looked_at,
                        (select max(target_id) from looked_at) as last_target,
                        (select extract(epoch from min(free_at) - clock_timestamp())::float8
                           from judged where free_at > now()) as next_in
             )
             select due.id as "id?: _", due.tenant_kind as "tenant_kind?", due.tenant_no as "tenant_no?",
                    due.table_name as "table_name?", due.failures as "failures?",
                    due.oldest_live as "oldest_live?: _", due.oldest_deferred as "oldest_deferred?: _",
                    due.first_live as "first_live?: _", due.first_deferred as "first_deferred?: _",
                    summary.next_in as "next_in?", summary.looked_at as "looked_at!",
                    summary.last_target as "last_target?: _",
                    extract(epoch from clock_timestamp() - statement_timestamp())::float8 as "took!"
               from summary left join due on true
              order by due.oldest_live nulls last, due.oldest_deferred"#,
            after as _,
            claimable == Claimable::All,
            LOOKED_AT_MAX,
            in_flight.iter().map(|in_flight| in_flight.target).collect::<Vec<_>>() as _,
            &in_flight.iter().map(|in_flight| in_flight.priority.code()).collect::<Vec<_>>(),
            &in_flight.iter().map(|in_flight| i64::try_from(in_flight.rows).unwrap_or(i64::MAX)).collect::<Vec<_>>(),
            me as _,
            targets_max,
            known.iter().map(|known| known.target).collect::<Vec<_>>() as _,
            &known.iter().map(|known| known.priority.code()).collect::<Vec<_>>(),
            known.iter().map(|known| known.due_at).collect::<Vec<_>>() as _
        )
        .fetch_all(&self.pool)
        .await
    }
}

fn read(lines: Vec<Line>) -> Result<Overview, sqlx::Error> {
    let of_seconds = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
    let next_in = lines.first().and_then(|line| line.next_in).map(of_seconds);
    let took = lines.first().map(|line| of_seconds(line.took)).unwrap_or_default();
    let due = lines.into_iter().filter_map(Line::due).collect::<Result<_, _>>()?;
    Ok(Overview { due, next_in, took })
}

impl Line {
    fn due(self) -> Option<Result<Due, sqlx::Error>> {
        let target = target_of(self.id?, &self.tenant_kind?, self.tenant_no?, self.table_name?);
        Some(target.map(|target| Due {
            target,
            oldest_live: self.oldest_live,
            oldest_deferred: self.oldest_deferred,
            failures: self.failures.and_then(|failures| u32::try_from(failures).ok()).unwrap_or_default(),
        }))
    }
}
