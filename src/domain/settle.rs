//! Settling: what the evidence about one row means for the mirror.
//!
//! Two clocks meet here. The source stamps changes and deletions; the mirror's database stamps when a notification
//! was received and when a request started, so those two compare exactly, over all replicas. A deletion happened
//! before its notification was received, whatever the source's clock says: a fetch that started after that saw the
//! table without the row, or with the row made again. Between the source's own times nothing is decided by less
//! than [`AMBIGUITY_WINDOW`].

use std::fmt;

use chrono::Duration;

use super::time::Time;

/// How far a DELETE's `timestamp` may lie from the deletion itself and still be told apart from a change.
pub const AMBIGUITY_WINDOW: Duration = Duration::seconds(60);
/// `ChangedTimestamp` of a webhook has milliseconds, the fetched column up to seven decimals.
const HINT_PRECISION: Duration = Duration::milliseconds(1);
/// Looks at a row whose read contradicts what is known, before the source is believed.
const LAG_LOOKS_MAX: u32 = 5;
/// Looks at a row that was announced and is not there, before it is believed to be gone.
const MISSING_LOOKS_MAX: u32 = 3;
/// Looks at a row whose last change lies within the ambiguity window before its deletion.
const AMBIGUOUS_LOOKS_MAX: u32 = 1;

/// A deletion that a notification announced or that a fetch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// When, by the source's clock; for a deletion that a fetch found, the start of its request.
    pub at: Time,
    /// When the mirror came to know, by the database's clock. Never earlier than the deletion itself.
    pub received_at: Time,
}

/// INSERTs and UPDATEs that are not settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The latest `ChangedTimestamp`, if every one of them had one.
    pub changed_at: Option<Time>,
}

/// What unsettled notifications say of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    /// The latest DELETE.
    pub deletion: Option<Deletion>,
    /// INSERTs and UPDATEs taken together.
    pub announcement: Option<Announcement>,
    /// Looks since the last notification that ended in another look.
    pub looks: u32,
}

/// What the mirror holds of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The mirrored row, unless it is absent or softly deleted.
    pub mirrored: Option<Mirrored>,
    /// The last deletion that was applied, until the row comes back.
    pub tombstone: Option<Deletion>,
}

/// The times of a mirrored row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirrored {
    /// `_changed_at`.
    pub changed_at: Option<Time>,
    /// `_fetched_at`.
    pub fetched_at: Time,
}

/// What to do about a row before asking the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BeforeFetch {
    /// The deletion is certain: apply it without a request.
    Delete(Deletion),
    /// The deletion is about an earlier life of the row.
    IgnoreStale,
    /// Only the source can tell.
    Fetch,
}

/// One answered look at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// When its request started, by the database's clock.
    pub started_at: Time,
    /// What it saw.
    pub sight: Sight,
}

/// What a fetch saw of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The row, last changed at this time.
    Found(Option<Time>),
    /// No row of this key.
    Missing,
}

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write the fetched row.
    Upsert,
    /// Remove the row and leave a tombstone.
    Delete(Deletion),
    /// Write nothing.
    Keep,
}

/// Whether the row is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Settled, unless another notification has come since.
    Done,
    /// Look again after a pause.
    LookAgain {
        /// How long to wait.
        pause: Duration,
    },
}

/// Why, in words that end up in the sync log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The plain case.
    AsFetched,
    /// The plain case of a deletion.
    Gone,
    /// A DELETE that needed no look.
    Announced,
    /// A DELETE of an earlier life of the row.
    Stale,
    /// A DELETE was received after the request started.
    DeletedMeanwhile,
    /// The mirrored row came by a request that started later.
    Superseded,
    /// The row was changed after the mirrored version's time.
    OlderThanMirror,
    /// The read is older than the notification.
    OlderThanNotification,
    /// The row is there although its deletion is known, and its last change does not explain it.
    AliveAfterDeletion,
    /// An announced row is not there yet.
    NotThereYet,
    /// Looked often enough: the source is believed against the other evidence.
    Believed,
}

impl Reason {
    /// Whether the result was overtaken rather than in doubt: another look is due, but nothing is counted.
    pub fn is_overtaking(self) -> bool {
        matches!(self, Self::DeletedMeanwhile | Self::Superseded)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsFetched => "as fetched",
            Self::Gone => "the source no longer has the row",
            Self::Announced => "deleted by its notification's timestamp",
            Self::Stale => "the row was changed after this deletion",
            Self::DeletedMeanwhile => "a deletion became known while the fetch was under way",
            Self::Superseded => "a fetch that started later has already been applied",
            Self::OlderThanMirror => "the fetched row is older than the mirrored one",
            Self::OlderThanNotification => "the fetched row is older than its notification",
            Self::AliveAfterDeletion => "the row is still there although its deletion is known; the read may lag",
            Self::NotThereYet => "the announced row is not there; the read may lag",
            Self::Believed => "the source gave the same answer every time and is believed",
        })
    }
}

/// The verdict on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// What to write.
    pub action: Action,
    /// Whether to look again.
    pub next: Next,
    /// Why.
    pub reason: Reason,
}

impl Settlement {
    fn done(action: Action, reason: Reason) -> Self {
        Self { action, next: Next::Done, reason }
    }

    fn look_again(action: Action, reason: Reason, looks: u32) -> Self {
        Self { action, next: Next::LookAgain { pause: pause_after(looks) }, reason }
    }
}

/// One second, doubling, at most 16.
fn pause_after(looks: u32) -> Duration {
    Duration::seconds(1 << looks.min(4))
}

/// Decides what a row needs, from its notifications and the mirror alone.
pub fn before_fetch(evidence: &Evidence, known: &Known) -> BeforeFetch {
    let Some(deletion) = evidence.deletion else { return BeforeFetch::Fetch };
    let deletion_is_last = match evidence.announcement {
        None => true,
        Some(Announcement { changed_at }) => changed_at.is_some_and(|at| clearly_before(at, deletion.at)),
    };
    if !deletion_is_last {
        return BeforeFetch::Fetch;
    }
    match known.mirrored {
        None => BeforeFetch::Delete(deletion),
        Some(mirrored) => weigh(deletion, mirrored),
    }
}

/// A DELETE against the mirrored row.
fn weigh(deletion: Deletion, mirrored: Mirrored) -> BeforeFetch {
    // What lies in the future is dated by a clock, or read by a zone, that is wrong: it proves nothing.
    if clearly_before(deletion.received_at, deletion.at) {
        return BeforeFetch::Fetch;
    }
    match mirrored.changed_at {
        Some(changed_at) if changed_at > deletion.received_at => BeforeFetch::Fetch,
        Some(changed_at) if changed_at > deletion.at => BeforeFetch::IgnoreStale,
        // A row seen alive after its deletion may have been read from a copy that lags: not certain enough.
        Some(changed_at) if clearly_before(changed_at, deletion.at) && mirrored.fetched_at <= deletion.at => {
            BeforeFetch::Delete(deletion)
        }
        Some(_) => BeforeFetch::Fetch,
        None if clearly_before(mirrored.fetched_at, deletion.at) => BeforeFetch::Delete(deletion),
        // Seen after the deletion, as it seems: but that compares two clocks, and one of them may be wrong.
        None => BeforeFetch::Fetch,
    }
}

/// Decides what a fetched row, or its absence, means.
///
/// `evidence` and `known` are read under the locks of the transaction that applies the verdict, so that they include
/// what arrived while the request was under way.
pub fn after_fetch(look: Look, evidence: &Evidence, known: &Known) -> Settlement {
    match look.sight {
        Sight::Found(changed_at) => found(look.started_at, changed_at, evidence, known),
        Sight::Missing => missing(look.started_at, evidence, known),
    }
}

fn found(started_at: Time, changed_at: Option<Time>, evidence: &Evidence, known: &Known) -> Settlement {
    let deletions = [evidence.deletion, known.tombstone];
    if deletions.iter().flatten().any(|deletion| deletion.received_at >= started_at) {
        return Settlement::look_again(Action::Keep, Reason::DeletedMeanwhile, 0);
    }
    if let Some(settlement) = against_mirror(started_at, changed_at, evidence, known) {
        return settlement;
    }
    let doubt = deletions
        .iter()
        .flatten()
        .max_by_key(|deletion| deletion.at)
        .and_then(|deletion| doubt_after_deletion(changed_at, deletion.at));
    if let Some(looks_max) = doubt {
        return if evidence.looks < looks_max {
            Settlement::look_again(Action::Keep, Reason::AliveAfterDeletion, evidence.looks)
        } else {
            Settlement::done(Action::Upsert, Reason::Believed)
        };
    }
    if !is_behind(changed_at, evidence) {
        return Settlement::done(Action::Upsert, Reason::AsFetched);
    }
    if evidence.looks < LAG_LOOKS_MAX {
        Settlement::look_again(Action::Upsert, Reason::OlderThanNotification, evidence.looks)
    } else {
        Settlement::done(Action::Upsert, Reason::Believed)
    }
}

/// A fetched row that must not replace the mirrored one.
fn against_mirror(
    started_at: Time,
    changed_at: Option<Time>,
    evidence: &Evidence,
    known: &Known,
) -> Option<Settlement> {
    let mirrored = known.mirrored?;
    let mirror_is_newer = match (mirrored.changed_at, changed_at) {
        (Some(mirrored), Some(fetched)) if mirrored != fetched => mirrored > fetched,
        // A change time never goes back to unknown: the read is from before the first change.
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (Some(_), Some(_)) | (None, None) => {
            return (mirrored.fetched_at > started_at).then_some(Settlement::done(Action::Keep, Reason::Superseded));
        }
    };
    if !mirror_is_newer {
        return None;
    }
    Some(if mirrored.fetched_at > started_at {
        Settlement::done(Action::Keep, Reason::Superseded)
    } else if evidence.looks < LAG_LOOKS_MAX {
        Settlement::look_again(Action::Keep, Reason::OlderThanMirror, evidence.looks)
    } else {
        Settlement::done(Action::Upsert, Reason::Believed)
    })
}

/// How many looks a row needs that is there after a deletion at `deleted_at`; `None` when it was plainly made again.
fn doubt_after_deletion(changed_at: Option<Time>, deleted_at: Time) -> Option<u32> {
    match changed_at {
        Some(changed_at) if changed_at > deleted_at => None,
        Some(changed_at) if !clearly_before(changed_at, deleted_at) => Some(AMBIGUOUS_LOOKS_MAX),
        Some(_) | None => Some(LAG_LOOKS_MAX),
    }
}

/// Whether a fetched row is from before the change that was announced. An unknown change time is: the announced
/// change would have set it.
fn is_behind(changed_at: Option<Time>, evidence: &Evidence) -> bool {
    let announced = evidence.announcement.and_then(|announcement| announcement.changed_at);
    announced.is_some_and(|announced| changed_at.is_none_or(|changed_at| changed_at + HINT_PRECISION < announced))
}

fn missing(started_at: Time, evidence: &Evidence, known: &Known) -> Settlement {
    if known.mirrored.is_some_and(|mirrored| mirrored.fetched_at > started_at) {
        return Settlement::look_again(Action::Keep, Reason::Superseded, 0);
    }
    let announced_alive = match (evidence.announcement, evidence.deletion) {
        (None, _) => false,
        (Some(announcement), Some(deletion)) => announcement.changed_at.is_none_or(|at| at > deletion.at),
        (Some(_), None) => true,
    };
    if announced_alive && evidence.looks < MISSING_LOOKS_MAX {
        return Settlement::look_again(Action::Keep, Reason::NotThereYet, evidence.looks);
    }
    let deletion = Deletion { at: started_at, received_at: started_at };
    let reason = if announced_alive { Reason::Believed } else { Reason::Gone };
    Settlement::done(Action::Delete(deletion), reason)
}

fn clearly_before(earlier: Time, later: Time) -> bool {
    earlier + AMBIGUITY_WINDOW < later
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;

    /// Seconds on the clock of the test.
    fn t(seconds: i64) -> Time {
        Utc.timestamp_opt(1_770_000_000 + seconds, 0).unwrap()
    }

    fn deletion(at: i64, received_at: i64) -> Option<Deletion> {
        Some(Deletion { at: t(at), received_at: t(received_at) })
    }

    fn deleted(at: i64) -> Evidence {
        Evidence { deletion: deletion(at, at), ..Evidence::default() }
    }

    fn announced(changed_at: Option<i64>) -> Evidence {
        Evidence { announcement: Some(Announcement { changed_at: changed_at.map(t) }), ..Evidence::default() }
    }

    fn mirrored(changed_at: Option<i64>, fetched_at: i64) -> Known {
        let mirrored = Mirrored { changed_at: changed_at.map(t), fetched_at: t(fetched_at) };
        Known { mirrored: Some(mirrored), tombstone: None }
    }

    fn look(started_at: i64, sight: Sight) -> Look {
        Look { started_at: t(started_at), sight }
    }

    #[test]
    fn a_delete_of_a_row_changed_long_before_is_applied_at_once() {
        let verdict = before_fetch(&deleted(1_000), &mirrored(Some(10), 11));
        assert_eq!(verdict, BeforeFetch::Delete(Deletion { at: t(1_000), received_at: t(1_000) }));
    }

    #[test]
    fn a_delete_from_before_the_row_s_last_change_is_stale() {
        let evidence = Evidence { deletion: deletion(100, 103), ..Evidence::default() };
        assert_eq!(before_fetch(&evidence, &mirrored(Some(101), 102)), BeforeFetch::IgnoreStale);
    }

    #[test]
    fn a_delete_within_the_window_asks_the_source() {
        assert_eq!(before_fetch(&deleted(100), &mirrored(Some(41), 42)), BeforeFetch::Fetch);
    }

    #[test]
    fn a_row_changed_long_before_but_seen_after_its_deletion_asks_the_source() {
        assert_eq!(before_fetch(&deleted(1_000), &mirrored(Some(10), 1_001)), BeforeFetch::Fetch);
    }

    #[test]
    fn a_row_of_unknown_change_time_goes_by_when_it_was_fetched() {
        assert!(matches!(before_fetch(&deleted(1_000), &mirrored(None, 10)), BeforeFetch::Delete(_)));
        assert_eq!(before_fetch(&deleted(1_000), &mirrored(None, 950)), BeforeFetch::Fetch);
        assert_eq!(before_fetch(&deleted(1_000), &mirrored(None, 1_050)), BeforeFetch::Fetch);
        assert_eq!(before_fetch(&deleted(1_000), &mirrored(None, 9_999)), BeforeFetch::Fetch);
    }

    #[test]
    fn a_delete_beside_a_later_or_undated_insert_asks_the_source() {
        for changed_at in [None, Some(1_001), Some(999)] {
            let evidence = Evidence { deletion: deletion(1_000, 1_000), ..announced(changed_at) };
            assert_eq!(before_fetch(&evidence, &Known::default()), BeforeFetch::Fetch, "{changed_at:?}");
        }
        let evidence = Evidence { deletion: deletion(1_000, 1_000), ..announced(Some(10)) };
        assert!(matches!(before_fetch(&evidence, &Known::default()), BeforeFetch::Delete(_)));
    }

    #[test]
    fn what_is_dated_in_the_future_proves_nothing() {
        // A deletion dated an hour after it was received, of a row that was made again since.
        let evidence = Evidence { deletion: deletion(3_600, 5), ..Evidence::default() };
        assert_eq!(before_fetch(&evidence, &mirrored(Some(3), 4)), BeforeFetch::Fetch);
        // A row whose zone is read wrong, changed ten minutes before it was deleted.
        let evidence = Evidence { deletion: deletion(600, 602), ..Evidence::default() };
        assert_eq!(before_fetch(&evidence, &mirrored(Some(3_600), 1)), BeforeFetch::Fetch);
        assert_eq!(before_fetch(&evidence, &mirrored(Some(601), 1)), BeforeFetch::IgnoreStale);
    }

    #[test]
    fn a_fetch_that_a_delete_overtook_is_dropped() {
        let settlement = after_fetch(look(50, Sight::Found(Some(t(49)))), &deleted(51), &Known::default());
        assert_eq!((settlement.action, settlement.reason), (Action::Keep, Reason::DeletedMeanwhile));
        assert_ne!(settlement.next, Next::Done);
    }

    #[test]
    fn a_source_clock_an_hour_ahead_does_not_hold_a_row_back() {
        let evidence = Evidence { deletion: deletion(3_600, 0), ..Evidence::default() };
        let settlement = after_fetch(look(1, Sight::Found(Some(t(3_601)))), &evidence, &Known::default());
        assert_eq!((settlement.action, settlement.next), (Action::Upsert, Next::Done));
    }

    #[test]
    fn a_row_made_again_after_its_deletion_is_written() {
        let known = Known { mirrored: None, tombstone: deletion(100, 101) };
        let settlement = after_fetch(look(200, Sight::Found(Some(t(150)))), &Evidence::default(), &known);
        assert_eq!(settlement, Settlement::done(Action::Upsert, Reason::AsFetched));
    }

    #[test]
    fn a_row_that_survives_its_deletion_is_believed_after_a_bounded_number_of_looks() {
        for (changed_at, looks_max) in [(Some(10), LAG_LOOKS_MAX), (None, LAG_LOOKS_MAX), (Some(990), 1)] {
            let mut evidence = deleted(1_000);
            let sight = look(1_100, Sight::Found(changed_at.map(t)));
            for looks in 0..looks_max {
                evidence.looks = looks;
                let settlement = after_fetch(sight, &evidence, &Known::default());
                assert_eq!((settlement.action, settlement.reason), (Action::Keep, Reason::AliveAfterDeletion));
            }
            evidence.looks = looks_max;
            let settlement = after_fetch(sight, &evidence, &Known::default());
            assert_eq!(settlement, Settlement::done(Action::Upsert, Reason::Believed));
        }
    }

    #[test]
    fn an_older_read_never_replaces_a_newer_row() {
        for (changed_at, started_at) in [(Some(10), 60), (None, 60)] {
            let sight = look(started_at, Sight::Found(changed_at.map(t)));
            let settlement = after_fetch(sight, &Evidence::default(), &mirrored(Some(20), 50));
            assert_eq!((settlement.action, settlement.reason), (Action::Keep, Reason::OlderThanMirror));
        }
        let overtaken = look(40, Sight::Found(None));
        let settlement = after_fetch(overtaken, &Evidence::default(), &mirrored(None, 50));
        assert_eq!(settlement, Settlement::done(Action::Keep, Reason::Superseded));
    }

    #[test]
    fn a_read_older_than_its_notification_is_written_and_looked_at_again() {
        let settlement = after_fetch(look(60, Sight::Found(Some(t(20)))), &announced(Some(30)), &Known::default());
        assert_eq!((settlement.action, settlement.reason), (Action::Upsert, Reason::OlderThanNotification));
        assert_eq!(settlement.next, Next::LookAgain { pause: Duration::seconds(1) });
        let evidence = Evidence { looks: LAG_LOOKS_MAX, ..announced(Some(30)) };
        let settlement = after_fetch(look(60, Sight::Found(Some(t(20)))), &evidence, &Known::default());
        assert_eq!(settlement, Settlement::done(Action::Upsert, Reason::Believed));
    }

    #[test]
    fn milliseconds_of_a_webhook_are_not_newer_than_the_column_s_microseconds() {
        let column = t(20) + Duration::microseconds(366_600);
        let evidence = Evidence {
            announcement: Some(Announcement { changed_at: Some(t(20) + Duration::milliseconds(367)) }),
            ..Evidence::default()
        };
        let settlement = after_fetch(look(60, Sight::Found(Some(column))), &evidence, &Known::default());
        assert_eq!(settlement.next, Next::Done);
    }

    #[test]
    fn missing_is_believed_at_once_unless_the_row_was_announced() {
        let gone = Deletion { at: t(60), received_at: t(60) };
        for evidence in [Evidence::default(), deleted(50)] {
            let settlement = after_fetch(look(60, Sight::Missing), &evidence, &mirrored(Some(10), 20));
            assert_eq!(settlement, Settlement::done(Action::Delete(gone), Reason::Gone));
        }
        for looks in 0..MISSING_LOOKS_MAX {
            let evidence = Evidence { looks, ..announced(Some(55)) };
            let settlement = after_fetch(look(60, Sight::Missing), &evidence, &Known::default());
            assert_eq!((settlement.action, settlement.reason), (Action::Keep, Reason::NotThereYet));
        }
        let evidence = Evidence { looks: MISSING_LOOKS_MAX, ..announced(Some(55)) };
        let settlement = after_fetch(look(60, Sight::Missing), &evidence, &Known::default());
        assert_eq!(settlement, Settlement::done(Action::Delete(gone), Reason::Believed));
    }

    #[test]
    fn missing_with_a_delete_after_the_announced_change_is_believed_at_once() {
        let evidence = Evidence { deletion: deletion(58, 59), ..announced(Some(57)) };
        let settlement = after_fetch(look(60, Sight::Missing), &evidence, &Known::default());
        assert_eq!((settlement.next, settlement.reason), (Next::Done, Reason::Gone));
    }

    #[test]
    fn missing_seen_before_the_mirrored_fetch_is_dropped() {
        let settlement = after_fetch(look(40, Sight::Missing), &Evidence::default(), &mirrored(Some(10), 50));
        assert_eq!((settlement.action, settlement.reason), (Action::Keep, Reason::Superseded));
    }
}
