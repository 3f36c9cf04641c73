//! Keyset pages of one range, with patience for an API that has a bad moment and a way around rows that it cannot read.

use std::{ops::AddAssign, sync::Arc, time::Duration};

use super::{Progress, Source, WalkError, ranges::Range};
use crate::{
    domain::{ColumnType, Diagnosis, KeyValue, Owner, RowKey, SourceTime, TableSpec, TargetTable, backoff},
    telemetry::chain,
    upstream::{Ask, AskError, PageAsk, TablePage},
};

/// Failures in a row before a walk gives up for now, and before a sweep does, which comes again soon.
const FAILURES_MAX: u32 = 8;
const SWEEP_FAILURES_MAX: u32 = 3;
/// Refusals in a row of a table that cannot be read at all, before a walk gives up for now. A sweep gives up at once.
const REFUSALS_MAX: u32 = 2;
/// Times that one row is asked for before it is passed over.
const SINGLE_TRIES: u32 = 3;
/// Rows passed over one after the other before a walk gives up: then it is not the rows that are to blame.
const SKIPPED_MAX: usize = 50;
/// Pause after the first failure, and the longest one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Rows of a page for each key that a request may name: a page names none, so it may be larger.
const ROWS_PER_KEY: usize = 10;
/// The largest page seen in other clients (API notes, paging).
pub(super) const ROWS_MAX: usize = 5_000;
/// Values in a page, which bounds its memory whatever the number of columns.
const VALUES_MAX: usize = 100_000;

/// Where a walk is in its range.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    source: &'a Source,
    target: &'a TargetTable,
    progress: &'a Progress,
    through: Option<&'a RowKey>,
    changed_since: Option<SourceTime>,
    failures_max: u32,
    refusals_max: u32,
    /// Whether the next page counts the rows.
    is_counted: bool,
    rows_max: usize,
    size: usize,
    position: Option<RowKey>,
    /// Rows behind the position that have been walked: the source cannot be asked for what lies behind their keys.
    behind: usize,
    /// Rows to leave out behind those, since not even their keys can be read.
    skip: usize,
    /// Rows passed over since the last page, and why, as far as they have a key.
    passed_over: Vec<(RowKey, String)>,
    /// Rows passed over so far.
    pub(super) skipped: Skipped,
}

/// Rows that a walk passed over, since the API could not read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// All of them.
    pub(super) rows: u64,
    /// Those of which not even the key is known. The others come with a page, among its unreadable rows.
    pub(super) unknown: u64,
}

impl AddAssign for Skipped {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.unknown += other.unknown;
    }
}

/// Failures on the way to one page.
#[derive(Debug, Default)]
struct Tries {
    failures: u32,
    refusals: u32,
    /// Times that one row alone was asked for.
    single: u32,
    /// A page had two rows of one key.
    is_one_key: bool,
}

/// What a failed page came to.
enum Trouble {
    /// After this pause the same again.
    Again(Duration),
    /// Fewer rows, or one row further.
    Smaller,
    /// For good.
    Final,
}

impl<'a> Pages<'a> {
    pub(super) fn new(source: &'a Source, target: &'a TargetTable, range: &'a Range, progress: &'a Progress) -> Self {
        let rows_max = rows_max(&target.table, source.keys_max);
        Self {
            source,
            target,
            progress,
            through: range.through.as_ref(),
            changed_since: None,
            failures_max: FAILURES_MAX,
            refusals_max: REFUSALS_MAX,
            is_counted: false,
            rows_max,
            size: rows_max,
            position: range.position.as_ref().or(range.after.as_ref()).cloned(),
            behind: 0,
            skip: 0,
            passed_over: vec![],
            skipped: Skipped::default(),
        }
    }

    /// Pages of a sweep.
    pub(super) fn changed_since(self, moment: SourceTime) -> Self {
        Self { changed_since: Some(moment), failures_max: SWEEP_FAILURES_MAX, refusals_max: 0, ..self }
    }

    pub(super) fn counted(self) -> Self {
        Self { is_counted: true, ..self }
    }

    /// The next page; its last key becomes the position.
    pub(super) async fn next(&mut self) -> Result<TablePage, WalkError> {
        if let Some(pacer) = &self.source.pacer {
            pacer.wait().await;
        }
        let mut tries = Tries::default();
        loop {
            let error = match self.ask().await {
                Ok(page) => return Ok(self.arrive(page)),
                // Fewer rows would only hide it. A row that moved while the page was read is not there twice the next time.
                Err(WalkError::OneKey(_)) if !tries.is_one_key => {
                    tries.is_one_key = true;
                    continue;
                }
                Err(error @ WalkError::OneKey(_)) => return Err(error),
                Err(error) => error,
            };
            match self.judge(&error.diagnose(), &mut tries).await? {
                Trouble::Final => return Err(error),
                Trouble::Again(pause) => tokio::time::sleep(pause).await,
                Trouble::Smaller if self.size > 1 => self.size = (self.size / 2).max(1),
                Trouble::Smaller => self.try_single(error, &mut tries).await?,
            }
        }
    }

    fn arrive(&mut self, mut page: TablePage) -> TablePage {
        self.size = (self.size * 2).min(self.rows_max);
        self.is_counted = false;
        match &page.last_key {
            Some(key) => (self.position, self.behind) = (Some(key.clone()), page.behind),
            None => self.behind += self.skip + page.behind,
        }
        self.skip = 0;
        page.unreadable.append(&mut self.passed_over);
        if let Some(reason) = page.unnamed.first() {
            let (target, rows) = (self.target, page.unnamed.len() as u64);
            self.skipped += Skipped { rows, unknown: rows };
            tracing::warn!(%target, rows, reason, "rows whose key cannot be read, the walk passes over them");
        }
        page
    }

    async fn judge(&self, diagnosis: &Diagnosis, tries: &mut Tries) -> Result<Trouble, WalkError> {
        match (diagnosis.owner, diagnosis.pause) {
            (Owner::Schema, _) => Ok(Trouble::Final),
            (_, Some(pause)) => Ok(self.again(pause, tries)),
            // A row may fail the whole request; then the table still answers a question that no row does.
            (Owner::Api, None) if tries.failures > 0 && matches!(self.is_readable().await, Ok(true)) => {
                Ok(Trouble::Smaller)
            }
            (Owner::Api | Owner::Tenant | Owner::Database, None) => {
                let pause = backoff(tries.failures + 1, PAUSE, PAUSE_MAX);
                Ok(self.again(pause, tries))
            }
            // An API that refuses the table refuses a question that no row answers, too.
            (Owner::Row | Owner::Target, None) if self.is_readable().await? => Ok(Trouble::Smaller),
            (Owner::Row | Owner::Target, None) => {
                tries.refusals += 1;
                Ok(if tries.refusals > self.refusals_max { Trouble::Final } else { Trouble::Again(PAUSE) })
            }
        }
    }

    fn again(&self, pause: Duration, tries: &mut Tries) -> Trouble {
        tries.failures += 1;
        if tries.failures < self.failures_max { Trouble::Again(pause) } else { Trouble::Final }
    }

    /// One row alone has failed.
    async fn try_single(&mut self, error: WalkError, tries: &mut Tries) -> Result<(), WalkError> {
        tries.single += 1;
        tokio::time::sleep(PAUSE).await;
        if tries.single < SINGLE_TRIES {
            return Ok(());
        }
        tries.single = 0;
        self.pass_over(error).await
    }

    async fn pass_over(&mut self, error: WalkError) -> Result<(), WalkError> {
        if self.skip + self.passed_over.len() >= SKIPPED_MAX {
            return Err(error);
        }
        let reason = chain(&error).to_string();
        let key = self.key().await;
        tracing::warn!(
            target = %self.target, ?key, behind = ?self.position, skip = self.skip, error = reason,
            "a row cannot be read, the walk passes over it"
        );
        self.skipped.rows += 1;
        match key {
            Some(key) => {
                (self.skip, self.behind) = (0, 0);
                self.position = Some(key.clone());
                self.passed_over.push((key, reason));
            }
            None => {
                self.skip += 1;
                self.skipped.unknown += 1;
            }
        }
        Ok(())
    }

    /// The key of the row that is next, asked for without its values.
    async fn key(&self) -> Option<RowKey> {
        let TargetTable { tenant, table, .. } = self.target;
        let _waiting = self.progress.wait();
        match self.source.upstream.first_key(*tenant, table, self.page_ask()).await {
            Ok(Ok(key)) => key,
            Ok(Err(error)) => {
                tracing::debug!(target = %self.target, %error, "the key of a row cannot be read either");
                None
            }
            Err(error) => {
                tracing::debug!(target = %self.target, error = %chain(&error), "the key of a row is not told");
                None
            }
        }
    }

    fn page_ask(&self) -> PageAsk<'_> {
        PageAsk {
            after: self.position.as_ref(),
            through: self.through,
            changed_since: self.changed_since,
            skip: self.behind + self.skip,
            rows_max: self.source.upstream.rows_max(&self.target.table, self.size),
            is_counted: self.is_counted,
        }
    }

    async fn ask(&self) -> Result<TablePage, WalkError> {
        let TargetTable { tenant, table, .. } = self.target;
        let _waiting = self.progress.wait();
        let page = self.source.upstream.page(*tenant, table, self.page_ask()).await?;
        let mut page = page.map_err(|error| match error {
            AskError::OneKey { .. } => WalkError::OneKey(error),
            error => WalkError::Refused(error),
        })?;
        // A key of which something was replaced may come twice, and would be written twice by one statement.
        page.rows.dedup_by(|one, other| one.key == other.key);
        Ok(page)
    }

    async fn is_readable(&self) -> Result<bool, WalkError> {
        let TargetTable { tenant, table, .. } = self.target;
        let ask = Ask { tenant: *tenant, table: Arc::clone(table), keys: vec![any_key(table)] };
        let _waiting = self.progress.wait();
        Ok(self.source.upstream.probe_table(&ask).await?.is_ok())
    }
}

/// Rows of a page at most.
pub(super) fn rows_max(table: &TableSpec, keys_max: usize) -> usize {
    let by_values = VALUES_MAX / table.columns.len().max(1);
    keys_max.saturating_mul(ROWS_PER_KEY).min(ROWS_MAX).min(by_values).max(1)
}

/// A key of the right types.
fn any_key(table: &TableSpec) -> RowKey {
    let values = table.key_columns().map(|column| match column.kind {
        ColumnType::Text => KeyValue::Text("-".into()),
        _ => KeyValue::Int(0),
    });
    RowKey::from_values(values.collect())
}
