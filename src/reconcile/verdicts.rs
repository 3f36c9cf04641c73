//! From observations to verdicts to written rows: what live work and pages have in common.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::{
    ReconcileError, Writer,
    changes::{RowChange, changes},
};
use crate::{
    domain::{
        AnnouncedKey, DatabaseTime, Row, RowKey, SourceTime, TargetTable,
        settle::{self, Known, Mirrored, Observed, Then, Verdict},
    },
    mirror::{Fetched, OtherSpelling, Removal, Touched, Written},
    queue::{self, Applied, DirtyRow, HasEvidence, Journal, Pending, Priority, SyncAction, SyncEntry, Tombstone},
};

/// What was observed of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The key that was asked for.
    pub(super) asked: &'a RowKey,
    pub(super) seen: Seen<'a>,
    /// The dirty row as it was claimed, where one led to it.
    pub(super) claimed: Option<&'a DirtyRow>,
}

/// What a request saw, and when it started.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seen<'a> {
    Nothing,
    Found(&'a Row, DatabaseTime),
    Missing(DatabaseTime),
}

/// A subject with all that is known of it, and what follows.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) known: Known,
    pub(super) verdict: Verdict,
    /// When the source deleted it, by its notifications.
    pub(super) deleted_at: Option<SourceTime>,
    /// Whether it waits for somebody else, who may be asking for it already.
    is_awaited: bool,
    /// What became of its mirrored row.
    pub(super) change: Change,
    /// Mirrored rows of other spellings of its key, where it has none of its own.
    pub(super) others: Vec<OtherSpelling>,
    /// Spellings of its key under which the mirror had it, older, and has it no more.
    pub(super) respelled: Vec<RowKey>,
}

/// What became of a mirrored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Inserted,
    /// In these columns, by their mirrored names.
    Updated(Vec<String>),
    Deleted,
    None,
}

impl<'a> Subject<'a> {
    /// The key that counts: the returned row's, else the one asked for.
    pub(super) fn key(&self) -> &'a RowKey {
        match self.seen {
            Seen::Found(row, _) => &row.key,
            Seen::Nothing | Seen::Missing(_) => self.asked,
        }
    }

    /// The latest notification, where one led to it.
    pub(super) fn notification_id(&self) -> Option<i64> {
        self.claimed.and_then(|claimed| claimed.notification_id)
    }

    /// The name of its dirty row, if there is one.
    fn row_key(&self, target: &TargetTable) -> Option<String> {
        self.claimed.map(|claimed| claimed.row_key.to_string()).or_else(|| canonical(self.asked, target))
    }

    /// `waiting`: what waits for the row now.
    fn observed(&self, waiting: Option<&Pending>) -> Observed {
        match self.seen {
            Seen::Nothing => Observed::Nothing,
            Seen::Found(row, started_at) => Observed::Found { started_at, changed_at: row.changed_at },
            Seen::Missing(started_at) => {
                let is_overtaken = self.claimed.is_some() && self.is_overtaken(waiting);
                Observed::Missing { started_at, is_overtaken }
            }
        }
    }

    /// Whether what waits for the row now is not what was claimed.
    fn is_overtaken(&self, waiting: Option<&Pending>) -> bool {
        self.claimed.map(|claimed| claimed.generation) != waiting.map(|waiting| waiting.generation)
    }

    fn started_at(&self) -> Option<DatabaseTime> {
        match self.seen {
            Seen::Nothing => None,
            Seen::Found(_, started_at) | Seen::Missing(started_at) => Some(started_at),
        }
    }
}

impl Writer {
    /// Decides each subject by what the mirror and the notifications know. To be called under the target's lock.
    pub(super) async fn judge<'a>(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        subjects: Vec<Subject<'a>>,
    ) -> Result<Vec<Case<'a>>, ReconcileError> {
        let keys: Vec<RowKey> = subjects.iter().map(|subject| subject.key().clone()).collect();
        let mirrored = self.mirror.known(connection, target, &keys).await?;
        let others = self.other_spellings(connection, target, &keys, &mirrored).await?;
        let has = match subjects.iter().any(|subject| subject.claimed.is_some()) {
            true => HasEvidence::ALL,
            false => queue::has_evidence(connection, target.id).await?,
        };
        let folded: Vec<String> = keys.iter().map(RowKey::folded_text).collect();
        let tombstones: HashMap<_, _> = match has.of_deletions {
            true => queue::tombstone::of_keys(connection, target.id, &folded).await?.into_iter().collect(),
            false => HashMap::new(),
        };
        let announced: Vec<Option<String>> = subjects.iter().map(|subject| subject.row_key(target)).collect();
        let evidence = match has.of_notifications {
            true => {
                let places = subjects.iter().map(|subject| subject.claimed.map(|claimed| &claimed.place));
                let named = announced.iter().cloned().zip(places);
                let rows: Vec<_> = named.filter_map(|(key, place)| Some((key?, place))).collect();
                queue::evidence(connection, target.id, &rows).await?
            }
            false => HashMap::new(),
        };
        let cases = subjects.into_iter().zip(mirrored.into_iter().zip(others)).zip(folded.iter().zip(&announced));
        Ok(cases
            .map(|((subject, (mirrored, others)), (folded, announced))| {
                let elsewhere = others.iter().map(|other| other.mirrored).max_by_key(|other| other.fetched_at);
                let known = Known { mirrored, elsewhere, tombstone: tombstones.get(folded).copied() };
                let pending = announced.as_ref().and_then(|key| evidence.get(key));
                let evidence = pending.map(|pending| pending.evidence).unwrap_or_default();
                let verdict = match settle::decide(&evidence, &known, subject.observed(pending)) {
                    // Nothing is written that the asked spelling could make way for: it is asked about again.
                    Verdict::Keep { reason, then: Then::Settled } if subject.asked != subject.key() => {
                        Verdict::Keep { reason, then: settle::OVERTAKEN }
                    }
                    verdict => verdict,
                };
                let deleted_at = evidence.deletion.map(|deletion| deletion.at);
                let is_awaited = pending.is_some() && subject.is_overtaken(pending);
                let (change, respelled) = (Change::None, vec![]);
                Case { subject, known, verdict, deleted_at, is_awaited, change, others, respelled }
            })
            .collect())
    }

    /// For each key that is not mirrored, mirrored rows of its other spellings.
    async fn other_spellings(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        keys: &[RowKey],
        mirrored: &[Option<Mirrored>],
    ) -> Result<Vec<Vec<OtherSpelling>>, ReconcileError> {
        let absent = keys.iter().zip(mirrored).enumerate().filter(|(_, (_, mirrored))| mirrored.is_none());
        let (places, absent): (Vec<usize>, Vec<RowKey>) = absent.map(|(place, (key, _))| (place, key.clone())).unzip();
        let mut others = vec![vec![]; keys.len()];
        for other in self.mirror.other_spellings(connection, target, &absent).await? {
            others[places[other.index]].push(other);
        }
        Ok(others)
    }

    /// Writes and removes what the verdicts say, first in the mirror and its history, then in the daemon's own tables, and
    /// has it told.
    pub(super) async fn carry_out(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        cases: &mut [Case<'_>],
        journal: &mut Journal,
    ) -> Result<(), ReconcileError> {
        self.write(connection, target, cases).await?;
        self.remove(connection, target, cases).await?;
        let changes = changes(connection, cases).await?;
        let touched: Vec<Touched<'_>> = changes.iter().map(RowChange::touched).collect();
        self.mirror.keep_versions(connection, target, &touched).await?;
        changes.into_iter().for_each(|change| journal.tell(change.entry(target)));
        remember_deletions(connection, target, cases).await?;
        queue::mark(connection, target.id, &uncertain(target, cases), Priority::Live).await?;
        Ok(queue::mark(connection, target.id, &overtaken(target, cases), Priority::Deferred).await?)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        cases: &mut [Case<'_>],
    ) -> Result<(), ReconcileError> {
        let (mut rows, mut places, mut seen) = (vec![], vec![], HashSet::new());
        for (place, case) in cases.iter().enumerate() {
            // Two spellings of one row may both have been asked for.
            if let (Verdict::Write { .. }, Seen::Found(row, started_at)) = (case.verdict, case.subject.seen)
                && seen.insert(&row.key)
            {
                rows.push(Fetched {
                    row,
                    started_at,
                    notification_id: case.subject.notification_id(),
                    is_mirrored: case.known.mirrored.is_some(),
                });
                places.push(place);
            }
        }
        let written = self.mirror.write(connection, target, &rows).await?;
        for (place, written) in places.into_iter().zip(written) {
            cases[place].change = match written {
                Written::Inserted => Change::Inserted,
                Written::Updated(columns) => Change::Updated(columns),
                Written::Unchanged => Change::None,
            };
        }
        Ok(())
    }

    /// Removes what is gone, and older rows of what the source now spells otherwise: nobody is to read such a row when the
    /// newer one goes.
    async fn remove(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        cases: &mut [Case<'_>],
    ) -> Result<(), ReconcileError> {
        let mut removals = vec![];
        let mut spoken_for = HashSet::new();
        for case in cases.iter() {
            let key = case.subject.key();
            match case.verdict {
                Verdict::Remove { deletion, .. } => {
                    removals.push(Removal { key: key.clone(), deleted_at: deletion.at });
                    spoken_for.insert(key.clone());
                }
                Verdict::Write { .. } => _ = spoken_for.insert(key.clone()),
                Verdict::Keep { .. } | Verdict::Fetch => {}
            }
        }
        for case in cases.iter_mut() {
            case.respelled = case.outdated_spellings();
            case.respelled.retain(|key| spoken_for.insert(key.clone()));
            let deleted_at = SourceTime::as_if(case.subject.started_at().unwrap_or_default());
            removals.extend(case.respelled.iter().map(|key| Removal { key: key.clone(), deleted_at }));
        }
        let removed = self.mirror.remove(connection, target, &removals).await?;
        for case in cases.iter_mut() {
            case.respelled.retain(|key| removed.contains(key));
            if matches!(case.verdict, Verdict::Remove { .. }) && removed.contains(case.subject.key()) {
                case.change = Change::Deleted;
            }
        }
        Ok(())
    }
}

/// Other spellings of rows that appeared or went: each may be the same row or another one, and only the source can tell.
fn uncertain(target: &TargetTable, cases: &[Case<'_>]) -> Vec<AnnouncedKey> {
    let mut inserted: HashMap<String, Vec<&RowKey>> = HashMap::new();
    for key in cases.iter().filter(|case| case.change == Change::Inserted).map(|case| case.subject.key()) {
        inserted.entry(key.folded_text()).or_default().push(key);
    }
    let together = inserted.into_values().filter(|keys| keys.len() > 1).flatten();
    let others = cases
        .iter()
        .filter(|case| matches!(case.verdict, Verdict::Remove { .. }) || case.change == Change::Inserted)
        .flat_map(|case| case.others.iter().map(|other| &other.key));
    others.chain(together).filter_map(|key| key.announced(&target.table).ok()).collect()
}

/// Rows that were changed while others may be asking for them. When a request started says nothing of when it read: theirs
/// may have read earlier than the one that was written, and must not count as the later one.
fn overtaken(target: &TargetTable, cases: &[Case<'_>]) -> Vec<AnnouncedKey> {
    let changed = cases.iter().filter(|case| case.is_awaited && case.change != Change::None);
    changed.filter_map(|case| case.subject.key().announced(&target.table).ok()).collect()
}

/// Tombstones: left by removals, gone with rows that live again.
async fn remember_deletions(
    connection: &mut PgConnection,
    target: &TargetTable,
    cases: &[Case<'_>],
) -> Result<(), ReconcileError> {
    let (mut buried, mut revived) = (vec![], vec![]);
    for case in cases {
        match case.verdict {
            Verdict::Remove { deletion, .. } => buried.push(Tombstone { key: case.subject.key().clone(), deletion }),
            Verdict::Write { .. } if case.known.tombstone.is_some() => revived.push(case.subject.key().folded_text()),
            Verdict::Write { .. } | Verdict::Keep { .. } | Verdict::Fetch => {}
        }
    }
    queue::tombstone::remember(connection, target.id, &buried).await?;
    Ok(queue::tombstone::forget(connection, target.id, &revived).await?)
}

/// How a notification would name the key; `None` for a key that none can name.
pub(super) fn canonical(key: &RowKey, target: &TargetTable) -> Option<String> {
    key.announced(&target.table).ok().map(|key| key.canonical())
}

/// What was done to the target's rows altogether.
pub(super) fn applied(cases: &[Case<'_>], is_notified: bool) -> Applied {
    let sum = |count: fn(&Case<'_>) -> usize| {
        let sum: usize = cases.iter().map(count).sum();
        i64::try_from(sum).unwrap_or(i64::MAX)
    };
    Applied {
        inserted: sum(|case| usize::from(case.change == Change::Inserted)),
        deleted: sum(|case| usize::from(case.change == Change::Deleted) + case.respelled.len()),
        is_changed: cases.iter().any(|case| case.change != Change::None || !case.respelled.is_empty()),
        is_notified,
    }
}

impl Case<'_> {
    /// Spellings whose mirrored rows make way for this one.
    fn outdated_spellings(&self) -> Vec<RowKey> {
        let (Verdict::Write { .. }, Seen::Found(row, _)) = (self.verdict, self.subject.seen) else { return vec![] };
        let asked = Some(self.subject.asked).filter(|asked| **asked != row.key);
        let is_older = |other: &&OtherSpelling| {
            row.changed_at.zip(other.mirrored.changed_at).is_some_and(|(own, other)| other < own)
        };
        let older = self.others.iter().filter(is_older).map(|other| &other.key);
        asked.into_iter().chain(older).cloned().collect()
    }

    /// Start of the request that saw it.
    pub(super) fn started_at(&self) -> Option<DatabaseTime> {
        self.subject.started_at()
    }

    /// What the sync log says was done.
    pub(super) fn action(&self) -> SyncAction {
        match (self.verdict, &self.change) {
            (_, Change::Inserted) => SyncAction::Inserted,
            (_, Change::Updated(_)) => SyncAction::Updated,
            (_, Change::Deleted) => SyncAction::Deleted,
            (Verdict::Remove { .. }, Change::None) => SyncAction::AlreadyAbsent,
            (Verdict::Keep { then: Then::Recheck { .. }, .. } | Verdict::Fetch, Change::None) => SyncAction::Recheck,
            (Verdict::Keep { reason: settle::Reason::Stale, .. }, Change::None) => SyncAction::Stale,
            (Verdict::Write { .. } | Verdict::Keep { .. }, Change::None) => SyncAction::Unchanged,
        }
    }

    /// Its line in the sync log.
    pub(super) fn entry(&self, target: &TargetTable, reason: String) -> SyncEntry {
        let row = match self.subject.seen {
            Seen::Found(row, _) => Some(row),
            Seen::Nothing | Seen::Missing(_) => None,
        };
        SyncEntry {
            target_id: target.id,
            key_json: self.subject.key().shown(&target.table),
            action: self.action(),
            reason,
            notification_id: self.subject.notification_id(),
            source_changed_at: row.and_then(|row| row.changed_at),
            fetch_started_at: self.subject.started_at(),
        }
    }
}
