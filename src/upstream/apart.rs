//! Fetching rows that failed together: each key a part of its own, so that the errors of the parts tell the culprits.

use std::sync::Arc;

use super::{
    Ask, AskError, Share, Sight, Upstream, UpstreamError,
    answer::{Page, key_of},
    fetch::observation,
    filter,
    request::{PartOf, Request},
};
use crate::domain::{DatabaseTime, Observation, RowKey, TableSpec, Tenant};

/// Keys that one request asks for apart.
pub const APART_MAX: usize = 64;

/// `first` of a part for one key: one more than there can be, so that a second row would show.
const ROWS_MAX: usize = 2;
/// `first` of a part for the keys of a pattern, all but one of which are others.
const ALIKE_MAX: usize = 200;

impl Upstream {
    /// Asks for each key by itself, [`APART_MAX`] of them in one request: one sight for each key, in their order, or
    /// why there is none. When a request fails as a whole, what earlier ones brought is lost; so a caller that expects
    /// this asks for [`APART_MAX`] keys at a time.
    pub async fn fetch_apart(&self, ask: &Ask, share: Share) -> Result<Vec<Result<Sight, AskError>>, UpstreamError> {
        let mut sights = Vec::with_capacity(ask.keys.len());
        for keys in ask.keys.chunks(APART_MAX) {
            let parts = keys.iter().map(|key| of_one(ask.tenant, &ask.table, key)).collect();
            let request = Request::build("FetchApart", parts);
            self.metrics().rows_fetched.inc_by(keys.len() as u64);
            let answer = self.post(&request.tenants, share, &request.body).await?;
            let started_at = answer.started_at;
            let pages = self.read_pages(answer, &request.places);
            sights.extend(keys.iter().zip(pages).map(|(key, page)| sight_of_one(key, page?, started_at)));
        }
        Ok(sights)
    }
}

/// A part that asks for one key.
pub(super) fn of_one<'a>(tenant: Tenant, table: &'a Arc<TableSpec>, key: &RowKey) -> PartOf<'a> {
    let rows_max = if key.has_replacement() { ALIKE_MAX } else { ROWS_MAX };
    PartOf { tenant, table, filter: filter::by_keys(table, std::slice::from_ref(key)), rows_max }
}

/// A filter on one key found these rows: by the source's own comparison they are that key's, however it is spelled. A
/// pattern also finds others.
pub(super) fn sight_of_one(key: &RowKey, mut page: Page, started_at: DatabaseTime) -> Result<Sight, AskError> {
    if key.has_replacement() {
        let folded = key.folded();
        page.rows.retain(|row| key_of(row).is_none_or(|own| own.folded() == folded));
    }
    let mut rows = page.rows.into_iter();
    let observation = match (rows.next(), rows.next()) {
        (None, _) if page.has_next => return Err(AskError::Shape("a page promises more rows but brings none".into())),
        (None, _) => Observation::Missing,
        (Some(row), None) => observation(row),
        (Some(_), Some(_)) => return Err(AskError::Shape("several rows were returned for one key".into())),
    };
    Ok(Sight { started_at, observation })
}
