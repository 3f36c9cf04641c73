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
        settle::{self, Known, Observed, Verdict},
    },
    mirror::{Fetched, Removal, Touched, Written},
    queue::{self, Applied, DirtyRow, Journal, Pending, Priority, SyncAction, SyncEntry, Tombstone},
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
    /// What became of its mirrored row.
    pub(super) change: Change,
    /// Whether the mirror had the row under the key that was asked for, and the source spells it otherwise now.
    pub(super) is_respelled: bool,
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
                let claimed = self.claimed.map(|claimed| claimed.generation);
                let is_overtaken = claimed.is_some() && claimed != waiting.map(|waiting| waiting.generation);
                Observed::Missing { started_at, is_overtaken }
            }
        }
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
        let has = queue::has_evidence(connection, target.id).await?;
        let folded: Vec<String> = keys.iter().map(RowKey::folded_text).collect();
        let tombstones: HashMap<_, _> = match has.of_deletions {
            true => queue::tombstone::of_keys(connection, target.id, &folded).await?.into_iter().collect(),
            false => HashMap::new(),
        };
        let announced: Vec<Option<String>> = subjects.iter().map(|subject| subject.row_key(target)).collect();
        let evidence = match has.of_notifications {
            true => {
                let keys: Vec<String> = announced.iter().flatten().cloned().collect();
                queue::evidence(connection, target.id, &keys).await?
            }
            false => HashMap::new(),
        };
        let cases = subjects.into_iter().zip(mirrored).zip(folded.iter().zip(&announced));
        Ok(cases
            .map(|((subject, mirrored), (folded, announced))| {
                let known = Known { mirrored, tombstone: tombstones.get(folded).copied() };
                let pending = announced.as_ref().and_then(|key| evidence.get(key));
                let evidence = pending.map(|pending| pending.evidence).unwrap_or_default();
                let verdict = settle::decide(&evidence, &known, subject.observed(pending));
                let deleted_at = evidence.deletion.map(|deletion| deletion.at);
                Case { subject, known, verdict, deleted_at, change: Change::None, is_respelled: false }
            })
            .collect())
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
        let others = self.other_spellings(connection, target, cases).await?;
        remember_deletions(connection, target, cases).await?;
        Ok(queue::mark(connection, target.id, &others, Priority::Live).await?)
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

    /// Removes what is gone, and rows that the source now spells otherwise.
    async fn remove(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        cases: &mut [Case<'_>],
    ) -> Result<(), ReconcileError> {
        let mut removals = vec![];
        for case in cases.iter() {
            let (asked, key) = (case.subject.asked, case.subject.key());
            match case.verdict {
                Verdict::Remove { deletion, .. } => {
                    removals.push(Removal { key: key.clone(), deleted_at: deletion.at })
                }
                Verdict::Write { .. } if asked != key => {
                    let at = case.subject.started_at().unwrap_or_default();
                    removals.push(Removal { key: asked.clone(), deleted_at: SourceTime::as_if(at) });
                }
                Verdict::Write { .. } | Verdict::Keep { .. } | Verdict::Fetch => {}
            }
        }
        let removed = self.mirror.remove(connection, target, &removals).await?;
        for case in cases.iter_mut() {
            let (asked, key) = (case.subject.asked, case.subject.key());
            match case.verdict {
                Verdict::Remove { .. } if removed.contains(key) => case.change = Change::Deleted,
                Verdict::Write { .. } => case.is_respelled = asked != key && removed.contains(asked),
                Verdict::Remove { .. } | Verdict::Keep { .. } | Verdict::Fetch => {}
            }
        }
        Ok(())
    }

    /// A row that appeared or went may be mirrored under another spelling of its key: the source is asked about those.
    async fn other_spellings(
        &self,
        connection: &mut PgConnection,
        target: &TargetTable,
        cases: &[Case<'_>],
    ) -> Result<Vec<AnnouncedKey>, ReconcileError> {
        let keys: Vec<RowKey> = cases
            .iter()
            .filter(|case| case.known.mirrored.is_none())
            .filter(|case| matches!(case.verdict, Verdict::Remove { .. }) || case.change == Change::Inserted)
            .map(|case| case.subject.key().clone())
            .collect();
        let others = self.mirror.other_spellings(connection, target, &keys).await?;
        Ok(others.iter().filter_map(|key| key.announced(&target.table).ok()).collect())
    }
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
    let count = |is_counted: fn(&Case<'_>) -> bool| {
        let count = cases.iter().filter(|case| is_counted(case)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    Applied {
        inserted: count(|case| case.change == Change::Inserted),
        deleted: count(|case| case.change == Change::Deleted || case.is_respelled),
        is_changed: cases.iter().any(|case| case.change != Change::None),
        is_notified,
    }
}

impl Case<'_> {
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
            (Verdict::Keep { then: settle::Then::Recheck { .. }, .. } | Verdict::Fetch, Change::None) => {
                SyncAction::Recheck
            }
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
