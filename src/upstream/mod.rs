//! The outbound edge: everything that is asked of Visma.
//!
//! * [`Upstream::fetch`] asks for rows by key, many tables and tenants in one request;
//! * [`Catalog`] knows what the tables look like;
//! * every request passes the budget that all replicas share, carries a cached token, and is read with suspicion.

mod answer;
mod budget;
mod catalog;
mod client;
mod describe;
mod error;
mod fetch;
mod filter;
mod outage;
mod page;
mod queries;
mod request;
mod retry;
mod token;
mod value;

pub use budget::{Budget, Lane};
pub use catalog::{Catalog, CatalogError};
pub use client::Upstream;
pub use error::{GraphqlError, UpstreamError};
pub use fetch::{Ask, AskError, KeySight, Sighting};
pub use outage::Outage;
pub use page::{ChangesAsk, PageAsk, TablePage};
pub use queries::Company;
pub use retry::{Remedy, remedy};

/// The rows of one table in an answer's bytes.
#[cfg(any(test, fuzzing))]
pub fn read_answer(bytes: &[u8], table: &std::sync::Arc<crate::domain::TableSpec>) -> Option<Vec<crate::domain::Row>> {
    let answer = client::parse(bytes, crate::domain::Time::default()).ok()?;
    let place = answer::Place { context: "c0".into(), part: "t0".into(), table: std::sync::Arc::clone(table) };
    let page = answer::read(answer, &[place], chrono_tz::UTC).pop()?.ok()?;
    Some(page.rows.into_iter().flatten().collect())
}

/// GraphQL code of a request refused because too many of the same company are under way.
const TOO_MANY_IN_PROGRESS: &str = "OUTSTANDING_LIMIT_EXCEEDED";
