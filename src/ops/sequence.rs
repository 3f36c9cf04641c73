//! What happened, in the order in which it became visible: the sync log and the feed, as people and programs follow
//! them.

use sqlx::PgPool;

use crate::{
    domain::naming,
    queue::{
        QueueError,
        activity::{self, Activity, EntryFilter},
        changes::{self, Change},
    },
};

/// A list that only grows, and that is read by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequence {
    /// The sync log.
    Activity,
    /// The feed.
    Changes,
}

/// An entry, and its JSON, which is made once for all that read it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) position: i64,
    json: String,
    entry: Entry,
}

#[derive(Debug)]
enum Entry {
    Activity(Activity),
    Change(Change),
}

/// The filters that addresses carry. Empty ones, as forms send them, are none.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub(super) struct Filters {
    company: Option<String>,
    table: Option<String>,
    kind: Option<String>,
    key: Option<String>,
}

impl Filters {
    /// The table as it was given.
    pub(super) fn table(&self) -> Option<&str> {
        self.table.as_deref().filter(|table| !table.is_empty())
    }

    /// Reads them, or says which is wrong.
    pub(super) fn read(&self) -> Result<EntryFilter, String> {
        let given =
            |text: &Option<String>| text.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let company = given(&self.company)
            .map(|text| text.parse().map_err(|_| format!("company: {text:?} is not a company number")));
        Ok(EntryFilter {
            company: company.transpose()?,
            table: given(&self.table).map(|table| naming::folded(&table)),
            action: given(&self.kind),
            key: given(&self.key),
        })
    }
}

impl Line {
    pub(super) fn json(&self) -> &str {
        &self.json
    }

    /// Whether a filter wants it.
    pub(super) fn is_wanted(&self, filter: &EntryFilter) -> bool {
        match &self.entry {
            Entry::Activity(entry) => {
                filter.matches(entry.company_no, entry.table_name.as_deref(), &entry.action, entry.key.as_ref())
            }
            Entry::Change(entry) => {
                filter.matches(entry.company_no, Some(&entry.table_name), &entry.action, entry.key.as_ref())
            }
        }
    }
}

impl Sequence {
    /// The greatest position.
    pub(super) async fn newest(self, pool: &PgPool) -> Result<i64, QueueError> {
        match self {
            Self::Activity => activity::newest(pool).await,
            Self::Changes => changes::newest(pool).await,
        }
    }

    /// Entries at greater positions, in order.
    pub(super) async fn after(
        self,
        pool: &PgPool,
        filter: &EntryFilter,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Line>, QueueError> {
        match self {
            Self::Activity => {
                let entries = activity::after(pool, filter, after, limit).await?;
                Ok(entries.into_iter().map(Line::from).collect())
            }
            Self::Changes => {
                let entries = changes::after(pool, filter, after, limit).await?;
                Ok(entries.into_iter().map(Line::from).collect())
            }
        }
    }
}

impl From<Activity> for Line {
    fn from(entry: Activity) -> Self {
        let json = serde_json::to_string(&entry).expect("an entry serialises");
        Self { position: entry.id, json, entry: Entry::Activity(entry) }
    }
}

impl From<Change> for Line {
    fn from(entry: Change) -> Self {
        let json = serde_json::to_string(&entry).expect("an entry serialises");
        Self { position: entry.position, json, entry: Entry::Change(entry) }
    }
}
