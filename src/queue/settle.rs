//! Taking verdicts back, inside the transaction that applies them.

use std::collections::HashMap;

use chrono::Duration;
use sqlx::{PgConnection, Row, types::Uuid};

use super::{
    QueueError,
    claim::{self, Claimed, Priority},
};
use crate::domain::{RowHint, TableName, Tenant, Time, settle::Evidence};

/// Joins a statement to the rows of a batch.
const SAME_ROW: &str = "(d.tenant_kind, d.tenant_no, d.table_name, d.row_key)
                      = (i.tenant_kind, i.tenant_no, i.table_name, i.row_key)";

/// A row under lock in the transaction at hand.
#[derive(Debug, Clone)]
pub struct Locked {
    /// Position in the batch that was to be locked.
    pub index: usize,
    /// The row as it stands now, with all that came since it was claimed.
    pub now: Claimed,
}

/// Whose failure a failure is, and the how-manieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureOf {
    /// Perhaps the row's own.
    Row(u32),
    /// Its table's or its tenant's.
    Lane(u32),
}

/// What becomes of a claimed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Settled, if its generation is still this one; otherwise due at once.
    Done {
        /// The generation that was settled.
        generation: i64,
    },
    /// Due again after a pause.
    LookAgain {
        /// How long.
        pause: Duration,
    },
    /// Given back untried.
    Release {
        /// How long until it is due; without a pause it is due at once, in its place by age.
        pause: Duration,
    },
    /// Failed, due again after a pause.
    Fail {
        /// Whose failure it is.
        of: FailureOf,
        /// How long.
        pause: Duration,
        /// Why.
        error: String,
    },
    /// Set aside in the dead letters, if its generation is still this one; otherwise due at once.
    Bury {
        /// The generation that failed.
        generation: i64,
        /// Why.
        reason: String,
        /// Whether nothing of its table could be read, so that it is tried again by itself when something can.
        of_lane: bool,
    },
}

/// What was done to a row, as stored in the sync log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncAction {
    /// The row is new in the mirror.
    Inserted,
    /// The row changed.
    Updated,
    /// The row was as the source has it.
    Unchanged,
    /// The row was removed.
    Deleted,
    /// The row was not there to be removed.
    AlreadyAbsent,
    /// A notification was about an earlier life of the row.
    Stale,
    /// Nothing certain yet.
    LookAgain,
    /// The fetch failed.
    Failed,
    /// Set aside.
    DeadLetter,
    /// Outside what is to be mirrored.
    Ignored,
}

impl SyncAction {
    /// The name in the database and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inserted => "inserted",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::AlreadyAbsent => "already_absent",
            Self::Stale => "stale",
            Self::LookAgain => "look_again",
            Self::Failed => "failed",
            Self::DeadLetter => "dead_letter",
            Self::Ignored => "ignored",
        }
    }
}

/// One line of the sync log.
#[derive(Debug, Clone)]
pub struct SyncEntry {
    /// The row.
    pub hint: RowHint,
    /// What was done.
    pub action: SyncAction,
    /// Why.
    pub reason: String,
    /// The notification that led to it.
    pub notification_id: Option<i64>,
    /// The source's change time of the row, where known.
    pub source_changed_at: Option<Time>,
    /// When the request started, where there was one.
    pub fetch_started_at: Option<Time>,
}

/// The identities of a batch, column by column.
struct Rows {
    kinds: Vec<&'static str>,
    numbers: Vec<i64>,
    tables: Vec<String>,
    keys: Vec<String>,
}

impl Rows {
    fn of<'a>(hints: impl IntoIterator<Item = &'a RowHint>) -> Self {
        let mut rows = Self { kinds: vec![], numbers: vec![], tables: vec![], keys: vec![] };
        for hint in hints {
            rows.kinds.push(hint.tenant.kind());
            rows.numbers.push(hint.tenant.number());
            rows.tables.push(hint.table.to_string());
            rows.keys.push(hint.key.canonical());
        }
        rows
    }
}

/// Binds the four columns of [`Rows`] as `$1` to `$4`.
macro_rules! query_rows {
    ($sql:expr, $rows:expr) => {
        sqlx::query(sqlx::AssertSqlSafe($sql)).bind($rows.kinds).bind($rows.numbers).bind($rows.tables).bind($rows.keys)
    };
}

/// Locks the rows that are still leased to `claim_id`, in the order of their keys, and reads them again. A row that
/// is missing from the answer was lost to another worker: its result must be dropped.
pub async fn lock(
    connection: &mut PgConnection,
    claim_id: Uuid,
    hints: &[&RowHint],
) -> Result<Vec<Locked>, QueueError> {
    let sql = format!(
        "select d.*, i.position
           from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) with ordinality
                as i (tenant_kind, tenant_no, table_name, row_key, position)
           join nxt_mirror.dirty_row d on {SAME_ROW}
          where d.claim_id = $5
          order by d.tenant_kind, d.tenant_no, d.table_name, d.row_key
            for update of d"
    );
    let rows = query_rows!(sql, Rows::of(hints.iter().copied()))
        .bind(claim_id)
        .fetch_all(connection)
        .await
        .map_err(QueueError::on("lock claimed rows"))?;
    rows.iter()
        .map(|row| {
            let position: i64 = row.try_get("position")?;
            let index = usize::try_from(position - 1).map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok(Locked { index, now: claim::read(row)? })
        })
        .collect::<Result<_, _>>()
        .map_err(QueueError::on("read locked rows"))
}

/// Writes the outcomes of rows that [`lock`] has locked.
pub async fn settle(connection: &mut PgConnection, outcomes: &[(&RowHint, Outcome)]) -> Result<(), QueueError> {
    let (mut finished, mut buried, mut waiting) = (vec![], vec![], vec![]);
    for (hint, outcome) in outcomes {
        match outcome {
            Outcome::Done { generation } => finished.push((*hint, *generation)),
            Outcome::Bury { generation, reason, of_lane } => {
                finished.push((*hint, *generation));
                buried.push(Buried { hint, generation: *generation, reason, of_lane: *of_lane });
            }
            Outcome::LookAgain { pause } => waiting.push(Waiting { hint, pause: *pause, looks: 1, failure: None }),
            Outcome::Release { pause } => waiting.push(Waiting { hint, pause: *pause, looks: 0, failure: None }),
            Outcome::Fail { of, pause, error } => {
                waiting.push(Waiting { hint, pause: *pause, looks: 0, failure: Some((*of, error)) });
            }
        }
    }
    bury(connection, &buried).await?;
    finish(connection, &finished).await?;
    wait(connection, &waiting).await
}

/// A row to set aside.
struct Buried<'a> {
    hint: &'a RowHint,
    generation: i64,
    reason: &'a str,
    of_lane: bool,
}

/// Copies rows to the dead letters, with their evidence, so that a retry knows as much as the first try did.
async fn bury(connection: &mut PgConnection, rows: &[Buried<'_>]) -> Result<(), QueueError> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "insert into nxt_mirror.dead_letter as l
             (kind, reason, attempts, first_at, last_at, tenant_kind, tenant_no, table_name, row_key, notification_id,
              deleted_at, delete_received_at, announced, changed_at, of_lane)
         select 'row', i.reason, d.attempts + d.lane_failures + 1, now(), now(), d.tenant_kind, d.tenant_no, d.table_name, d.row_key,
                d.notification_id, d.deleted_at, d.delete_received_at, d.announced, d.changed_at, i.of_lane
           from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::boolean[])
                as i (tenant_kind, tenant_no, table_name, row_key, generation, reason, of_lane)
           join nxt_mirror.dirty_row d on {SAME_ROW} and d.generation = i.generation
         on conflict (tenant_kind, tenant_no, table_name, row_key) where kind = 'row' do update set
             reason = excluded.reason, attempts = l.attempts + excluded.attempts, last_at = excluded.last_at,
             notification_id = excluded.notification_id, announced = l.announced or excluded.announced,
             deleted_at = greatest(l.deleted_at, excluded.deleted_at),
             delete_received_at = greatest(l.delete_received_at, excluded.delete_received_at),
             changed_at = greatest(l.changed_at, excluded.changed_at), of_lane = excluded.of_lane"
    );
    query_rows!(sql, Rows::of(rows.iter().map(|row| row.hint)))
        .bind(rows.iter().map(|row| row.generation).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.reason).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.of_lane).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(QueueError::on("write dead letters"))?;
    Ok(())
}

/// Removes the letters of rows that have come right: what was set aside is no longer so.
pub async fn absolve(connection: &mut PgConnection, hints: &[&RowHint]) -> Result<(), QueueError> {
    if hints.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "delete from nxt_mirror.dead_letter d
          using unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
                as i (tenant_kind, tenant_no, table_name, row_key)
          where d.kind = 'row' and {SAME_ROW}"
    );
    query_rows!(sql, Rows::of(hints.iter().copied()))
        .execute(connection)
        .await
        .map(drop)
        .map_err(QueueError::on("remove letters of rows that came right"))
}

/// Removes rows whose generation has not moved; the others are due at once, with a clean record.
async fn finish(connection: &mut PgConnection, rows: &[(&RowHint, i64)]) -> Result<(), QueueError> {
    if rows.is_empty() {
        return Ok(());
    }
    let input = "unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
                 as i (tenant_kind, tenant_no, table_name, row_key, generation)";
    let delete =
        format!("delete from nxt_mirror.dirty_row d using {input} where {SAME_ROW} and d.generation = i.generation");
    let renew = format!(
        "update nxt_mirror.dirty_row d
            set claim_id = null, due_at = now(), attempts = 0, lane_failures = 0, last_failed_at = null,
                last_error = null
           from {input}
          where {SAME_ROW} and d.generation <> i.generation"
    );
    let generations: Vec<_> = rows.iter().map(|(_, generation)| *generation).collect();
    for sql in [delete, renew] {
        query_rows!(sql, Rows::of(rows.iter().map(|(hint, _)| *hint)))
            .bind(&generations)
            .execute(&mut *connection)
            .await
            .map_err(QueueError::on("clear settled rows"))?;
    }
    Ok(())
}

/// A row to give back.
struct Waiting<'a> {
    hint: &'a RowHint,
    pause: Duration,
    looks: i32,
    /// Whose failure, and why.
    failure: Option<(FailureOf, &'a str)>,
}

/// Gives rows back. An answer, even an inconclusive one, ends the failures.
async fn wait(connection: &mut PgConnection, rows: &[Waiting<'_>]) -> Result<(), QueueError> {
    if rows.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "update nxt_mirror.dirty_row d
            set claim_id = null,
                due_at = case when i.pause > 0 then now() + make_interval(secs => i.pause) else d.waiting_since end,
                looks = d.looks + i.looks,
                attempts = coalesce(i.attempts, case when i.looks > 0 then 0 else d.attempts end),
                lane_failures = coalesce(i.lane_failures, case when i.looks > 0 then 0 else d.lane_failures end),
                last_failed_at = case when i.error is not null then now() else d.last_failed_at end,
                last_error = coalesce(i.error, d.last_error)
           from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::float8[], $6::int[], $7::int[], $8::int[],
                       $9::text[])
                as i (tenant_kind, tenant_no, table_name, row_key, pause, looks, attempts, lane_failures, error)
          where {SAME_ROW}"
    );
    let count = |of: fn(FailureOf) -> Option<u32>| -> Vec<Option<i32>> {
        let count = |row: &Waiting<'_>| row.failure.and_then(|(failure, _)| of(failure)).map(u32::cast_signed);
        rows.iter().map(count).collect()
    };
    query_rows!(sql, Rows::of(rows.iter().map(|row| row.hint)))
        .bind(rows.iter().map(|row| row.pause.as_seconds_f64()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.looks).collect::<Vec<_>>())
        .bind(count(|failure| if let FailureOf::Row(count) = failure { Some(count) } else { None }))
        .bind(count(|failure| if let FailureOf::Lane(count) = failure { Some(count) } else { None }))
        .bind(rows.iter().map(|row| row.failure.map(|(_, error)| error)).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(QueueError::on("give rows back"))?;
    Ok(())
}

/// Which kinds of evidence there are of a table of a tenant, so that what is not there need not be read row by row.
#[derive(Debug, Clone, Copy)]
pub struct HasEvidence {
    /// Whether any row of it waits.
    pub of_notifications: bool,
    /// Whether any deletion of a row of it is remembered.
    pub of_deletions: bool,
}

/// Looks for evidence of a table. Holds as long as the table is locked: both are written under that lock, but for
/// notifications, which say at their next look what a page could not know.
pub async fn has_evidence(
    connection: &mut PgConnection,
    tenant: Tenant,
    table: &TableName,
) -> Result<HasEvidence, QueueError> {
    let (of_notifications, of_deletions) = sqlx::query_as(
        "select exists (select from nxt_mirror.dirty_row where (tenant_kind, tenant_no, table_name) = ($1, $2, $3)),
                exists (select from nxt_mirror.tombstone where (tenant_kind, tenant_no, table_name) = ($1, $2, $3))",
    )
    .bind(tenant.kind())
    .bind(tenant.number())
    .bind(table.as_str())
    .fetch_one(connection)
    .await
    .map_err(QueueError::on("look for evidence"))?;
    Ok(HasEvidence { of_notifications, of_deletions })
}

/// What unsettled notifications say of these rows, for those that have any.
pub async fn waiting<'a>(
    connection: &mut PgConnection,
    hints: impl IntoIterator<Item = &'a RowHint>,
) -> Result<HashMap<RowHint, Evidence>, QueueError> {
    let rows = Rows::of(hints);
    let sql = format!(
        "select d.* from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
                as i (tenant_kind, tenant_no, table_name, row_key)
           join nxt_mirror.dirty_row d on {SAME_ROW}"
    );
    let rows = query_rows!(sql, rows).fetch_all(connection).await.map_err(QueueError::on("read waiting rows"))?;
    rows.iter()
        .map(|row| claim::read(row).map(|waiting| (waiting.hint, waiting.evidence)))
        .collect::<Result<_, _>>()
        .map_err(QueueError::on("read waiting rows"))
}

/// Notes that a table of a tenant was just looked after: whether a row of it was changed, and whether a notification had
/// led to it, which ends a silence.
pub async fn note_applied(
    connection: &mut PgConnection,
    tenant: Tenant,
    table: &TableName,
    is_changed: bool,
    is_notified: bool,
) -> Result<(), QueueError> {
    sqlx::query(
        "insert into nxt_mirror.mirrored_tenant as t
             (tenant_kind, tenant_no, table_name, last_applied_at, last_notified_at)
         values ($1, $2, $3, case when $4 then now() end, case when $5 then now() end)
         on conflict on constraint mirrored_tenant_pkey do update set
             last_applied_at = coalesce(excluded.last_applied_at, t.last_applied_at),
             last_notified_at = greatest(t.last_notified_at, excluded.last_notified_at),
             silent_since = case when excluded.last_notified_at > t.silent_since then null else t.silent_since end",
    )
    .bind(tenant.kind())
    .bind(tenant.number())
    .bind(table.as_str())
    .bind(is_changed)
    .bind(is_notified)
    .execute(connection)
    .await
    .map(drop)
    .map_err(QueueError::on("note what was applied"))
}

/// Marks rows dirty on our own account: no notification announces anything about them.
pub async fn mark(connection: &mut PgConnection, hints: &[RowHint], priority: Priority) -> Result<(), QueueError> {
    if hints.is_empty() {
        return Ok(());
    }
    let sql = "insert into nxt_mirror.dirty_row as d
             (tenant_kind, tenant_no, table_name, row_key, priority, due_at, waiting_since, announced)
         select distinct on (tenant_kind, tenant_no, table_name, row_key)
                tenant_kind, tenant_no, table_name, row_key, $5, now(), now(), false
           from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])
                as i (tenant_kind, tenant_no, table_name, row_key)
          order by tenant_kind, tenant_no, table_name, row_key
         on conflict on constraint dirty_row_pkey do update set generation = d.generation + 1";
    query_rows!(sql, Rows::of(hints))
        .bind(priority.code())
        .execute(connection)
        .await
        .map_err(QueueError::on("mark rows dirty"))?;
    Ok(())
}

/// Appends to the sync log.
pub async fn log(connection: &mut PgConnection, entries: &[SyncEntry]) -> Result<(), QueueError> {
    if entries.is_empty() {
        return Ok(());
    }
    let sql = "insert into nxt_mirror.sync_log
             (tenant_kind, tenant_no, table_name, row_key, action, reason, notification_id, source_changed_at,
              fetch_started_at)
         select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                              $8::timestamptz[], $9::timestamptz[])";
    query_rows!(sql, Rows::of(entries.iter().map(|entry| &entry.hint)))
        .bind(entries.iter().map(|entry| entry.action.name()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.reason.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.notification_id).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.source_changed_at).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.fetch_started_at).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map_err(QueueError::on("write the sync log"))?;
    Ok(())
}
