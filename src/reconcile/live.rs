//! Claimed rows: settled by what was seen of them, their dirty rows cleared in the same transaction.

use std::collections::HashMap;

use chrono::Duration;
use sqlx::PgConnection;

use super::{
    REPEATS_MAX, ReconcileError, Writer,
    verdicts::{Case, Seen, Subject, applied, canonical},
};
use crate::{
    domain::{
        DatabaseTime, Owner, Row, RowKey, TargetTable,
        isolate::{Limits, isolate_in_turn},
        settle::{Reason, Then, Verdict},
    },
    failpoint::Failpoint,
    queue::{self, DirtyRow, Journal, Outcome, SyncAction, SyncEntry},
    telemetry::STORY,
};

/// A claimed row in its table's own terms, with what was seen of it.
#[derive(Debug)]
pub struct Item {
    /// As it was claimed.
    pub claimed: DirtyRow,
    /// Its key.
    pub key: RowKey,
    /// Start of the request that saw it and the row, if there is one; `None` where the source was not asked.
    pub seen: Option<(DatabaseTime, Option<Row>)>,
}

/// How many rows were settled, by what was done.
pub type Tally = HashMap<SyncAction, u64>;

impl Item {
    fn found(&self) -> Option<&Row> {
        self.seen.as_ref().and_then(|(_, row)| row.as_ref())
    }

    fn subject(&self) -> Subject<'_> {
        let seen = match &self.seen {
            None => Seen::Nothing,
            Some((started_at, Some(row))) => Seen::Found(row, *started_at),
            Some((started_at, None)) => Seen::Missing(*started_at),
        };
        Subject { asked: &self.key, seen, claimed: Some(&self.claimed) }
    }
}

impl Writer {
    /// Settles items of one target. Nothing of it is written when it fails.
    pub async fn settle(&self, target: &TargetTable, items: &[Item]) -> Result<Tally, ReconcileError> {
        if items.is_empty() {
            return Ok(Tally::new());
        }
        let mut repeats = 0;
        loop {
            match self.settle_once(target, items).await {
                Err(error) if error.is_passing() && repeats < REPEATS_MAX => repeats += 1,
                result => return result,
            }
        }
    }

    async fn settle_once(&self, target: &TargetTable, items: &[Item]) -> Result<Tally, ReconcileError> {
        self.meet(target, items.iter().filter_map(Item::found)).await;
        let mut transaction = self.begin().await?;
        self.mirror.lock(&mut transaction, target).await?;
        Failpoint::ApplyLocked.pass();
        let subjects = items.iter().map(Item::subject).collect();
        let mut cases = self.judge(&mut transaction, target, subjects).await?;
        let mut journal = Journal::default();
        self.carry_out(&mut transaction, target, &mut cases, &mut journal).await?;
        let tally = conclude(&mut transaction, target, items, &cases, &mut journal).await?;
        Failpoint::ApplyWritten.pass();
        self.commit(transaction, target, journal).await?;
        Failpoint::Applied.pass();
        tell(target, &cases);
        Ok(tally)
    }
}

/// The daemon's own tables: health, dirty rows, dead letters; and lines of the sync log.
async fn conclude(
    connection: &mut PgConnection,
    target: &TargetTable,
    items: &[Item],
    cases: &[Case<'_>],
    journal: &mut Journal,
) -> Result<Tally, ReconcileError> {
    let (mut tally, mut outcomes, mut cleared) = (Tally::new(), vec![], vec![]);
    for (item, case) in items.iter().zip(cases) {
        *tally.entry(case.action()).or_default() += 1;
        journal.log(case.entry(target, reason(case).to_string()));
        let outcome = outcome(case);
        if outcome == Outcome::Done {
            cleared.extend(canonical(&item.key, target).into_iter().chain([item.claimed.row_key.to_string()]));
        }
        outcomes.push((&item.claimed, outcome));
    }
    queue::dead_letter::clear_dead(connection, target.id, &cleared).await?;
    let started_at = cases.iter().filter_map(|case| case.started_at()).min();
    queue::settle(connection, target.id, &outcomes, started_at).await?;
    let is_notified = items.iter().any(|item| item.claimed.notification_id.is_some());
    queue::note_applied(connection, target.id, applied(cases, is_notified)).await?;
    Ok(tally)
}

/// What became of each notification.
fn tell(target: &TargetTable, cases: &[Case<'_>]) {
    if !tracing::enabled!(target: STORY, tracing::Level::DEBUG) {
        return;
    }
    for entry in cases.iter().map(|case| case.entry(target, reason(case).to_string())) {
        let SyncEntry { key_json, action, reason, notification_id, .. } = entry;
        let (tenant, table, action) = (target.tenant, &target.table.name, action.name());
        let id = notification_id.map(|id| format!(" (notification {id})")).unwrap_or_default();
        tracing::debug!(
            target: STORY, %tenant, %table, key = key_json, action, reason, notification_id,
            "{tenant}  {table}  {key_json}  {action}: {reason}{id}"
        );
    }
}

fn reason(case: &Case<'_>) -> Reason {
    match case.verdict {
        Verdict::Write { reason, .. } | Verdict::Remove { reason, .. } | Verdict::Keep { reason, .. } => reason,
        // The deletion that was certain is no longer: another notification has come.
        Verdict::Fetch => Reason::DeletedMeanwhile,
    }
}

fn outcome(case: &Case<'_>) -> Outcome {
    match case.verdict {
        Verdict::Remove { .. }
        | Verdict::Write { then: Then::Settled, .. }
        | Verdict::Keep { then: Then::Settled, .. } => Outcome::Done,
        Verdict::Write { then: Then::Recheck { pause, counts }, .. }
        | Verdict::Keep { then: Then::Recheck { pause, counts }, .. } => Outcome::Recheck { pause, counts },
        Verdict::Fetch => Outcome::Recheck { pause: Duration::zero(), counts: None },
    }
}

/// What came of items of one target.
#[derive(Debug, Default)]
pub struct Settled {
    /// Rows by what was done.
    pub tally: Tally,
    /// Rows that do not fit by themselves, and why.
    pub culprits: Vec<(Item, String)>,
}

/// Transactions of one search for rows that do not fit: parts of one attempt, attempts in all.
const SEARCH: Limits = Limits::new(8, 64);
/// So many rows that all fail alone are not to blame: their target is.
const ALL_AT_FAULT: usize = 20;

impl Writer {
    /// Settles items of one target; rows that do not fit together are settled in ever smaller parts, until the culprits
    /// stand alone. An error is about all of them, and what is not settled by then is as it was.
    pub async fn settle_apart(&self, target: &TargetTable, items: Vec<Item>) -> Result<Settled, ReconcileError> {
        let error = match self.settle(target, &items).await {
            Ok(tally) => return Ok(Settled { tally, culprits: vec![] }),
            Err(error) => error,
        };
        let count = items.len();
        let settle = |part: Vec<Item>| async move {
            let settled = self.settle(target, &part).await;
            (part, settled)
        };
        let found = isolate_in_turn(items, error, SEARCH, settle, reason_of_rows).await?;
        if found.culprits.len() == count && count >= ALL_AT_FAULT {
            let reason = found.culprits.into_iter().next().map(|(_, reason)| reason).unwrap_or_default();
            return Err(ReconcileError::NoRowFits { reason });
        }
        Ok(Settled { tally: sum(found.done), culprits: found.culprits })
    }
}

/// Why rows are to blame for an error; `None` where they are not.
fn reason_of_rows(error: &ReconcileError) -> Option<String> {
    let diagnosis = error.diagnose();
    (diagnosis.owner == Owner::Row).then_some(diagnosis.reason)
}

fn sum(tallies: Vec<Tally>) -> Tally {
    let mut sum = Tally::new();
    for (action, count) in tallies.into_iter().flatten() {
        *sum.entry(action).or_default() += count;
    }
    sum
}
