//! What is known of one table, and what is wanted to be known.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::CatalogError;
use crate::{
    domain::{Owner, TableLevel, TableName, TableSpec, backoff},
    upstream::{
        UpstreamError,
        describe::{Configured, DescribeError, Hints, describe},
        diagnose,
        queries::{RowField, RowType, TableField},
    },
};

/// How long an unknown or refused table is not looked up again.
const REFUSED: Duration = Duration::from_secs(60);
/// A table is renewed at most so often because a request or an answer did not fit it.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// A table is renewed at most so often for columns that were announced.
const COLUMNS_PAUSE: Duration = Duration::from_secs(2);
/// How long a description holds that has lost columns, which may come back.
const VANISHED: Duration = Duration::from_secs(25);
/// How long a column is not looked for again that a renewal did not bring.
const ABSENT: Duration = Duration::from_secs(3_600);
/// Columns that are remembered as absent; further ones are not looked for.
const ABSENT_MAX: usize = 1_000;
/// The pause after a failure that is not the table's own, and the least one after others.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The columns of a table as introspection shows them, before anything is decided about them.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) table: TableField,
    pub(super) row_type: RowType,
}

/// What a lookup came to: the table's shape, or that there is none of this name.
pub(super) type Lookup = Result<Option<Shape>, Arc<UpstreamError>>;

#[derive(Debug)]
enum Known {
    Described(Arc<TableSpec>),
    Unknown,
    /// Kept with its shape, since a notification may tell the key that is missing.
    Refused(DescribeError, Shape),
}

/// A lookup that is to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    /// Since when. A list of tables loaded before says nothing of it.
    pub(super) since: Instant,
    pub(super) not_before: Instant,
    /// Something waits for it.
    pub(super) is_urgent: bool,
}

#[derive(Debug)]
struct Failure {
    error: Arc<UpstreamError>,
    at: Instant,
    again_at: Instant,
}

/// One table.
#[derive(Debug)]
pub(super) struct Entry {
    level: TableLevel,
    pub(super) name: TableName,
    known: Option<Known>,
    known_since: Instant,
    pub(super) want: Option<Want>,
    /// A lookup is under way.
    pub(super) is_asked: bool,
    renewed_at: Option<Instant>,
    failures: u32,
    failure: Option<Failure>,
    /// Key columns of a notification, in its order.
    announced_key: Option<Vec<String>>,
    /// Announced columns that the next lookup is for, and those that the present one is for.
    wanted_columns: HashSet<String>,
    asked_columns: HashSet<String>,
    /// Columns, in lower case, that the API has and the mirror leaves out.
    left_out: HashSet<String>,
    /// Columns, in lower case, that a renewal did not bring.
    absent: HashMap<String, Instant>,
    /// Columns that an earlier description had.
    vanished: HashSet<String>,
}

impl Entry {
    pub(super) fn new(level: TableLevel, name: TableName) -> Self {
        Self {
            level,
            name,
            known: None,
            known_since: Instant::now(),
            want: None,
            is_asked: false,
            renewed_at: None,
            failures: 0,
            failure: None,
            announced_key: None,
            wanted_columns: HashSet::new(),
            asked_columns: HashSet::new(),
            left_out: HashSet::new(),
            absent: HashMap::new(),
            vanished: HashSet::new(),
        }
    }

    /// Takes over a description from an earlier run. Which columns of the customer's own it has, is for the settings of
    /// this one to say.
    pub(super) fn remember(&mut self, spec: TableSpec, configured: Configured<'_>) {
        // One whose key would be left out is described anew, which tells why it cannot be mirrored.
        if let Ok(spec) = configured.without_excluded(spec.with_extensions(configured.extensions)) {
            self.known = Some(Known::Described(Arc::new(spec)));
            self.known_since = Instant::now();
        }
    }

    pub(super) fn is_described(&self) -> bool {
        matches!(self.known, Some(Known::Described(_)))
    }

    /// What can be told at once.
    pub(super) fn answer(&self, now: Instant) -> Option<Result<Arc<TableSpec>, CatalogError>> {
        let is_recent = now.duration_since(self.known_since) < REFUSED;
        match &self.known {
            Some(Known::Described(spec)) => Some(Ok(Arc::clone(spec))),
            Some(Known::Unknown) if is_recent => {
                Some(Err(CatalogError::Unknown { table: self.name.clone(), level: self.level.name() }))
            }
            Some(Known::Refused(error, _)) if is_recent => Some(Err(error.clone().into())),
            _ => self.failure_at(now).map(Err),
        }
    }

    /// Why the last lookup failed, while it is too early for another.
    fn failure_at(&self, now: Instant) -> Option<CatalogError> {
        let failure = self.failure.as_ref().filter(|failure| now < failure.again_at)?;
        Some(CatalogError::Upstream(Arc::clone(&failure.error)))
    }

    /// Whether a lookup has failed since.
    pub(super) fn has_failed_since(&self, moment: Instant) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.at >= moment)
    }

    /// Whether a lookup is under way, may begin now, or will in a moment.
    pub(super) fn is_coming(&self, now: Instant) -> bool {
        let is_for_columns = !self.wanted_columns.is_empty() && self.failure.is_none();
        self.is_asked || self.want.is_some_and(|want| want.not_before <= now || is_for_columns)
    }

    /// Wants a lookup if nothing is known, or nothing that still holds.
    pub(super) fn refresh(&mut self, now: Instant, fresh: Duration) {
        let age = now.duration_since(self.known_since);
        let fresh = if self.vanished.is_empty() { fresh } else { fresh.min(VANISHED) };
        let is_urgent = match &self.known {
            Some(Known::Described(_)) if age < fresh => return,
            Some(Known::Unknown | Known::Refused(..)) if age < REFUSED => return,
            Some(Known::Described(_)) => false,
            Some(Known::Unknown | Known::Refused(..)) | None => true,
        };
        if self.want.is_none() && !self.is_asked && self.failure_at(now).is_none() {
            self.want(now, is_urgent, Duration::ZERO);
        }
    }

    /// Wants a new description, as soon as the last renewal is long enough ago.
    pub(super) fn renew(&mut self, now: Instant) {
        self.want(now, true, RENEWAL_PAUSE);
    }

    fn want(&mut self, now: Instant, is_urgent: bool, pause: Duration) {
        let renewed_at = self.renewed_at.filter(|_| self.is_described());
        let not_before = renewed_at.map_or(now, |at| now.max(at + pause));
        let want = self.want.get_or_insert(Want { since: now, not_before, is_urgent });
        want.since = now;
        want.not_before = want.not_before.min(not_before);
        want.is_urgent |= is_urgent;
    }

    /// What is known is too old to be relied on.
    pub(super) fn expire(&mut self, fresh: Duration) {
        if self.is_described() {
            self.known_since = Instant::now().checked_sub(fresh).unwrap_or(self.known_since);
        }
    }

    /// A notification tells the key. Only where nothing better does is it used, and then without asking again.
    pub(super) fn learn_key(&mut self, announced: &[String], configured: Configured<'_>) {
        if self.is_described() || self.announced_key.as_deref() == Some(announced) {
            return;
        }
        self.announced_key = Some(announced.to_vec());
        let lacks_key =
            |error: &DescribeError| matches!(error, DescribeError::NoKey { .. } | DescribeError::NoSuchColumn { .. });
        if let Some(Known::Refused(error, shape)) = &self.known
            && lacks_key(error)
        {
            self.take_shape(shape.clone(), configured);
        }
    }

    /// Announced columns that the description lacks, and that another look may bring.
    pub(super) fn lacking(&self, table: &TableSpec, announced: &[String], now: Instant) -> Vec<String> {
        let known: HashSet<String> = table.columns.iter().map(|column| column.name.to_ascii_lowercase()).collect();
        let is_absent = |name: &String| {
            let seen = self.absent.get(name);
            seen.map_or(self.absent.len() >= ABSENT_MAX, |at| now.duration_since(*at) < ABSENT)
        };
        let names = announced.iter().map(|name| name.to_ascii_lowercase());
        names.filter(|name| !known.contains(name) && !self.left_out.contains(name) && !is_absent(name)).collect()
    }

    pub(super) fn want_columns(&mut self, columns: Vec<String>, now: Instant) {
        let is_new = columns.iter().any(|column| !self.asked_columns.contains(column));
        self.wanted_columns.extend(columns);
        if is_new {
            self.want(now, true, COLUMNS_PAUSE);
        }
    }

    /// A lookup begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.want = None;
        self.is_asked = true;
        self.asked_columns = std::mem::take(&mut self.wanted_columns);
        if self.is_described() {
            self.renewed_at = Some(now);
        }
    }

    /// A lookup has come to its end.
    pub(super) fn finish(&mut self, lookup: Lookup, configured: Configured<'_>, now: Instant) {
        self.is_asked = false;
        match lookup {
            Err(error) => return self.fail(error, now),
            Ok(Some(shape)) => self.take_shape(shape, configured),
            Ok(None) if self.is_described() => {
                tracing::warn!(row.table = %self.name, "the API does not show the table; its last description is kept");
            }
            Ok(None) => self.known = Some(Known::Unknown),
        }
        self.known_since = now;
        self.failures = 0;
        self.failure = None;
        self.note_absent(now);
    }

    fn fail(&mut self, error: Arc<UpstreamError>, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match diagnose(&error).owner {
            Owner::Target | Owner::Schema => backoff(self.failures, FAILED_PAUSE, FAILED_PAUSE_MAX),
            Owner::Api | Owner::Tenant | Owner::Database | Owner::Row => FAILED_PAUSE,
        };
        let again_at = now + pause;
        self.failure = Some(Failure { error, at: now, again_at });
        self.wanted_columns.extend(std::mem::take(&mut self.asked_columns));
        if !self.wanted_columns.is_empty() {
            self.want = Some(Want { since: now, not_before: again_at, is_urgent: true });
        }
    }

    /// The key as it is known without the API: that of the last description, else that of a notification.
    fn known_key(&self) -> Option<Vec<String>> {
        match &self.known {
            Some(Known::Described(spec)) => Some(spec.key_columns().map(|column| column.name.clone()).collect()),
            _ => self.announced_key.clone(),
        }
    }

    /// Describes the table; an old description beats a refusal.
    fn take_shape(&mut self, shape: Shape, configured: Configured<'_>) {
        let known_key = self.known_key();
        let hints = Hints { configured, announced: known_key.as_deref() };
        match describe(&shape.table, &shape.row_type, hints) {
            Ok(spec) => {
                let is_kept = |field: &&RowField| spec.columns.iter().any(|column| column.name == field.name);
                let left_out = shape.row_type.fields.iter().filter(|field| !is_kept(field));
                self.left_out = left_out.map(|field| field.name.to_ascii_lowercase()).collect();
                if !configured.extensions.is_empty() && spec.columns.iter().all(|column| column.extension.is_none()) {
                    tracing::warn!(row.table = %self.name, "NXT_EXTENSION_COLUMNS: the API shows no extensions of the table");
                }
                if let Some(Known::Described(known)) = &self.known {
                    self.vanished.extend(known.columns.iter().map(|column| column.name.clone()));
                    self.vanished.retain(|name| spec.columns.iter().all(|column| column.name != *name));
                }
                // Those who compare descriptions by address need not look twice.
                if !matches!(&self.known, Some(Known::Described(known)) if **known == spec) {
                    self.known = Some(Known::Described(Arc::new(spec)));
                }
            }
            Err(error) if self.is_described() => {
                tracing::warn!(row.table = %self.name, %error, "the table's last description is kept");
            }
            Err(error) => self.known = Some(Known::Refused(error, shape)),
        }
    }

    fn note_absent(&mut self, now: Instant) {
        self.absent.retain(|_, since| now.duration_since(*since) < ABSENT);
        let asked: Vec<String> = std::mem::take(&mut self.asked_columns).into_iter().collect();
        let Some(Known::Described(spec)) = &self.known else { return };
        let absent = self.lacking(&Arc::clone(spec), &asked, now);
        self.absent.extend(absent.into_iter().map(|name| (name, now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::queries::Leaf;

    const FRESH: Duration = Duration::from_secs(3_600);

    fn shape(columns: &[(&str, &str)]) -> Shape {
        let field = |(name, description): &(&str, &str)| RowField {
            name: (*name).into(),
            description: (*description).into(),
            leaf: Some(Leaf::Scalar(if *name == "picture" { "Base64".into() } else { "Int".into() })),
        };
        let table = TableField { level: TableLevel::Company, field: "voucher".into() };
        let fields = columns.iter().map(field).collect();
        Shape { table, row_type: RowType { description: String::new(), fields } }
    }

    fn entry() -> Entry {
        Entry::new(TableLevel::Company, TableName::new("Voucher").unwrap())
    }

    fn described(now: Instant) -> Entry {
        let mut entry = entry();
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("no", "[PK]"), ("picture", "")]))), Configured::default(), now);
        entry
    }

    fn failure() -> Lookup {
        Err(Arc::new(UpstreamError::TimedOut))
    }

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|&column| column.to_owned()).collect()
    }

    #[test]
    fn what_is_unknown_is_wanted_and_what_is_fresh_is_not() {
        let now = Instant::now();
        let mut new = entry();
        new.refresh(now, FRESH);
        assert!(new.want.is_some_and(|want| want.is_urgent) && new.answer(now).is_none());
        let mut entry = described(now);
        entry.refresh(now + FRESH / 2, FRESH);
        assert!(entry.want.is_none() && matches!(entry.answer(now), Some(Ok(_))));
        entry.refresh(now + FRESH, FRESH);
        assert!(entry.want.is_some_and(|want| !want.is_urgent) && matches!(entry.answer(now + FRESH), Some(Ok(_))));
    }

    #[test]
    fn a_table_that_vanishes_or_cannot_be_looked_up_keeps_its_description() {
        let now = Instant::now();
        let mut entry = described(now);
        for lookup in [Ok(None), failure(), Ok(Some(shape(&[("other", "")]))), Ok(Some(shape(&[])))] {
            entry.begin(now);
            entry.finish(lookup, Configured::default(), now);
            assert!(matches!(entry.answer(now), Some(Ok(_))));
        }
    }

    #[test]
    fn an_unknown_table_is_told_for_a_minute_and_then_looked_up_again() {
        let now = Instant::now();
        let mut entry = entry();
        entry.begin(now);
        entry.finish(Ok(None), Configured::default(), now);
        assert!(matches!(entry.answer(now), Some(Err(CatalogError::Unknown { .. }))));
        entry.refresh(now, FRESH);
        assert!(entry.want.is_none());
        entry.refresh(now + REFUSED, FRESH);
        assert!(entry.want.is_some() && entry.answer(now + REFUSED).is_none());
    }

    #[test]
    fn lookups_that_fail_are_repeated_after_growing_pauses() {
        let now = Instant::now();
        let mut entry = entry();
        for pause in [1, 2, 4] {
            entry.begin(now);
            entry.finish(failure(), Configured::default(), now);
            let again_at = now + Duration::from_secs(pause);
            assert!(matches!(entry.answer(again_at - Duration::from_millis(1)), Some(Err(CatalogError::Upstream(_)))));
            assert!(entry.answer(again_at).is_none());
        }
    }

    #[test]
    fn a_notification_tells_the_key_of_a_table_that_was_refused_without_another_lookup() {
        let now = Instant::now();
        let mut entry = entry();
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("no", ""), ("line", "")]))), Configured::default(), now);
        assert!(matches!(entry.answer(now), Some(Err(CatalogError::Refused(DescribeError::NoKey { .. })))));
        entry.learn_key(&names(&["no", "line"]), Configured::default());
        assert_eq!(entry.answer(now).unwrap().unwrap().key, [0, 1]);
    }

    #[test]
    fn the_key_of_an_earlier_description_holds_where_nothing_tells_a_better_one() {
        let now = Instant::now();
        let mut entry = described(now);
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("new", ""), ("no", "")]))), Configured::default(), now);
        let spec = entry.answer(now).unwrap().unwrap();
        assert_eq!((spec.columns.len(), spec.key.as_slice()), (2, &[1][..]));
    }

    #[test]
    fn a_notification_with_a_wrong_key_does_not_shut_out_a_right_one() {
        let now = Instant::now();
        let mut entry = entry();
        entry.learn_key(&names(&["nonsense"]), Configured::default());
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("no", "")]))), Configured::default(), now);
        assert!(matches!(entry.answer(now), Some(Err(CatalogError::Refused(DescribeError::NoSuchColumn { .. })))));
        entry.learn_key(&names(&["No"]), Configured::default());
        assert!(matches!(entry.answer(now), Some(Ok(_))));
    }

    #[test]
    fn a_column_that_is_announced_and_lacking_renews_the_description_at_once_but_not_all_the_time() {
        let now = Instant::now();
        let mut entry = described(now);
        let spec = entry.answer(now).unwrap().unwrap();
        assert!(entry.lacking(&spec, &names(&["No", "Picture"]), now).is_empty(), "known, or left out on purpose");
        let lacking = entry.lacking(&spec, &names(&["No", "NewColumn"]), now);
        entry.want_columns(lacking, now);
        assert!(entry.is_coming(now));
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("no", "[PK]"), ("newColumn", "")]))), Configured::default(), now);
        let spec = entry.answer(now).unwrap().unwrap();
        assert_eq!((spec.columns.len(), entry.lacking(&spec, &names(&["NewColumn"]), now).len()), (2, 0));
        let lacking = entry.lacking(&spec, &names(&["Another"]), now);
        entry.want_columns(lacking, now);
        assert!(entry.want.is_some_and(|want| want.not_before == now + COLUMNS_PAUSE) && entry.is_coming(now));
    }

    #[test]
    fn a_column_that_no_renewal_brings_is_left_alone_for_an_hour() {
        let now = Instant::now();
        let mut entry = described(now);
        let spec = entry.answer(now).unwrap().unwrap();
        entry.want_columns(entry.lacking(&spec, &names(&["Ghost"]), now), now);
        entry.begin(now);
        entry.finish(Ok(Some(shape(&[("no", "[PK]")]))), Configured::default(), now);
        assert!(entry.lacking(&spec, &names(&["Ghost"]), now).is_empty());
        assert_eq!(entry.lacking(&spec, &names(&["Ghost"]), now + ABSENT), ["ghost"]);
    }

    #[test]
    fn a_column_announced_while_a_lookup_fails_is_looked_for_again() {
        let now = Instant::now();
        let mut entry = described(now);
        let spec = entry.answer(now).unwrap().unwrap();
        entry.want_columns(entry.lacking(&spec, &names(&["Late"]), now), now);
        entry.begin(now);
        entry.finish(failure(), Configured::default(), now);
        assert!(!entry.is_coming(now) && entry.is_coming(now + FAILED_PAUSE));
    }
}
