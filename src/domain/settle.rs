//! Settling: what the evidence about one row means for the mirror.
//!
//! Two clocks meet here (see [`super::time`]). The source stamps changes and deletions; the mirror's database stamps when
//! a notification was received and when a request started, so those two compare exactly, over all replicas. A deletion
//! happened before its notification was received, whatever the source's clock says: a fetch that started after that saw
//! the table without the row, or with the row made again. Between the source's own times nothing is decided by less than
//! [`AMBIGUITY_WINDOW`](super::time::AMBIGUITY_WINDOW).

use std::fmt;

use chrono::Duration;

use super::time::{DatabaseTime, SourceTime};

/// `ChangedTimestamp` of a webhook has milliseconds, the fetched column up to seven decimals.
const ANNOUNCED_PRECISION: Duration = Duration::milliseconds(1);
/// Fetches of a row whose read contradicts what is known, before the source is believed.
const LAG_RECHECKS_MAX: u32 = 5;
/// Fetches of a row that was announced and is not there, before it is believed to be gone.
const MISSING_RECHECKS_MAX: u32 = 3;
/// Fetches of a row whose last change lies within the ambiguity window before its deletion.
const AMBIGUOUS_RECHECKS_MAX: u32 = 1;

/// A deletion that a notification announced or that a fetch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// When, by the source's clock; for a deletion that a fetch found, as if the clocks agreed.
    pub at: SourceTime,
    /// When the mirror came to know, by the database's clock. Never earlier than the deletion itself.
    pub received_at: DatabaseTime,
}

/// INSERTs and UPDATEs that are not settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The latest `ChangedTimestamp`, if every one of them had one.
    pub changed_at: Option<SourceTime>,
}

/// What unsettled notifications say of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evidence {
    /// The latest DELETE.
    pub deletion: Option<Deletion>,
    /// INSERTs and UPDATEs taken together.
    pub announcement: Option<Announcement>,
    /// Fetches since the last notification that ended in a recheck.
    pub rechecks: Rechecks,
}

/// How often the source gave an answer that was not believed yet. Only answers that say the same add up: one late read
/// of an old copy proves nothing after others that saw no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rechecks {
    /// The row was there.
    pub found: u32,
    /// It was not.
    pub missing: u32,
}

/// An answer that is not believed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubted {
    /// The row was there.
    Found,
    /// It was not.
    Missing,
}

/// What the mirror holds of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// The mirrored row, unless it is absent or softly deleted.
    pub mirrored: Option<Mirrored>,
    /// The latest mirrored row of another spelling of the key, where this spelling has none. The source may hold the two
    /// equal.
    pub elsewhere: Option<Mirrored>,
    /// The last deletion that was applied, until the row comes back.
    pub tombstone: Option<Deletion>,
}

impl Known {
    fn latest(&self) -> Option<Mirrored> {
        self.mirrored.or(self.elsewhere)
    }
}

/// The times of a mirrored row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mirrored {
    /// `_changed_at`.
    pub changed_at: Option<SourceTime>,
    /// `_fetched_at`.
    pub fetched_at: DatabaseTime,
}

/// What the rules need to know of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// The source was not asked.
    Nothing,
    /// A request that started then saw the row, last changed at this time.
    Found {
        /// Start of the request.
        started_at: DatabaseTime,
        /// The row's change time, where it has one.
        changed_at: Option<SourceTime>,
    },
    /// A request that started then saw no row of this key.
    Missing {
        /// Start of the request.
        started_at: DatabaseTime,
        /// Whether the row was notified, settled or changed by somebody else since it was claimed. When a request starts
        /// says only how old its answer is at most: another one may have started before it and read after it.
        is_overtaken: bool,
    },
}

/// What becomes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Only the source can tell, and it was not asked.
    Fetch,
    /// Write the row that was found.
    Write {
        /// Why.
        reason: Reason,
        /// What follows.
        then: Then,
    },
    /// Remove the row, leave a tombstone; it is settled.
    Remove {
        /// What the tombstone says.
        deletion: Deletion,
        /// Why.
        reason: Reason,
    },
    /// Write nothing.
    Keep {
        /// Why.
        reason: Reason,
        /// What follows.
        then: Then,
    },
}

/// Whether a row is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Settled, unless another notification has come since.
    Settled,
    /// Fetch again after a pause.
    Recheck {
        /// How long to wait.
        pause: Duration,
        /// The answer that counts among those after which the source is believed; none if it was overtaken.
        counts: Option<Doubted>,
    },
}

/// Why, in words that end up in the sync log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The plain case.
    AsFetched,
    /// The plain case of a deletion.
    Gone,
    /// A DELETE that needed no fetch.
    Announced,
    /// A DELETE of an earlier life of the row.
    Stale,
    /// A DELETE was received after the request started.
    DeletedMeanwhile,
    /// The mirrored row came by a request that started later.
    Superseded,
    /// The row was notified or settled again while the request was under way.
    Overtaken,
    /// The row was changed after the mirrored version's time.
    OlderThanMirror,
    /// The read is older than the notification.
    OlderThanNotification,
    /// The row is there although its deletion is known, and its last change does not explain it.
    AliveAfterDeletion,
    /// An announced row is not there yet.
    NotThereYet,
    /// Fetched often enough: the source is believed against the other evidence.
    Believed,
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
            Self::Overtaken => "more became known of the row while the fetch was under way",
            Self::OlderThanMirror => "the fetched row is older than the mirrored one",
            Self::OlderThanNotification => "the fetched row is older than its notification",
            Self::AliveAfterDeletion => "the row is still there although its deletion is known; the read may lag",
            Self::NotThereYet => "the announced row is not there; the read may lag",
            Self::Believed => "the source gave the same answer every time and is believed",
        })
    }
}

/// Fetched again after one second, doubling, at most 16.
fn recheck(answer: Doubted, evidence: &Evidence) -> Then {
    let rechecks = evidence.rechecks.of(answer);
    Then::Recheck { pause: Duration::seconds(1 << rechecks.min(4)), counts: Some(answer) }
}

impl Rechecks {
    fn of(self, answer: Doubted) -> u32 {
        match answer {
            Doubted::Found => self.found,
            Doubted::Missing => self.missing,
        }
    }
}

/// The result was overtaken: fetched again after a second, and nothing is counted.
pub const OVERTAKEN: Then = Then::Recheck { pause: Duration::seconds(1), counts: None };

/// Decides what becomes of a row.
///
/// `evidence` and `known` are read while nobody else writes the target, so that they include what was applied while the
/// request was under way.
pub fn decide(evidence: &Evidence, known: &Known, observed: Observed) -> Verdict {
    match observed {
        Observed::Nothing => unasked(evidence, known),
        Observed::Found { started_at, changed_at } => found(started_at, changed_at, evidence, known),
        Observed::Missing { is_overtaken: true, .. } => Verdict::Keep { reason: Reason::Overtaken, then: OVERTAKEN },
        Observed::Missing { started_at, is_overtaken: false } => missing(started_at, evidence, known),
    }
}

/// What follows from the notifications and the mirror alone.
fn unasked(evidence: &Evidence, known: &Known) -> Verdict {
    let Some(deletion) = evidence.deletion else { return Verdict::Fetch };
    let deletion_is_last = match evidence.announcement {
        None => true,
        Some(Announcement { changed_at }) => changed_at.is_some_and(|at| at.is_clearly_before(deletion.at)),
    };
    if !deletion_is_last {
        return Verdict::Fetch;
    }
    match known.mirrored {
        None => Verdict::Remove { deletion, reason: Reason::Announced },
        Some(mirrored) => weigh(deletion, mirrored),
    }
}

/// A DELETE against the mirrored row.
fn weigh(deletion: Deletion, mirrored: Mirrored) -> Verdict {
    let remove = Verdict::Remove { deletion, reason: Reason::Announced };
    if deletion.at.is_ahead_of(deletion.received_at) {
        return Verdict::Fetch;
    }
    match mirrored.changed_at {
        Some(changed_at) if changed_at.reads_after(deletion.received_at) => Verdict::Fetch,
        Some(changed_at) if changed_at > deletion.at => Verdict::Keep { reason: Reason::Stale, then: Then::Settled },
        // A row seen alive after its deletion may have been read from a copy that lags: not certain enough.
        Some(_) if mirrored.fetched_at.reads_after(deletion.at) => Verdict::Fetch,
        Some(changed_at) if changed_at.is_clearly_before(deletion.at) => remove,
        Some(_) => Verdict::Fetch,
        None if mirrored.fetched_at.is_clearly_before_source(deletion.at) => remove,
        // Seen after the deletion, as it seems: but that compares two clocks, and one of them may be wrong.
        None => Verdict::Fetch,
    }
}

fn found(started_at: DatabaseTime, changed_at: Option<SourceTime>, evidence: &Evidence, known: &Known) -> Verdict {
    let deletions = [evidence.deletion, known.tombstone];
    if deletions.iter().flatten().any(|deletion| deletion.received_at >= started_at) {
        return Verdict::Keep { reason: Reason::DeletedMeanwhile, then: OVERTAKEN };
    }
    if let Some(verdict) = against_mirror(started_at, changed_at, evidence, known) {
        return verdict;
    }
    let believed = Verdict::Write { reason: Reason::Believed, then: Then::Settled };
    let doubt = deletions
        .iter()
        .flatten()
        .max_by_key(|deletion| deletion.at)
        .and_then(|deletion| doubt_after_deletion(changed_at, deletion.at));
    if let Some(rechecks_max) = doubt {
        return if evidence.rechecks.found < rechecks_max {
            Verdict::Keep { reason: Reason::AliveAfterDeletion, then: recheck(Doubted::Found, evidence) }
        } else {
            believed
        };
    }
    if !is_behind(changed_at, evidence) {
        return Verdict::Write { reason: Reason::AsFetched, then: Then::Settled };
    }
    if evidence.rechecks.found < LAG_RECHECKS_MAX {
        Verdict::Write { reason: Reason::OlderThanNotification, then: recheck(Doubted::Found, evidence) }
    } else {
        believed
    }
}

/// A fetched row that must not replace the mirrored one, or stand beside another spelling of its key.
fn against_mirror(
    started_at: DatabaseTime,
    changed_at: Option<SourceTime>,
    evidence: &Evidence,
    known: &Known,
) -> Option<Verdict> {
    let mirrored = known.latest()?;
    // Another spelling may be another row: then this one is as yet unknown.
    let then = if known.mirrored.is_some() { Then::Settled } else { OVERTAKEN };
    let superseded = Verdict::Keep { reason: Reason::Superseded, then };
    let mirror_is_newer = match (mirrored.changed_at, changed_at) {
        (Some(mirrored), Some(fetched)) if mirrored != fetched => mirrored > fetched,
        // A change time never goes back to unknown: the read is from before the first change.
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (Some(_), Some(_)) | (None, None) => return (mirrored.fetched_at > started_at).then_some(superseded),
    };
    if !mirror_is_newer {
        return None;
    }
    Some(if mirrored.fetched_at > started_at {
        superseded
    } else if evidence.rechecks.found < LAG_RECHECKS_MAX {
        Verdict::Keep { reason: Reason::OlderThanMirror, then: recheck(Doubted::Found, evidence) }
    } else {
        Verdict::Write { reason: Reason::Believed, then: Then::Settled }
    })
}

/// How many fetches a row needs that is there after a deletion at `deleted_at`; `None` when it was plainly made again.
fn doubt_after_deletion(changed_at: Option<SourceTime>, deleted_at: SourceTime) -> Option<u32> {
    match changed_at {
        Some(changed_at) if changed_at > deleted_at => None,
        Some(changed_at) if !changed_at.is_clearly_before(deleted_at) => Some(AMBIGUOUS_RECHECKS_MAX),
        Some(_) | None => Some(LAG_RECHECKS_MAX),
    }
}

/// Whether a fetched row is from before the change that was announced. An unknown change time is: the announced
/// change would have set it.
fn is_behind(changed_at: Option<SourceTime>, evidence: &Evidence) -> bool {
    let announced = evidence.announcement.and_then(|announcement| announcement.changed_at);
    announced.is_some_and(|announced| changed_at.is_none_or(|changed_at| changed_at + ANNOUNCED_PRECISION < announced))
}

fn missing(started_at: DatabaseTime, evidence: &Evidence, known: &Known) -> Verdict {
    if known.latest().is_some_and(|mirrored| mirrored.fetched_at > started_at) {
        return Verdict::Keep { reason: Reason::Superseded, then: OVERTAKEN };
    }
    let announced_alive = match (evidence.announcement, evidence.deletion) {
        (None, _) => false,
        (Some(announcement), Some(deletion)) => announcement.changed_at.is_none_or(|at| at > deletion.at),
        (Some(_), None) => true,
    };
    if announced_alive && evidence.rechecks.missing < MISSING_RECHECKS_MAX {
        return Verdict::Keep { reason: Reason::NotThereYet, then: recheck(Doubted::Missing, evidence) };
    }
    let deletion = Deletion { at: gone_at(started_at, known), received_at: started_at };
    Verdict::Remove { deletion, reason: if announced_alive { Reason::Believed } else { Reason::Gone } }
}

/// When a row was deleted that is not there. However far the source's clock is ahead, it was after the row's last change:
/// what a copy that lags shows of it later is no new row.
fn gone_at(started_at: DatabaseTime, known: &Known) -> SourceTime {
    let changed_at = known.latest().and_then(|mirrored| mirrored.changed_at);
    changed_at.into_iter().fold(SourceTime::as_if(started_at), SourceTime::max)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeZone, Utc};

    use super::*;

    /// Seconds on the clock of the test.
    fn utc(seconds: i64) -> DateTime<Utc> {
        Utc.timestamp_opt(1_770_000_000 + seconds, 0).unwrap()
    }

    fn s(seconds: i64) -> SourceTime {
        SourceTime::new(utc(seconds))
    }

    fn d(seconds: i64) -> DatabaseTime {
        DatabaseTime::new(utc(seconds))
    }

    fn deletion(at: i64, received_at: i64) -> Deletion {
        Deletion { at: s(at), received_at: d(received_at) }
    }

    fn deleted(at: i64, received_at: i64) -> Evidence {
        Evidence { deletion: Some(deletion(at, received_at)), ..Evidence::default() }
    }

    fn announced(changed_at: Option<i64>) -> Evidence {
        Evidence { announcement: Some(Announcement { changed_at: changed_at.map(s) }), ..Evidence::default() }
    }

    fn mirrored(changed_at: Option<i64>, fetched_at: i64) -> Known {
        let mirrored = Mirrored { changed_at: changed_at.map(s), fetched_at: d(fetched_at) };
        Known { mirrored: Some(mirrored), ..Known::default() }
    }

    fn found(started_at: i64, changed_at: Option<i64>) -> Observed {
        Observed::Found { started_at: d(started_at), changed_at: changed_at.map(s) }
    }

    fn missing(started_at: i64) -> Observed {
        Observed::Missing { started_at: d(started_at), is_overtaken: false }
    }

    fn unasked(evidence: &Evidence, known: &Known) -> Verdict {
        decide(evidence, known, Observed::Nothing)
    }

    const STALE: Verdict = Verdict::Keep { reason: Reason::Stale, then: Then::Settled };
    const WRITTEN: Verdict = Verdict::Write { reason: Reason::AsFetched, then: Then::Settled };
    const BELIEVED: Verdict = Verdict::Write { reason: Reason::Believed, then: Then::Settled };

    /// Kept for a recheck, for this reason.
    fn assert_kept(verdict: Verdict, expected: Reason) {
        let Verdict::Keep { reason, then: Then::Recheck { .. } } = verdict else { panic!("{verdict:?}") };
        assert_eq!(reason, expected);
    }

    #[test]
    fn a_delete_of_a_row_changed_long_before_is_applied_at_once() {
        let verdict = unasked(&deleted(1_000, 1_000), &mirrored(Some(10), 11));
        assert_eq!(verdict, Verdict::Remove { deletion: deletion(1_000, 1_000), reason: Reason::Announced });
    }

    #[test]
    fn a_delete_from_before_the_row_s_last_change_is_stale() {
        assert_eq!(unasked(&deleted(100, 103), &mirrored(Some(101), 102)), STALE);
    }

    #[test]
    fn a_delete_within_the_window_asks_the_source() {
        assert_eq!(unasked(&deleted(100, 100), &mirrored(Some(41), 42)), Verdict::Fetch);
    }

    #[test]
    fn a_row_changed_long_before_but_seen_after_its_deletion_asks_the_source() {
        assert_eq!(unasked(&deleted(1_000, 1_000), &mirrored(Some(10), 1_001)), Verdict::Fetch);
    }

    #[test]
    fn a_row_of_unknown_change_time_goes_by_when_it_was_fetched() {
        assert!(matches!(unasked(&deleted(1_000, 1_000), &mirrored(None, 10)), Verdict::Remove { .. }));
        for fetched_at in [950, 1_050, 9_999] {
            assert_eq!(unasked(&deleted(1_000, 1_000), &mirrored(None, fetched_at)), Verdict::Fetch);
        }
    }

    #[test]
    fn a_delete_beside_a_later_or_undated_insert_asks_the_source() {
        for changed_at in [None, Some(1_001), Some(999)] {
            let evidence = Evidence { deletion: Some(deletion(1_000, 1_000)), ..announced(changed_at) };
            assert_eq!(unasked(&evidence, &Known::default()), Verdict::Fetch, "{changed_at:?}");
        }
        let evidence = Evidence { deletion: Some(deletion(1_000, 1_000)), ..announced(Some(10)) };
        assert!(matches!(unasked(&evidence, &Known::default()), Verdict::Remove { .. }));
    }

    #[test]
    fn what_is_dated_in_the_future_proves_nothing() {
        // A deletion dated an hour after it was received, of a row that was made again since.
        assert_eq!(unasked(&deleted(3_600, 5), &mirrored(Some(3), 4)), Verdict::Fetch);
        // A row whose zone is read wrong, changed ten minutes before it was deleted.
        assert_eq!(unasked(&deleted(600, 602), &mirrored(Some(3_600), 1)), Verdict::Fetch);
        assert_eq!(unasked(&deleted(600, 602), &mirrored(Some(601), 1)), STALE);
    }

    #[test]
    fn an_answer_does_not_stand_beside_a_later_one_of_another_spelling() {
        let beside = |changed_at, fetched_at| {
            let mirrored = mirrored(changed_at, fetched_at).mirrored;
            Known { elsewhere: mirrored, ..Known::default() }
        };
        // Asked again rather than dropped: it may be another row.
        for then in [
            decide(&Evidence::default(), &beside(Some(45), 60), found(50, Some(40))),
            decide(&Evidence::default(), &beside(None, 60), found(50, None)),
            decide(&Evidence::default(), &beside(Some(45), 60), missing(50)),
        ] {
            assert_eq!(then, Verdict::Keep { reason: Reason::Superseded, then: OVERTAKEN });
        }
        assert_kept(decide(&Evidence::default(), &beside(Some(45), 48), found(50, Some(40))), Reason::OlderThanMirror);
        let mut evidence = Evidence::default();
        evidence.rechecks.found = LAG_RECHECKS_MAX;
        for (evidence, changed_at) in [(evidence, Some(40)), (Evidence::default(), Some(46))] {
            let verdict = decide(&evidence, &beside(Some(45), 48), found(50, changed_at));
            assert!(matches!(verdict, Verdict::Write { then: Then::Settled, .. }), "{verdict:?}");
        }
    }

    #[test]
    fn a_fetch_that_a_delete_overtook_is_dropped() {
        assert_kept(decide(&deleted(51, 51), &Known::default(), found(50, Some(49))), Reason::DeletedMeanwhile);
    }

    #[test]
    fn a_source_clock_an_hour_ahead_does_not_hold_a_row_back() {
        assert_eq!(decide(&deleted(3_600, 0), &Known::default(), found(1, Some(3_601))), WRITTEN);
    }

    #[test]
    fn a_row_made_again_after_its_deletion_is_written() {
        let known = Known { tombstone: Some(deletion(100, 101)), ..Known::default() };
        assert_eq!(decide(&Evidence::default(), &known, found(200, Some(150))), WRITTEN);
    }

    #[test]
    fn a_row_that_survives_its_deletion_is_believed_after_a_bounded_number_of_fetches() {
        for (changed_at, rechecks_max) in [(Some(10), LAG_RECHECKS_MAX), (None, LAG_RECHECKS_MAX), (Some(990), 1)] {
            let mut evidence = deleted(1_000, 1_000);
            for rechecks in 0..rechecks_max {
                evidence.rechecks.found = rechecks;
                let verdict = decide(&evidence, &Known::default(), found(1_100, changed_at));
                assert_kept(verdict, Reason::AliveAfterDeletion);
            }
            evidence.rechecks.found = rechecks_max;
            assert_eq!(decide(&evidence, &Known::default(), found(1_100, changed_at)), BELIEVED);
        }
    }

    #[test]
    fn an_older_read_never_replaces_a_newer_row() {
        for changed_at in [Some(10), None] {
            let verdict = decide(&Evidence::default(), &mirrored(Some(20), 50), found(60, changed_at));
            assert_kept(verdict, Reason::OlderThanMirror);
        }
        let verdict = decide(&Evidence::default(), &mirrored(None, 50), found(40, None));
        assert_eq!(verdict, Verdict::Keep { reason: Reason::Superseded, then: Then::Settled });
    }

    #[test]
    fn a_read_older_than_its_notification_is_written_and_fetched_again() {
        let then = Then::Recheck { pause: Duration::seconds(1), counts: Some(Doubted::Found) };
        let verdict = decide(&announced(Some(30)), &Known::default(), found(60, Some(20)));
        assert_eq!(verdict, Verdict::Write { reason: Reason::OlderThanNotification, then });
        let evidence = Evidence { rechecks: Rechecks { found: LAG_RECHECKS_MAX, missing: 0 }, ..announced(Some(30)) };
        assert_eq!(decide(&evidence, &Known::default(), found(60, Some(20))), BELIEVED);
    }

    #[test]
    fn milliseconds_of_a_webhook_are_not_newer_than_the_column_s_microseconds() {
        let announcement = Announcement { changed_at: Some(s(20) + Duration::milliseconds(367)) };
        let evidence = Evidence { announcement: Some(announcement), ..Evidence::default() };
        let changed_at = Some(s(20) + Duration::microseconds(366_600));
        let verdict = decide(&evidence, &Known::default(), Observed::Found { started_at: d(60), changed_at });
        assert_eq!(verdict, WRITTEN);
    }

    #[test]
    fn an_old_copy_of_a_row_that_is_gone_is_no_new_row_however_far_the_clocks_differ() {
        let Verdict::Remove { deletion, .. } = decide(&Evidence::default(), &mirrored(Some(3_600), 10), missing(60))
        else {
            panic!("the row is gone");
        };
        assert_eq!((deletion.at, deletion.received_at), (s(3_600), d(60)));
        let known = Known { tombstone: Some(deletion), ..Known::default() };
        let verdict = decide(&Evidence::default(), &known, found(70, Some(3_600)));
        assert_kept(verdict, Reason::AliveAfterDeletion);
        assert_eq!(decide(&Evidence::default(), &known, found(70, Some(3_601))), WRITTEN);
    }

    #[test]
    fn missing_is_believed_at_once_unless_the_row_was_announced() {
        let gone = |reason| Verdict::Remove { deletion: deletion(60, 60), reason };
        for evidence in [Evidence::default(), deleted(50, 50)] {
            assert_eq!(decide(&evidence, &mirrored(Some(10), 20), missing(60)), gone(Reason::Gone));
        }
        for rechecks in 0..MISSING_RECHECKS_MAX {
            let evidence = Evidence { rechecks: Rechecks { found: 0, missing: rechecks }, ..announced(Some(55)) };
            assert_kept(decide(&evidence, &Known::default(), missing(60)), Reason::NotThereYet);
        }
        let evidence =
            Evidence { rechecks: Rechecks { found: 0, missing: MISSING_RECHECKS_MAX }, ..announced(Some(55)) };
        assert_eq!(decide(&evidence, &Known::default(), missing(60)), gone(Reason::Believed));
    }

    #[test]
    fn a_row_that_was_settled_by_others_meanwhile_is_not_removed() {
        let observed = Observed::Missing { started_at: d(60), is_overtaken: true };
        let verdict = decide(&Evidence::default(), &mirrored(Some(55), 50), observed);
        assert_eq!(verdict, Verdict::Keep { reason: Reason::Overtaken, then: OVERTAKEN });
    }

    #[test]
    fn answers_that_contradict_each_other_do_not_add_up() {
        let rechecks = Rechecks { found: 0, missing: MISSING_RECHECKS_MAX };
        let known = Known { tombstone: Some(deletion(50, 51)), ..Known::default() };
        let verdict = decide(&Evidence { rechecks, ..announced(Some(10)) }, &known, found(60, Some(10)));
        assert_kept(verdict, Reason::AliveAfterDeletion);
    }

    #[test]
    fn missing_with_a_delete_after_the_announced_change_is_believed_at_once() {
        let evidence = Evidence { deletion: Some(deletion(58, 59)), ..announced(Some(57)) };
        let verdict = decide(&evidence, &Known::default(), missing(60));
        assert_eq!(verdict, Verdict::Remove { deletion: deletion(60, 60), reason: Reason::Gone });
    }

    #[test]
    fn missing_seen_before_the_mirrored_fetch_is_dropped() {
        assert_kept(decide(&Evidence::default(), &mirrored(Some(10), 50), missing(40)), Reason::Superseded);
    }
}
