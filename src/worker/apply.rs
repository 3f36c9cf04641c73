//! Applying what is known of a batch of rows: mirror, tombstones, dirty rows and sync log in one transaction.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chrono::Duration;
use sqlx::{PgConnection, types::Uuid};

use super::{Parts, batch::Known as KnownRow};
use crate::{
    domain::{
        Row, RowHint, RowKey, TableSpec, Tenant, Time,
        settle::{self, Action, BeforeFetch, Deletion, Known, Look, Next, Reason, Settlement, Sight},
    },
    failpoint::Failpoint,
    mirror::{Fetched, MirrorError, Removal},
    queue::{self, Claimed, Outcome, Priority, QueueError, SyncAction, SyncEntry, Tombstone},
};

/// What a fetch told about one row.
#[derive(Debug)]
pub(super) struct Seen {
    /// Start of the request.
    pub(super) started_at: Time,
    /// The row; `None` when the source has none.
    pub(super) row: Option<Row>,
}

/// A row to settle, with what was seen of it, if the source was asked.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) known: KnownRow,
    pub(super) seen: Option<Seen>,
}

/// Why a batch was not applied. Nothing of it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the transaction failed")]
    Sql(#[from] sqlx::Error),
}

impl ApplyError {
    /// Whether one of the rows is to blame, rather than the database.
    pub(super) fn is_about_data(&self) -> bool {
        match self {
            Self::Mirror(error) => error.is_about_data(),
            Self::Queue(_) | Self::Sql(_) => false,
        }
    }
}

/// Settles the items that are still leased to `claim_id`, and says how many of each action there were.
pub(super) async fn apply(
    parts: &Parts,
    claim_id: Uuid,
    items: &[Item],
) -> Result<HashMap<SyncAction, u64>, ApplyError> {
    let mut groups: BTreeMap<(Tenant, &str), Group<'_>> = BTreeMap::new();
    let mut transaction = parts.pool.begin().await?;
    for item in items {
        let hint = &item.known.claimed.hint;
        let group = groups.entry((hint.tenant, item.known.table.sql_name.as_str()));
        group.or_insert_with(|| Group { tenant: hint.tenant, table: &item.known.table, items: vec![] });
    }
    for group in groups.values() {
        parts.replica.lock(&mut transaction, group.tenant, group.table).await?;
    }
    let hints: Vec<&RowHint> = items.iter().map(|item| &item.known.claimed.hint).collect();
    for locked in queue::settle::lock(&mut transaction, claim_id, &hints).await? {
        let item = &items[locked.index];
        let key = (item.known.claimed.hint.tenant, item.known.table.sql_name.as_str());
        groups.get_mut(&key).expect("every item has its group").items.push((item, locked.now));
    }
    Failpoint::ApplyLocked.pass();
    let mut counts = HashMap::new();
    for group in groups.values() {
        for (action, count) in group.apply(parts, &mut transaction).await? {
            *counts.entry(action).or_default() += count;
        }
    }
    Failpoint::ApplyWritten.pass();
    transaction.commit().await?;
    Failpoint::Applied.pass();
    Ok(counts)
}

/// The items of one table of one tenant that are still ours, each with its dirty row as it stands now.
struct Group<'a> {
    tenant: Tenant,
    table: &'a Arc<TableSpec>,
    items: Vec<(&'a Item, Claimed)>,
}

/// The verdict on one item.
struct Verdict<'a> {
    item: &'a Item,
    now: &'a Claimed,
    /// The key that counts: the returned row's, else the notification's.
    key: &'a RowKey,
    known: Known,
    settlement: Settlement,
}

impl Group<'_> {
    async fn apply(
        &self,
        parts: &Parts,
        connection: &mut PgConnection,
    ) -> Result<HashMap<SyncAction, u64>, ApplyError> {
        let verdicts = self.judge(parts, connection).await?;
        let written = self.write(parts, connection, &verdicts).await?;
        let removed = self.remove(parts, connection, &verdicts).await?;
        self.follow_spellings(parts, connection, &verdicts, &written).await?;
        let (mut outcomes, mut entries, mut counts) = (vec![], vec![], HashMap::new());
        for verdict in &verdicts {
            let action = verdict.sync_action(&written, &removed);
            *counts.entry(action).or_default() += 1;
            entries.push(verdict.log_entry(action));
            outcomes.push((&verdict.now.hint, verdict.outcome()));
        }
        let is_changed = !written.is_empty() || !removed.is_empty();
        let is_notified = verdicts.iter().any(|verdict| verdict.now.notification_id.is_some());
        if is_changed || is_notified {
            queue::settle::note_applied(connection, self.tenant, &self.table.name, is_changed, is_notified).await?;
        }
        queue::settle::log(connection, &entries).await?;
        queue::settle::settle(connection, &outcomes).await?;
        let done = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Done { .. }));
        if verdicts.iter().any(|verdict| verdict.item.seen.is_some()) {
            queue::dead_letter::revive_lane(connection, self.tenant, &self.table.name).await?;
        }
        queue::settle::absolve(connection, &done.map(|(hint, _)| *hint).collect::<Vec<_>>()).await?;
        Ok(counts)
    }

    /// Reads what the mirror knows, under lock, and lets the rules decide.
    async fn judge<'a>(&'a self, parts: &Parts, connection: &mut PgConnection) -> Result<Vec<Verdict<'a>>, ApplyError> {
        let keys: Vec<RowKey> = self.items.iter().map(|(item, _)| counting_key(item).clone()).collect();
        let mirrored = parts.replica.known(connection, self.tenant, self.table, &keys).await?;
        let folded: Vec<String> = keys.iter().map(RowKey::folded_text).collect();
        let tombstones: HashMap<String, Deletion> =
            queue::tombstone::of_keys(connection, self.tenant, &self.table.name, &folded).await?.into_iter().collect();
        let judged = self.items.iter().zip(mirrored).zip(&folded).map(|(((item, now), mirrored), folded)| {
            let known = Known { mirrored, tombstone: tombstones.get(folded).copied() };
            Verdict { item, now, key: counting_key(item), known, settlement: decide(item, now, &known) }
        });
        Ok(judged.collect())
    }

    async fn write(
        &self,
        parts: &Parts,
        connection: &mut PgConnection,
        verdicts: &[Verdict<'_>],
    ) -> Result<HashSet<RowKey>, ApplyError> {
        let mut keys = HashSet::new();
        let (mut rows, mut revived) = (vec![], vec![]);
        for verdict in verdicts.iter().filter(|verdict| verdict.settlement.action == Action::Upsert) {
            let Some(Seen { started_at, row: Some(row) }) = &verdict.item.seen else { continue };
            // Two spellings of one row may both have been asked for.
            if keys.insert(&row.key) {
                let notification_id = verdict.now.notification_id;
                rows.push(Fetched { row, started_at: *started_at, notification_id });
            }
            if verdict.known.tombstone.is_some() {
                revived.push(row.key.folded_text());
            }
        }
        if !revived.is_empty() {
            queue::tombstone::revive(connection, self.tenant, &self.table.name, &revived).await?;
        }
        Ok(parts.replica.upsert(connection, self.tenant, self.table, &rows).await?)
    }

    /// Removes what is gone, and rows that the source now spells otherwise.
    async fn remove(
        &self,
        parts: &Parts,
        connection: &mut PgConnection,
        verdicts: &[Verdict<'_>],
    ) -> Result<HashSet<RowKey>, ApplyError> {
        let (mut removals, mut tombstones) = (vec![], vec![]);
        for verdict in verdicts {
            let asked = &verdict.item.known.key;
            match verdict.settlement.action {
                Action::Delete(deletion) => {
                    removals.push(Removal { key: verdict.key.clone(), deleted_at: deletion.at });
                    tombstones.push(Tombstone { key: verdict.key.clone(), deletion });
                }
                Action::Upsert if asked != verdict.key => {
                    let deleted_at = verdict.item.seen.as_ref().map_or_else(Time::default, |seen| seen.started_at);
                    removals.push(Removal { key: asked.clone(), deleted_at });
                }
                Action::Upsert | Action::Keep => {}
            }
        }
        queue::tombstone::bury(connection, self.tenant, &self.table.name, &tombstones).await?;
        Ok(parts.replica.delete(connection, self.tenant, self.table, &removals).await?)
    }

    /// A row that appeared or went may be mirrored under another spelling of its key: the source is asked about those.
    async fn follow_spellings(
        &self,
        parts: &Parts,
        connection: &mut PgConnection,
        verdicts: &[Verdict<'_>],
        written: &HashSet<RowKey>,
    ) -> Result<(), ApplyError> {
        let keys: Vec<RowKey> = verdicts
            .iter()
            .filter(|verdict| verdict.known.mirrored.is_none())
            .filter(|verdict| match verdict.settlement.action {
                Action::Upsert => written.contains(verdict.key),
                Action::Delete(_) => true,
                Action::Keep => false,
            })
            .map(|verdict| verdict.key.clone())
            .collect();
        let others = parts.replica.other_spellings(connection, self.tenant, self.table, &keys).await?;
        let hints: Vec<RowHint> = others
            .iter()
            .filter_map(|key| key.to_hint(self.table).ok())
            .map(|key| RowHint { tenant: self.tenant, table: self.table.name.clone(), key })
            .collect();
        Ok(queue::settle::mark(connection, &hints, Priority::Live).await?)
    }
}

fn counting_key(item: &Item) -> &RowKey {
    item.seen.as_ref().and_then(|seen| seen.row.as_ref()).map_or(&item.known.key, |row| &row.key)
}

fn decide(item: &Item, now: &Claimed, known: &Known) -> Settlement {
    match &item.seen {
        Some(seen) => {
            let sight = seen.row.as_ref().map_or(Sight::Missing, |row| Sight::Found(row.changed_at));
            settle::after_fetch(Look { started_at: seen.started_at, sight }, &now.evidence, known)
        }
        None => {
            let (action, next, reason) = match settle::before_fetch(&now.evidence, known) {
                BeforeFetch::Delete(deletion) => (Action::Delete(deletion), Next::Done, Reason::Announced),
                BeforeFetch::IgnoreStale => (Action::Keep, Next::Done, Reason::Stale),
                BeforeFetch::Fetch => {
                    (Action::Keep, Next::LookAgain { pause: Duration::zero() }, Reason::DeletedMeanwhile)
                }
            };
            Settlement { action, next, reason }
        }
    }
}

impl Verdict<'_> {
    fn outcome(&self) -> Outcome {
        let overtaken = self.now.generation != self.item.known.claimed.generation;
        match self.settlement.next {
            Next::Done => Outcome::Done { generation: self.item.known.claimed.generation },
            // A new notification is reason enough to look at once.
            Next::LookAgain { .. } if overtaken => Outcome::Release { pause: Duration::zero() },
            Next::LookAgain { pause } if self.settlement.reason.is_overtaking() => Outcome::Release { pause },
            Next::LookAgain { pause } => Outcome::LookAgain { pause },
        }
    }

    fn sync_action(&self, written: &HashSet<RowKey>, removed: &HashSet<RowKey>) -> SyncAction {
        match (self.settlement.action, self.settlement.next) {
            (Action::Upsert, _) if !written.contains(self.key) => SyncAction::Unchanged,
            (Action::Upsert, _) if self.known.mirrored.is_some() => SyncAction::Updated,
            (Action::Upsert, _) => SyncAction::Inserted,
            (Action::Delete(_), _) if removed.contains(self.key) => SyncAction::Deleted,
            (Action::Delete(_), _) => SyncAction::AlreadyAbsent,
            (Action::Keep, Next::LookAgain { .. }) => SyncAction::LookAgain,
            (Action::Keep, Next::Done) if self.settlement.reason == Reason::Stale => SyncAction::Stale,
            (Action::Keep, Next::Done) => SyncAction::Unchanged,
        }
    }

    fn log_entry(&self, action: SyncAction) -> SyncEntry {
        let seen = self.item.seen.as_ref();
        SyncEntry {
            hint: self.now.hint.clone(),
            action,
            reason: self.settlement.reason.to_string(),
            notification_id: self.now.notification_id,
            source_changed_at: seen.and_then(|seen| seen.row.as_ref()).and_then(|row| row.changed_at),
            fetch_started_at: seen.map(|seen| seen.started_at),
        }
    }
}
