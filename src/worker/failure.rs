//! What becomes of rows without an answer, and of targets that give none.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{request::Work, schedule::Worker};
use crate::{
    domain::{
        Diagnosis, Owner, RowKey, TargetTable, backoff,
        isolate::{Limits, Trial, isolate},
    },
    queue::{self, Claim, DirtyRow, Journal, Outcome, QueueError, SyncAction, SyncEntry, dead_letter, target},
    reconcile::Tally,
    telemetry::chain,
    upstream::{Ask, AskError, Share, Sight, UpstreamError, diagnose, diagnose_part},
};

/// Failures of a row by itself before it is set aside.
const ROW_FAILURES_MAX: u32 = 4;
/// Failures of a whole target, one after the other, before its rows are set aside.
const TARGET_FAILURES_MAX: u32 = 5;
/// Rows of a target that are set aside at once.
const SET_ASIDE_MAX: i64 = 5_000;
/// Rows that come back at once from the dead letters when their target can be read again.
const REQUEUED_MAX: i64 = 200;
/// The first pause of a row, and the longest.
const ROW_PAUSE: Duration = Duration::from_secs(1);
const ROW_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The first pause of a target, and the longest.
const TARGET_PAUSE: Duration = Duration::from_secs(1);
const TARGET_PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long a target is left alone whose table is locked or is looked at again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// How long a deletion waits that only the source can judge, while the API is away.
const AWAY_PAUSE: chrono::Duration = chrono::Duration::seconds(5);
/// Parts of one request in a search for culprits, and requests of one search.
const SEARCH: Limits = Limits::new(64, 40);

/// Who is to blame for rows that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Each row itself: others of its target are well.
    Row,
    /// No row of the target could be read.
    Target,
    /// The same, and so often that its rows are set aside.
    TargetGivenUp,
}

/// Whether the rows of a target are set aside when it fails once more.
fn is_last_try(failures: u32) -> bool {
    failures + 1 >= TARGET_FAILURES_MAX
}

impl Worker {
    /// A request failed as a whole.
    pub(super) async fn request_failed(&self, mut works: Vec<Work>, error: &UpstreamError, share: Share) {
        let diagnosis = self.parts.upstream.examine(error).await;
        tracing::warn!(error = diagnosis.reason, owner = ?diagnosis.owner, targets = works.len(), "request failed");
        let until = Instant::now() + diagnosis.pause.unwrap_or(BUSY_PAUSE);
        match diagnosis.owner {
            // Everybody waits, for the end of its pause or until it answers a probe.
            Owner::Api => return,
            Owner::Tenant => {
                return works.iter().for_each(|work| self.places.pause_tenant(work.target().tenant, until));
            }
            Owner::Database => return works.iter().for_each(|work| self.places.pause(work.target().id, until)),
            Owner::Row | Owner::Target | Owner::Schema => {}
        }
        if works.len() > 1 {
            self.places.set_apart(works.iter().map(|work| work.target().id), Instant::now());
        } else if let Some(work) = works.pop() {
            self.alone_failed(work, diagnosis, share).await;
        }
    }

    /// One target's part of an answer failed.
    pub(super) async fn part_failed(&self, work: Work, error: &AskError, share: Share) {
        let diagnosis = diagnose_part(error);
        tracing::debug!(target = %work.table, error = diagnosis.reason, "a part of an answer failed");
        match diagnosis.owner {
            Owner::Tenant | Owner::Api => {
                let until = Instant::now() + diagnosis.pause.unwrap_or(BUSY_PAUSE);
                self.places.pause_tenant(work.target().tenant, until);
            }
            Owner::Row | Owner::Target | Owner::Schema | Owner::Database => {
                self.alone_failed(work, diagnosis, share).await;
            }
        }
    }

    /// What failed is one target's: its description, the target itself, or some of its rows.
    async fn alone_failed(&self, work: Work, diagnosis: Diagnosis, share: Share) {
        if diagnosis.owner == Owner::Schema {
            self.tables.misdescribed(work.target());
            return self.target_failed(&work, &diagnosis.reason).await;
        }
        match self.parts.upstream.probe_table(&work.ask()).await {
            // It answers a question that no row does: some row is to blame.
            Ok(Ok(())) => self.isolate(work, diagnosis, share).await,
            Ok(Err(error)) if diagnose_part(&error).owner == Owner::Tenant => {}
            Ok(Err(error)) => self.target_failed(&work, &error.to_string()).await,
            Err(error) => match self.parts.upstream.examine(&error).await.owner {
                Owner::Database | Owner::Tenant | Owner::Api => {}
                Owner::Row | Owner::Target | Owner::Schema => self.target_failed(&work, &diagnosis.reason).await,
            },
        }
    }

    /// Asks for the rows in ever smaller parts until the culprits stand alone, and settles the others.
    async fn isolate(&self, mut work: Work, diagnosis: Diagnosis, share: Share) {
        let rows = std::mem::take(&mut work.rows);
        let asked = rows.len();
        let limits = SEARCH.among_suspects(work.is_of_suspects());
        let found = isolate(rows, diagnosis, limits, |parts| self.ask_apart(&work.table, parts, share)).await;
        let good: Vec<_> = found.done.into_iter().flatten().collect();
        let unresolved: usize = found.unresolved.iter().map(|(rows, _)| rows.len()).sum();
        tracing::info!(
            target = %work.table, asked, good = good.len(), failed = found.culprits.len(), unresolved,
            requests = found.attempts, "rows that failed together were asked for apart"
        );
        let culprits = found.culprits.into_iter().map(|((row, _), diagnosis)| (row, diagnosis.reason)).collect();
        // Neither one row alone nor rows that failed before say anything of their target, unless others failed before
        // them and none has gone well since.
        let are_telling = asked > 1 && !work.is_of_suspects();
        work.failures = self.failures_by_now(&work).await;
        let are_all_bad = good.is_empty() && (are_telling || work.failures > 0);
        let blame = match (are_all_bad, is_last_try(work.failures)) {
            (false, _) => Blame::Row,
            (true, false) => Blame::Target,
            (true, true) => Blame::TargetGivenUp,
        };
        self.rows_failed(&work.table, culprits, blame).await;
        if are_all_bad {
            self.target_failed(&work, "no row of the last request could be read").await;
        }
        let (rows, sights): (Vec<_>, Vec<_>) = good.into_iter().unzip();
        work.rows = rows;
        if !sights.is_empty() {
            self.take(work, sights, Duration::ZERO).await;
        }
    }

    /// One request with a part for each of these groups of rows.
    async fn ask_apart(
        &self,
        table: &TargetTable,
        parts: Vec<Vec<Keyed>>,
        share: Share,
    ) -> Vec<Trial<Keyed, Vec<(Keyed, Sight)>, Diagnosis>> {
        let ask = |part: &Vec<Keyed>| Ask {
            tenant: table.tenant,
            table: table.table.clone(),
            keys: part.iter().map(|(_, key)| key.clone()).collect(),
        };
        let asks: Vec<Ask> = parts.iter().map(ask).collect();
        let answers = match self.parts.upstream.fetch(&asks, share).await {
            Ok(answers) => answers,
            Err(error) if parts.len() == 1 => return vec![self.tried(parts, &error).await],
            // A row fails the whole request, whatever its part: each part has a request of its own.
            Err(error) if self.is_of_rows(&error).await => return self.ask_one_by_one(table, parts, share).await,
            Err(error) => {
                let diagnosis = diagnose(&error);
                return parts.into_iter().map(|items| Trial::Stopped { items, error: diagnosis.clone() }).collect();
            }
        };
        let trials = parts.into_iter().zip(answers).map(|(items, answer)| match answer {
            Ok(sights) => Trial::Done(items.into_iter().zip(sights).collect()),
            Err(error) => Trial::Failed { items, error: diagnose_part(&error) },
        });
        trials.collect()
    }

    async fn ask_one_by_one(
        &self,
        table: &TargetTable,
        parts: Vec<Vec<Keyed>>,
        share: Share,
    ) -> Vec<Trial<Keyed, Vec<(Keyed, Sight)>, Diagnosis>> {
        let mut trials = vec![];
        for part in parts {
            trials.extend(Box::pin(self.ask_apart(table, vec![part], share)).await);
        }
        trials
    }

    /// What the failure of a request says of its only part.
    async fn tried(
        &self,
        parts: Vec<Vec<Keyed>>,
        error: &UpstreamError,
    ) -> Trial<Keyed, Vec<(Keyed, Sight)>, Diagnosis> {
        let items = parts.into_iter().flatten().collect();
        match self.is_of_rows(error).await {
            true => Trial::Failed { items, error: diagnose(error) },
            false => Trial::Stopped { items, error: diagnose(error) },
        }
    }

    /// Whether rows can be to blame for the failure of a request.
    async fn is_of_rows(&self, error: &UpstreamError) -> bool {
        matches!(self.parts.upstream.examine(error).await.owner, Owner::Row | Owner::Target)
    }

    /// A statement on a target's mirrored table failed.
    pub(super) async fn mirror_failed(&self, work: &Work, diagnosis: &Diagnosis) {
        let pause = Instant::now() + diagnosis.pause.unwrap_or(BUSY_PAUSE);
        match diagnosis.owner {
            Owner::Target if diagnosis.pause.is_some() => self.target_busy(work, diagnosis).await,
            Owner::Schema => {
                self.parts.mirror.forget(&work.table.table);
                self.tables.outdated(work.target());
                self.target_failed(work, &diagnosis.reason).await;
            }
            Owner::Row | Owner::Target | Owner::Tenant => self.target_failed(work, &diagnosis.reason).await,
            Owner::Database | Owner::Api => self.places.pause(work.target().id, pause),
        }
    }

    /// The mirrored table is locked by somebody: the rows wait, and none is to blame.
    async fn target_busy(&self, work: &Work, diagnosis: &Diagnosis) {
        let pause = diagnosis.pause.unwrap_or(BUSY_PAUSE);
        self.places.pause(work.target().id, Instant::now() + pause);
        let (target, failures) = (work.target().id, work.failures);
        note(target::pause(&self.parts.pool, target, failures, pause, &diagnosis.reason).await);
    }

    /// Nothing of the target could be read or written. After some failures its rows are set aside; they come back by
    /// themselves when something can.
    async fn target_failed(&self, work: &Work, reason: &str) {
        let failures = self.failures_by_now(work).await;
        self.target_paused(work, failures + 1, reason).await;
        if is_last_try(failures) {
            let set_aside = queue::set_target_aside(&self.parts.pool, work.target().id, reason, SET_ASIDE_MAX);
            note(set_aside.await.map(drop));
        }
    }

    /// Failures before this one. Those that a success has ended since the rows were claimed count no more; those that
    /// others of the target's requests have found meanwhile do not count yet, since all may have one cause.
    async fn failures_by_now(&self, work: &Work) -> u32 {
        match target::failures(&self.parts.pool, work.target().id).await {
            Ok(failures) => failures.min(work.failures),
            Err(error) => {
                note(Err(error));
                work.failures
            }
        }
    }

    async fn target_paused(&self, work: &Work, failures: u32, reason: &str) {
        let pause = backoff(failures, TARGET_PAUSE, TARGET_PAUSE_MAX);
        tracing::warn!(target = %work.table, failures, pause_s = pause.as_secs_f64(), reason, "target is paused");
        self.places.pause(work.target().id, Instant::now() + pause);
        note(target::pause(&self.parts.pool, work.target().id, failures, pause, reason).await);
    }

    /// The target answers and its rows fit: what was set aside because it did not comes back, some rows at a time.
    pub(super) async fn recovered(&self, work: &Work) {
        let target = work.target().id;
        let recovered = async {
            if target::recover(&self.parts.pool, target).await? {
                tracing::info!(target = %work.table, "target is well again");
            }
            let failed = |source| QueueError { action: "take rows out of the dead letters", source };
            let mut connection = self.parts.pool.acquire().await.map_err(failed)?;
            dead_letter::requeue_dead(&mut connection, target, REQUEUED_MAX).await
        };
        note(recovered.await.map(drop));
    }

    /// Rows failed by themselves: each is tried again ever more rarely, and set aside after some failures. If the target
    /// is to blame, they come back once more when another row of it has gone well.
    pub(super) async fn rows_failed(&self, table: &TargetTable, failed: Vec<(DirtyRow, String)>, blame: Blame) {
        let outcomes = failed.into_iter().map(|(row, reason)| {
            let attempts = row.attempts + 1;
            let outcome = if attempts >= ROW_FAILURES_MAX || blame == Blame::TargetGivenUp {
                let of_target = blame != Blame::Row && attempts <= ROW_FAILURES_MAX;
                Outcome::DeadLetter { reason: reason.clone(), of_target }
            } else {
                let pause = chrono::Duration::from_std(backoff(attempts, ROW_PAUSE, ROW_PAUSE_MAX)).unwrap_or_default();
                Outcome::Fail { attempts, pause, error: reason.clone() }
            };
            (row, outcome, reason)
        });
        self.settle_unwritten(table.id, |row| shown(row, table), outcomes.collect()).await;
    }

    /// Rows that cannot be mirrored as things are.
    pub(super) async fn set_rows_aside(&self, table: &TargetTable, rows: Vec<(DirtyRow, String)>) {
        // A key with other columns than the table's, or a value that is none of theirs, has no names there.
        let unnamed: Vec<i64> = rows
            .iter()
            .filter(|(row, _)| row.key.resolve(&table.table).is_err())
            .filter_map(|(row, _)| row.notification_id)
            .collect();
        let keys = self.notified_keys(&unnamed).await;
        let shown = |row: &DirtyRow| match row.key.resolve(&table.table) {
            Ok(key) => key.shown(&table.table),
            Err(_) => as_notified(row, &keys),
        };
        let outcomes = rows.into_iter().map(|(row, reason)| dead_letter(row, reason)).collect();
        self.settle_unwritten(table.id, shown, outcomes).await;
    }

    /// Rows of a target whose table cannot be mirrored.
    pub(super) async fn set_aside(self, mut claim: Claim, reason: String) {
        let rows = std::mem::take(&mut claim.rows);
        let keys = self.notified_keys(&notifications(&rows)).await;
        let outcomes = rows.into_iter().map(|row| dead_letter(row, reason.clone())).collect();
        self.settle_unwritten(claim.target.id, |row| as_notified(row, &keys), outcomes).await;
    }

    /// Rows outside what is mirrored.
    pub(super) async fn ignore(self, mut claim: Claim, why: &'static str) {
        let rows = std::mem::take(&mut claim.rows);
        let keys = self.notified_keys(&notifications(&rows)).await;
        let outcomes = rows.into_iter().map(|row| (row, Outcome::Done, why.to_owned())).collect();
        self.settle_unwritten(claim.target.id, |row| as_notified(row, &keys), outcomes).await;
    }

    /// How these notifications spell their keys, as far as that can be read.
    async fn notified_keys(&self, ids: &[i64]) -> HashMap<i64, String> {
        queue::ledger::notified_keys(&self.parts.pool, ids).await.unwrap_or_else(|error| {
            tracing::warn!(error = %chain(&error), "keys are logged in lower case");
            HashMap::new()
        })
    }

    /// Gives back what only an API could tell that is away.
    pub(super) async fn put_off(&self, work: &mut Work) {
        let rows = std::mem::take(&mut work.rows);
        let deleted = rows.into_iter().filter(|(row, _)| row.evidence.deletion.is_some());
        let outcomes = deleted.map(|(row, _)| (row, Outcome::Release { pause: AWAY_PAUSE }, String::new())).collect();
        self.settle_unwritten(work.table.id, |row| shown(row, &work.table), outcomes).await;
    }

    /// Writes outcomes that touch no mirrored row.
    async fn settle_unwritten(
        &self,
        target: crate::domain::TargetId,
        shown: impl Fn(&DirtyRow) -> String,
        outcomes: Vec<(DirtyRow, Outcome, String)>,
    ) {
        if outcomes.is_empty() {
            return;
        }
        let (mut journal, mut tally, mut settled) = (Journal::default(), Tally::new(), vec![]);
        for (row, outcome, reason) in outcomes {
            if let Some(action) = logged_as(&outcome) {
                *tally.entry(action).or_default() += 1;
                let notification_id = row.notification_id;
                let (source_changed_at, fetch_started_at) = (None, None);
                journal.log(SyncEntry {
                    target_id: target,
                    key_json: shown(&row),
                    action,
                    reason,
                    notification_id,
                    source_changed_at,
                    fetch_started_at,
                });
            }
            settled.push((row, outcome));
        }
        let written = async {
            let failed = |source| QueueError { action: "settle rows", source };
            let mut transaction = self.parts.pool.begin().await.map_err(failed)?;
            let settled: Vec<_> = settled.iter().map(|(row, outcome)| (row, outcome.clone())).collect();
            queue::settle(&mut transaction, target, &settled, None).await?;
            journal.commit(transaction).await.map_err(failed)
        };
        match written.await {
            Ok(()) => self.count(&tally),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "rows not settled");
                self.places.pause(target, Instant::now() + BUSY_PAUSE);
            }
        }
    }

    pub(super) fn count(&self, tally: &Tally) {
        for (action, count) in tally {
            self.parts.metrics.rows_settled.with_label_values(&[action.name()]).inc_by(*count);
        }
    }
}

/// A claimed row and its key in the table's own terms.
type Keyed = (DirtyRow, RowKey);

fn dead_letter(row: DirtyRow, reason: String) -> (DirtyRow, Outcome, String) {
    let outcome = Outcome::DeadLetter { reason: reason.clone(), of_target: false };
    (row, outcome, reason)
}

fn notifications(rows: &[DirtyRow]) -> Vec<i64> {
    rows.iter().filter_map(|row| row.notification_id).collect()
}

/// The row's key as people read it.
fn shown(row: &DirtyRow, table: &TargetTable) -> String {
    row.key.resolve(&table.table).map_or_else(|_| row.key.canonical(), |key| key.shown(&table.table))
}

/// The row's key as its notification spells it, for want of a table that tells its names.
fn as_notified(row: &DirtyRow, keys: &HashMap<i64, String>) -> String {
    let notified = row.notification_id.and_then(|id| keys.get(&id).cloned());
    notified.unwrap_or_else(|| row.key.canonical())
}

fn logged_as(outcome: &Outcome) -> Option<SyncAction> {
    match outcome {
        Outcome::Done => Some(SyncAction::Ignored),
        Outcome::DeadLetter { .. } => Some(SyncAction::DeadLetter),
        Outcome::Fail { .. } => Some(SyncAction::Failed),
        Outcome::Recheck { .. } | Outcome::Release { .. } => None,
    }
}

/// What could not be noted is noted the next time.
fn note(result: Result<(), QueueError>) {
    if let Err(error) = result {
        tracing::warn!(error = %chain(&error), "the health of a target is not noted");
    }
}
