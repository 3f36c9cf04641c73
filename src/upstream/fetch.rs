//! Fetching rows by key: many keys of several tables and tenants in one request.

use std::sync::Arc;

use serde_json::json;

use super::{
    GraphqlError, Lane, Upstream, UpstreamError,
    answer::{self, Page},
    filter,
    request::{PartOf, Request},
};
use crate::domain::{Row, RowKey, TableSpec, Tenant, Time};

/// Parts of one request that ask for a single key each, when a key's spelling leaves no other way.
const SINGLE_PARTS_MAX: usize = 50;

/// Keys of one table of one tenant.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Whose rows.
    pub tenant: Tenant,
    /// Of which table.
    pub table: Arc<TableSpec>,
    /// Which rows; never empty, no key twice.
    pub keys: Vec<RowKey>,
}

/// Why one part of a request brought no rows, while others may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The API reports errors for it.
    #[error("the API reports: {}", super::error::list(.0))]
    Graphql(Vec<GraphqlError>),
    /// It is not what was asked for.
    #[error("the API's answer has another shape than was asked for: {0}")]
    Shape(String),
}

impl AskError {
    /// See [`super::remedy`].
    pub fn remedy(&self) -> super::Remedy {
        match self {
            Self::Graphql(errors) => super::retry::remedy_for(errors),
            Self::Shape(_) => super::Remedy::Split,
        }
    }
}

/// What became of one key.
#[derive(Debug)]
pub struct KeySight {
    /// Start of the request that told, by the database's clock.
    pub started_at: Time,
    /// What it told.
    pub sighting: Sighting,
}

/// What a fetch saw of one key.
#[derive(Debug)]
pub enum Sighting {
    /// The row, with the key as the source spells it.
    Found(Row),
    /// No such row.
    Missing,
    /// A row that cannot be read, and why.
    Unreadable(String),
}

impl Upstream {
    /// Asks for all keys, if possible in one request. For each ask: one sight for each of its keys, in their order,
    /// or why there is none.
    ///
    /// Further requests follow where the server caps the page, and where a returned key matches none that was asked
    /// for: a collation may hold equal what no rule here does, so such keys are asked for one by one.
    pub async fn fetch(&self, asks: &[Ask]) -> Result<Vec<Result<Vec<KeySight>, AskError>>, UpstreamError> {
        let mut open: Vec<OpenAsk<'_>> = asks.iter().map(OpenAsk::new).collect();
        loop {
            let parts = next_parts(&open);
            if parts.is_empty() {
                break;
            }
            let request = request(&parts, asks);
            let keys: usize = parts.iter().map(|part| part.keys.len()).sum();
            self.metrics().rows_fetched.inc_by(keys as u64);
            let answer = self.post(&request.tenants, Lane::Live, &request.body).await?;
            let started_at = answer.started_at;
            let pages = answer::read(answer, &request.places, self.timezone);
            for (part, page) in parts.into_iter().zip(pages) {
                open[part.ask].take(part, page, started_at);
            }
        }
        Ok(open.into_iter().map(OpenAsk::finish).collect())
    }
}

impl Upstream {
    /// Whether the API answers at all.
    pub async fn probe(&self) -> Result<(), UpstreamError> {
        let body = json!({ "query": "query Probe { __typename }", "operationName": "Probe" });
        match self.post(&[], Lane::Live, &body).await {
            Ok(answer) if answer.errors.is_empty() => Ok(()),
            Ok(answer) => Err(UpstreamError::Graphql(answer.errors)),
            Err(error) => Err(error),
        }
    }

    /// Whether this table of this tenant can be read, by a question that no row answers.
    pub async fn probe_table(&self, ask: &Ask) -> Result<Result<(), AskError>, UpstreamError> {
        let column = &ask.table.key_columns().next().expect("a table's key has columns").name;
        let value = &ask.keys[0].values()[0];
        let nothing = json!({ "_and": [{ column: { "_eq": value } }, { column: { "_not_eq": value } }] });
        let part = PartOf { tenant: ask.tenant, table: &ask.table, filter: nothing, rows_max: 1 };
        let request = Request::build("ProbeTable", vec![part]);
        let answer = self.post(&request.tenants, Lane::Live, &request.body).await?;
        let page = answer::read(answer, &request.places, self.timezone).into_iter().next();
        Ok(page.expect("one place gives one page").map(drop))
    }
}

/// A part of a request: some keys of one ask.
struct Part {
    ask: usize,
    /// Indexes into the ask's keys.
    keys: Vec<usize>,
    /// Whether every returned row is the one key's, however it is spelled.
    single: bool,
}

/// An ask, half answered.
struct OpenAsk<'a> {
    ask: &'a Ask,
    sights: Vec<Option<KeySight>>,
    /// Keys must be asked for one by one.
    singly: bool,
    failure: Option<AskError>,
}

impl<'a> OpenAsk<'a> {
    fn new(ask: &'a Ask) -> Self {
        Self { ask, sights: ask.keys.iter().map(|_| None).collect(), singly: false, failure: None }
    }

    fn unanswered(&self) -> Vec<usize> {
        match self.failure {
            Some(_) => Vec::new(),
            None => (0..self.sights.len()).filter(|&index| self.sights[index].is_none()).collect(),
        }
    }

    fn take(&mut self, part: Part, page: Result<Page, AskError>, started_at: Time) {
        match page {
            Err(error) => self.failure = Some(error),
            Ok(page) if part.single => self.take_single(part.keys[0], page, started_at),
            Ok(page) => self.take_many(&part.keys, page, started_at),
        }
    }

    /// A filter on one key found these rows: by the source's own comparison they are that key's.
    fn take_single(&mut self, key: usize, page: Page, started_at: Time) {
        let mut rows = page.rows.into_iter();
        let sighting = match (rows.next(), rows.next()) {
            (None, _) => Sighting::Missing,
            (Some(row), None) => sighting(row),
            (Some(_), Some(_)) => {
                self.failure = Some(AskError::Shape("several rows have one key".into()));
                return;
            }
        };
        self.sights[key] = Some(KeySight { started_at, sighting });
    }

    fn take_many(&mut self, asked: &[usize], page: Page, started_at: Time) {
        let count = page.rows.len();
        let mut strays = false;
        for row in page.rows {
            let key = match &row {
                Ok(row) => &row.key,
                Err(bad) => &bad.key,
            };
            let matching = self.matching(asked, key);
            strays |= matching.is_empty();
            // Two spellings of one row may both have been asked for.
            for index in matching {
                self.sights[index] = Some(KeySight { started_at, sighting: sighting(row.clone()) });
            }
        }
        let open = asked.iter().filter(|&&index| self.sights[index].is_none()).count();
        if strays && !self.ask.keys[0].has_text() {
            self.failure = Some(AskError::Shape("a row was returned that was not asked for".into()));
        } else if strays {
            self.singly = true;
        } else if page.has_next && open > 0 && (count == 0 || open == asked.len()) {
            self.failure = Some(AskError::Shape("a page promises more rows but brings none".into()));
        } else if !page.has_next {
            for &index in asked {
                self.sights[index].get_or_insert(KeySight { started_at, sighting: Sighting::Missing });
            }
        }
    }

    /// The asked keys that a returned key answers: the same text if any is, else those that fold alike.
    fn matching(&self, asked: &[usize], returned: &RowKey) -> Vec<usize> {
        let keys = &self.ask.keys;
        let exact: Vec<_> = asked.iter().copied().filter(|&index| keys[index] == *returned).collect();
        if !returned.has_text() {
            return exact;
        }
        let folded = returned.folded();
        asked.iter().copied().filter(|&index| keys[index].folded() == folded).collect()
    }

    fn finish(self) -> Result<Vec<KeySight>, AskError> {
        match self.failure {
            Some(error) => Err(error),
            None => self
                .sights
                .into_iter()
                .collect::<Option<_>>()
                .ok_or_else(|| AskError::Shape("the answer does not cover every key".into())),
        }
    }
}

fn sighting(row: Result<Row, answer::BadRow>) -> Sighting {
    match row {
        Ok(row) => Sighting::Found(row),
        Err(bad) => Sighting::Unreadable(bad.problem),
    }
}

/// What is still to be asked, in one request.
fn next_parts(open: &[OpenAsk<'_>]) -> Vec<Part> {
    let mut parts = Vec::new();
    for (ask, state) in open.iter().enumerate() {
        let keys = state.unanswered();
        if keys.is_empty() {
            continue;
        }
        if state.singly {
            let singles = keys.into_iter().map(|key| Part { ask, keys: vec![key], single: true });
            parts.extend(singles.take(SINGLE_PARTS_MAX));
        } else {
            parts.push(Part { ask, keys, single: false });
        }
    }
    parts
}

fn request(parts: &[Part], asks: &[Ask]) -> Request {
    let of = |part: &Part| {
        let Ask { tenant, table, keys } = &asks[part.ask];
        let keys: Vec<RowKey> = part.keys.iter().map(|&key| keys[key].clone()).collect();
        PartOf { tenant: *tenant, table, filter: filter::by_keys(table, &keys), rows_max: rows_max(part) }
    };
    Request::build("FetchRows", parts.iter().map(of).collect())
}

/// `first`: one row a key. Two for a key asked for alone, so that a second row would show.
fn rows_max(part: &Part) -> usize {
    if part.single { 2 } else { part.keys.len() }
}
