//! Fetching rows by key: many keys of several tables and tenants in one request.

use std::{collections::HashMap, sync::Arc};

use super::{
    AskError, Share, Upstream, UpstreamError,
    answer::{BadRow, Page, key_of},
    apart::{APART_MAX, of_one, sight_of_one},
    filter,
    request::{PartOf, Request},
};
use crate::domain::{DatabaseTime, Observation, Row, RowKey, TableSpec, Tenant};

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

/// What became of one key.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Start of the request that told, by the database's clock.
    pub started_at: DatabaseTime,
    /// What it told.
    pub observation: Observation,
}

impl Upstream {
    /// Asks for all keys, if possible in one request. For each ask: one sight for each of its keys, in their order,
    /// or why there is none.
    ///
    /// Further requests follow where the server caps the page; where another table was the reason why the request was
    /// refused; and where a returned key matches none that was asked for: a collation may hold equal what no rule here
    /// does, so such keys are asked for one by one. A key with a character that may stand for one that PostgreSQL
    /// cannot hold is asked for alone, too, by a pattern.
    pub async fn fetch(&self, asks: &[Ask], share: Share) -> Result<Vec<Result<Vec<Sight>, AskError>>, UpstreamError> {
        self.fetch_telling(asks, share, &|| {}).await
    }

    /// As [`Upstream::fetch`]; tells when a request is sent, after it has waited for the budget.
    pub async fn fetch_telling(
        &self,
        asks: &[Ask],
        share: Share,
        on_sent: &(dyn Fn() + Send + Sync),
    ) -> Result<Vec<Result<Vec<Sight>, AskError>>, UpstreamError> {
        let mut open: Vec<OpenAsk<'_>> = asks.iter().map(OpenAsk::new).collect();
        loop {
            let parts = next_parts(&open);
            if parts.is_empty() {
                break;
            }
            let request = request(&parts, asks);
            let keys: usize = parts.iter().map(|part| part.keys.len()).sum();
            self.metrics().rows_fetched.inc_by(keys as u64);
            let count = (parts.chunk_by(|one, next| one.ask == next.ask).count(), keys);
            let answer = self.post_for_rows(count, &request.tenants, share, &request.body, on_sent).await?;
            let started_at = answer.started_at;
            let mut pages = self.read_pages(answer, &request.places);
            give_up_unless_explained(&mut pages);
            for (part, page) in parts.into_iter().zip(pages) {
                open[part.ask].take(part, page, started_at);
            }
        }
        Ok(open.into_iter().map(OpenAsk::finish).collect())
    }
}

/// Parts without an answer are asked for again if some other part has failed, and so will not be asked for with them.
fn give_up_unless_explained(pages: &mut [Result<Page, AskError>]) {
    let is_unanswered = |page: &Result<Page, AskError>| matches!(page, Err(AskError::Unanswered));
    if !pages.iter().any(|page| page.is_err() && !is_unanswered(page)) {
        let unexplained = || AskError::Shape("the answer does not cover every part".into());
        pages.iter_mut().filter(|page| is_unanswered(page)).for_each(|page| *page = Err(unexplained()));
    }
}

/// A part of a request: some keys of one ask.
struct Part {
    ask: usize,
    /// Indexes into the ask's keys, ascending.
    keys: Vec<usize>,
    /// Whether every returned row is the one key's, however it is spelled.
    is_single: bool,
}

/// An ask, half answered.
struct OpenAsk<'a> {
    ask: &'a Ask,
    sights: Vec<Option<Sight>>,
    /// Where each folded key stands. Two spellings of one row may both have been asked for.
    places: HashMap<RowKey, Vec<usize>>,
    /// Keys must be asked for one by one.
    is_singly: bool,
    failure: Option<AskError>,
}

impl<'a> OpenAsk<'a> {
    fn new(ask: &'a Ask) -> Self {
        let mut places: HashMap<RowKey, Vec<usize>> = HashMap::with_capacity(ask.keys.len());
        for (index, key) in ask.keys.iter().enumerate() {
            places.entry(key.folded()).or_default().push(index);
        }
        Self { ask, sights: ask.keys.iter().map(|_| None).collect(), places, is_singly: false, failure: None }
    }

    fn unanswered(&self) -> Vec<usize> {
        match self.failure {
            Some(_) => Vec::new(),
            None => (0..self.sights.len()).filter(|&index| self.sights[index].is_none()).collect(),
        }
    }

    fn take(&mut self, part: Part, page: Result<Page, AskError>, started_at: DatabaseTime) {
        let taken = match page {
            // Asked for again, in a request without the part that was refused.
            Err(AskError::Unanswered) => Ok(()),
            Err(error) => Err(error),
            Ok(page) if part.is_single => {
                let index = part.keys[0];
                sight_of_one(&self.ask.keys[index], page, started_at).map(|sight| self.sights[index] = Some(sight))
            }
            Ok(page) => self.take_many(&part.keys, page, started_at),
        };
        if let Err(error) = taken {
            self.failure = Some(error);
        }
    }

    fn take_many(&mut self, asked: &[usize], page: Page, started_at: DatabaseTime) -> Result<(), AskError> {
        let is_empty = page.rows.is_empty();
        let has_strays =
            page.rows.into_iter().fold(false, |strays, row| !self.take_row(asked, row, started_at) | strays);
        let open = asked.iter().filter(|&&index| self.sights[index].is_none()).count();
        if has_strays && !self.ask.keys[0].has_text() {
            return Err(AskError::Shape("a row was returned that was not asked for".into()));
        }
        if has_strays {
            self.is_singly = true;
        } else if page.has_next && open == 0 {
            // A page that the server has capped, and more rows than keys: each key is asked for its own.
            self.is_singly = true;
            asked.iter().for_each(|&index| self.sights[index] = None);
        } else if page.has_next && open > 0 && (is_empty || open == asked.len()) {
            return Err(AskError::Shape("a page promises more rows but brings none".into()));
        } else if !page.has_next {
            for &index in asked {
                self.sights[index].get_or_insert(Sight { started_at, observation: Observation::Missing });
            }
        }
        Ok(())
    }

    /// Whether the row is one that was asked for.
    fn take_row(&mut self, asked: &[usize], row: Result<Row, BadRow>, started_at: DatabaseTime) -> bool {
        let Some(key) = key_of(&row) else { return false };
        let places = self.places.get(&key.folded()).map_or(&[][..], Vec::as_slice);
        let mut places = places.iter().copied().filter(|index| asked.binary_search(index).is_ok());
        let Some(first) = places.next() else { return false };
        let sight = Sight { started_at, observation: observation(row) };
        for index in places {
            self.sights[index] = Some(sight.clone());
        }
        self.sights[first] = Some(sight);
        true
    }

    fn finish(self) -> Result<Vec<Sight>, AskError> {
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

/// What a row in an answer is.
pub(super) fn observation(row: Result<Row, BadRow>) -> Observation {
    match row {
        Ok(row) => Observation::Found(row),
        Err(bad) => Observation::Unreadable(bad.problem),
    }
}

/// What is still to be asked, in one request.
fn next_parts(open: &[OpenAsk<'_>]) -> Vec<Part> {
    let mut parts = Vec::new();
    for (ask, state) in open.iter().enumerate() {
        let is_single = |key: &usize| state.is_singly || state.ask.keys[*key].has_replacement();
        let (singles, keys): (Vec<_>, Vec<_>) = state.unanswered().into_iter().partition(is_single);
        let singles = singles.into_iter().map(|key| Part { ask, keys: vec![key], is_single: true });
        parts.extend(singles.take(APART_MAX));
        if !keys.is_empty() {
            parts.push(Part { ask, keys, is_single: false });
        }
    }
    parts
}

fn request(parts: &[Part], asks: &[Ask]) -> Request {
    let of = |part: &Part| {
        let Ask { tenant, table, keys } = &asks[part.ask];
        if part.is_single {
            return of_one(*tenant, table, &keys[part.keys[0]]);
        }
        let keys: Vec<RowKey> = part.keys.iter().map(|&key| keys[key].clone()).collect();
        // One more than there can be, so that a second row of a key would show.
        let rows_max = keys.len() + 1;
        PartOf { tenant: *tenant, table, filter: filter::by_keys(table, &keys), rows_max }
    };
    Request::build("FetchRows", parts.iter().map(of).collect())
}
