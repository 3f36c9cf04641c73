//! Folding: blocks of the ledger become dirty rows, in bulk, exactly once.
//!
//! Blocks of one stream become visible in the order of their ids, so it is enough to remember how far a stream is
//! folded. That is written in the transaction that folds, under a lock of the stream, so that neither replicas nor
//! kills fold a block twice or leave one out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool};

use super::{Priority, Queue, QueueError, error::repeated};
use crate::{
    domain::{DatabaseTime, TargetId},
    failpoint::Failpoint,
};

/// Blocks looked at for one transaction.
const BLOCKS_MAX: i64 = 512;
/// Notifications folded by one transaction; a block may lead past it.
const NOTIFICATIONS_MAX: i64 = 20_000;
/// As long as a transaction may lock the rows that it makes dirty: whoever settles one of them waits meanwhile.
const LOCKED_MAX: Duration = Duration::from_millis(300);
/// How long one stream is folded before the others have their turn.
const TURN_MAX: Duration = Duration::from_secs(1);
/// First key of the advisory locks of streams.
const LOCK_CLASS: i32 = 0x6e78_7402;

/// How many notifications one transaction folds: so many that it does not lock rows for long. A server where somebody
/// holds an old snapshot, or whose disk is slow, takes longer for each.
#[derive(Debug, Clone)]
pub(super) struct PartSize(Arc<AtomicI64>);

impl Default for PartSize {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NOTIFICATIONS_MAX / 4)))
    }
}

impl PartSize {
    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A part of this size held its locks for so long.
    fn learn(&self, notifications: i64, locked: Duration) {
        self.0.store(size_after(self.get(), notifications, locked), Ordering::Relaxed);
    }
}

fn size_after(size: i64, notifications: i64, locked: Duration) -> i64 {
    if locked > LOCKED_MAX {
        (notifications.min(size) / 2).max(1)
    } else if locked < LOCKED_MAX / 2 && notifications >= size {
        (size * 2).min(NOTIFICATIONS_MAX)
    } else {
        size
    }
}

/// What was folded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folded {
    /// How many notifications.
    pub notifications: u64,
    /// Targets that have dirty rows by it, in the order of their ids.
    pub targets: Vec<TargetId>,
    /// Whether there is more: to be called again at once.
    pub is_behind: bool,
}

impl Folded {
    fn add(&mut self, part: Part) {
        self.notifications += part.notifications;
        self.targets.extend(part.marked.into_iter().map(|marked| marked.target));
    }
}

/// What one transaction folded.
struct Part {
    notifications: u64,
    marked: Vec<Marked>,
    is_full: bool,
}

/// A target whose rows were made dirty.
struct Marked {
    target: TargetId,
    /// When the first of them was due.
    due_at: DatabaseTime,
}

/// Blocks of one stream.
#[derive(Debug)]
struct Blocks {
    after: i64,
    through: i64,
    notifications: i64,
    has_columns: bool,
    is_full: bool,
}

impl Queue {
    /// Folds what was received and is not folded yet. Streams that another replica is folding are left to it.
    pub async fn fold(&self) -> Result<Folded, QueueError> {
        let mut folded = Folded::default();
        for stream in behind(&self.pool).await.map_err(QueueError::on("look for new blocks"))? {
            let is_behind =
                self.fold_stream(stream, &mut folded).await.map_err(QueueError::on("fold notifications"))?;
            folded.is_behind |= is_behind;
        }
        folded.targets.sort_unstable();
        folded.targets.dedup();
        Ok(folded)
    }

    /// Returns whether there is more.
    async fn fold_stream(&self, stream: i64, folded: &mut Folded) -> Result<bool, sqlx::Error> {
        let started = Instant::now();
        while started.elapsed() < TURN_MAX {
            let Some(part) = repeated(|| self.fold_part(stream)).await? else { return Ok(false) };
            let is_full = part.is_full;
            for marked in &part.marked {
                self.floors.add(marked.target, Priority::Live, marked.due_at);
            }
            folded.add(part);
            if !is_full {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Folds the next blocks of a stream in one transaction; `None` when there is none or another replica is at it.
    async fn fold_part(&self, stream: i64) -> Result<Option<Part>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        if !lock(&mut transaction, stream).await? {
            return Ok(None);
        }
        let Some(blocks) = next_blocks(&mut transaction, stream, self.part_size.get()).await? else { return Ok(None) };
        add_targets(&mut transaction, stream, &blocks).await?;
        let locked_since = Instant::now();
        let marked = mark_dirty(&mut transaction, stream, &blocks).await?;
        if blocks.has_columns {
            add_columns(&mut transaction, stream, &blocks).await?;
        }
        note_folded(&mut transaction, stream, &blocks).await?;
        Failpoint::FoldWritten.pass();
        transaction.commit().await?;
        Failpoint::Folded.pass();
        self.part_size.learn(blocks.notifications, locked_since.elapsed());
        let notifications = u64::try_from(blocks.notifications).unwrap_or_default();
        Ok(Some(Part { notifications, marked, is_full: blocks.is_full }))
    }
}

/// Streams with blocks that are not folded. Two look-ups in indexes for each, neither of which meets dead rows; written
/// so that the planner has no other choice.
async fn behind(pool: &PgPool) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select stream.id
             from nxt_mirror.stream as stream
            cross join lateral (select coalesce(max(fold.through_id), 0) as through_id
                                  from nxt_mirror.fold as fold where fold.stream_id = stream.id) as position
            cross join lateral (select block.stream_id from nxt_mirror.ledger_block as block
                                 where (block.stream_id, block.id) > (stream.id, position.through_id)
                                 order by block.stream_id, block.id limit 1) as next
            where next.stream_id = stream.id
            order by stream.id"#
    )
    .fetch_all(pool)
    .await
}

/// Locks a stream until the transaction ends, unless another one has it. What is lost with the server's last moments is
/// folded again, so nothing waits for the disk.
async fn lock(connection: &mut PgConnection, stream: i64) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query!(
        r#"select pg_try_advisory_xact_lock($1, hashint8($2)) as "is_locked!",
                  set_config('synchronous_commit', 'off', true) as "setting!""#,
        LOCK_CLASS,
        stream
    )
    .fetch_one(connection)
    .await?;
    Ok(locked.is_locked)
}

/// The blocks to fold next. A statement of its own, so that it sees what whoever held the lock before has committed.
async fn next_blocks(
    connection: &mut PgConnection,
    stream: i64,
    notifications_max: i64,
) -> Result<Option<Blocks>, sqlx::Error> {
    let blocks = sqlx::query_as!(
        Blocks,
        r#"with position as (
               select coalesce(max(through_id), 0) as after from nxt_mirror.fold where stream_id = $1
           ), next as (
               select block.id, cardinality(block.is_company) as size, cardinality(block.announced_columns) as columns
                 from nxt_mirror.ledger_block as block
                where (block.stream_id, block.id) > ($1, (select after from position)) and block.stream_id <= $1
                order by block.stream_id, block.id limit $2
           ), counted as (
               select id, size, columns, sum(size) over (order by id) as through_here, count(*) over () as found
                 from next
           )
           select (select after from position) as "after!", max(id) as "through!",
                  sum(size)::bigint as "notifications!", bool_or(columns > 0) as "has_columns!",
                  count(*) < max(found) or max(found) = $2 as "is_full!"
             from counted where through_here - size < $3
           having count(*) > 0"#,
        stream,
        BLOCKS_MAX,
        notifications_max
    )
    .fetch_optional(connection)
    .await?;
    Ok(blocks)
}

/// Makes targets of tenants' tables that were never heard of.
async fn add_targets(connection: &mut PgConnection, stream: i64, blocks: &Blocks) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"with entry as (
               select distinct case when entry.is_company then 'company' else 'customer' end as tenant_kind,
                      entry.tenant_no, entry.name as table_name, lower(entry.name collate "C") as folded_name
                 from nxt_mirror.ledger_block as block,
                      unnest(block.is_company, block.tenant_no, block.table_name) as entry (is_company, tenant_no, name)
                where block.stream_id = $1 and block.id > $2 and block.id <= $3
           )
           insert into nxt_mirror.target (tenant_kind, tenant_no, table_name)
           select entry.tenant_kind, entry.tenant_no, min(entry.table_name)
             from entry
            where not exists (
                  select from nxt_mirror.target as target
                   where target.tenant_kind = entry.tenant_kind and target.tenant_no = entry.tenant_no
                     and lower(target.table_name) = entry.folded_name)
            group by entry.tenant_kind, entry.tenant_no, entry.folded_name
            order by entry.tenant_kind collate "C", entry.tenant_no, entry.folded_name
           on conflict (tenant_kind, tenant_no, lower(table_name)) do nothing"#,
        stream,
        blocks.after,
        blocks.through
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Makes the rows dirty. Notifications of one row are taken together, with each other and with what waits already. A row
/// is due since it was received, so that rows are asked for by age, however many are folded at once.
async fn mark_dirty(connection: &mut PgConnection, stream: i64, blocks: &Blocks) -> Result<Vec<Marked>, sqlx::Error> {
    sqlx::query_as!(
        Marked,
        r#"with entry as materialized (
               select entry.is_company, entry.tenant_no, lower(entry.table_name collate "C") as folded_name,
                      entry.row_key, block.id * 1024 + entry.position - 1 as notification_id, block.received_at,
                      entry.event <> 'DELETE' as announces, entry.changed_at, entry.deleted_at
                 from nxt_mirror.ledger_block as block,
                      unnest(block.is_company, block.tenant_no, block.table_name, block.row_key, block.event,
                             block.changed_at, block.deleted_at) with ordinality
                          as entry (is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at, position)
                where block.stream_id = $1 and block.id > $2 and block.id <= $3
           ), named as materialized (
               select name.is_company, name.tenant_no, name.folded_name,
                      (select target.id from nxt_mirror.target as target
                        where target.tenant_kind = case when name.is_company then 'company' else 'customer' end
                          and target.tenant_no = name.tenant_no and lower(target.table_name) = name.folded_name)
                          as target_id
                 from (select distinct is_company, tenant_no, folded_name from entry) as name
           ), marked as (
               insert into nxt_mirror.dirty_row as dirty
                   (target_id, row_key, due_at, waiting_since, notification_id, deleted_at, delete_received_at, announced,
                    changed_at)
               select named.target_id, entry.row_key collate "C", min(entry.received_at), min(entry.received_at),
                      max(entry.notification_id), max(entry.deleted_at),
                      max(entry.received_at) filter (where entry.deleted_at is not null), bool_or(entry.announces),
                      case when not bool_or(entry.announces and entry.changed_at is null) then max(entry.changed_at) end
                 from entry join named using (is_company, tenant_no, folded_name)
                group by named.target_id, entry.row_key collate "C"
                order by named.target_id, entry.row_key collate "C"
               on conflict on constraint dirty_row_pkey do update set
                   generation = excluded.generation,
                   priority = 0,
                   -- One that failed keeps its pause.
                   due_at = case when dirty.attempts = 0 then least(dirty.due_at, excluded.due_at) else dirty.due_at end,
                   notification_id = greatest(dirty.notification_id, excluded.notification_id),
                   deleted_at = greatest(dirty.deleted_at, excluded.deleted_at),
                   delete_received_at = greatest(dirty.delete_received_at, excluded.delete_received_at),
                   announced = dirty.announced or excluded.announced,
                   changed_at = case
                       when not dirty.announced then excluded.changed_at
                       when not excluded.announced then dirty.changed_at
                       when dirty.changed_at is null or excluded.changed_at is null then null
                       else greatest(dirty.changed_at, excluded.changed_at)
                   end,
                   found_rechecks = 0,
                   missing_rechecks = 0
               returning dirty.target_id, dirty.due_at
           )
           select target_id as "target!: _", min(due_at) as "due_at!: _" from marked group by target_id"#,
        stream,
        blocks.after,
        blocks.through
    )
    .fetch_all(connection)
    .await
}

/// Remembers the columns that the blocks announce.
async fn add_columns(connection: &mut PgConnection, stream: i64, blocks: &Blocks) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"insert into nxt_mirror.announced_column (table_name, column_name)
           select distinct split_part(name, '.', 1) collate "C" as table_name,
                  split_part(name, '.', 2) collate "C" as column_name
             from nxt_mirror.ledger_block as block, unnest(block.announced_columns) as name
            where block.stream_id = $1 and block.id > $2 and block.id <= $3
            order by table_name, column_name
           on conflict on constraint announced_column_pkey do nothing"#,
        stream,
        blocks.after,
        blocks.through
    )
    .execute(connection)
    .await
    .map(drop)
}

/// Remembers how far the stream is folded.
async fn note_folded(connection: &mut PgConnection, stream: i64, blocks: &Blocks) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into nxt_mirror.fold (stream_id, through_id) values ($1, $2)", stream, blocks.through)
        .execute(connection)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_shrinks_until_it_locks_rows_for_a_moment_and_grows_back() {
        let after = |size, notifications, millis| size_after(size, notifications, Duration::from_millis(millis));
        assert_eq!(after(20_000, 20_300, 4_000), 10_000);
        assert_eq!(after(20_000, 900, 4_000), 450, "one that was small and slow");
        assert_eq!(after(1, 1_024, 4_000), 1, "a block is the least");
        assert_eq!(after(600, 700, 250), 600);
        assert_eq!(after(600, 700, 100), 1_200);
        assert_eq!(after(600, 20, 1), 600, "one that was not full tells nothing");
        assert_eq!(after(15_000, 15_000, 100), 20_000);
    }
}
