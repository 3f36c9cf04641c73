//! The outbound edge: everything that is asked of Visma.
//!
//! * [`Upstream::fetch`] asks for rows by key, many tables and tenants in one request; [`Upstream::fetch_apart`] for
//!   rows that failed together, each by itself; [`Upstream::page`] for a whole table, page by page;
//! * [`Catalogue`] knows what the tables look like;
//! * [`diagnose`] says whose a failure is, [`Upstream::examine`] does after a probe;
//! * every request passes the budget that all replicas share, carries a cached token, and is read with suspicion and
//!   within a bound of memory.

mod alone;
mod answer;
mod apart;
mod budget;
mod catalogue;
mod client;
mod describe;
mod diagnosis;
mod documentation;
mod envelope;
mod error;
mod fetch;
mod filter;
mod http;
mod memory;
mod model;
mod names;
mod outage;
mod page;
mod primary_key;
mod probe;
mod queries;
mod request;
mod subscriptions;
mod token;
mod value;
mod width;

pub use answer::AskError;
pub use apart::APART_MAX;
pub use budget::{Budget, Share, Usage, usage};
pub use catalogue::{CatalogError, Catalogue};
pub use client::{Upstream, http_client};
pub use diagnosis::{diagnose, diagnose_part};
pub use error::{GraphqlError, UpstreamError};
pub use fetch::{Ask, Sight};
pub use model::{ModelShape, TableModel};
pub use names::NameAsk;
pub use outage::Outage;
pub use page::{ChangesAsk, PageAsk, TablePage};
pub use queries::{Company, Customer};
pub use subscriptions::{Setup, SetupError};

/// Whether a token answer's bytes bring a token, or why not.
#[cfg(any(test, fuzzing))]
pub fn read_token(bytes: &[u8]) -> Result<(), String> {
    token::read(bytes)
}

/// The table that a description's bytes describe, if they do.
#[cfg(any(test, fuzzing))]
pub fn read_description(bytes: &[u8]) -> Option<crate::domain::TableSpec> {
    let row_type = queries::row_type(std::str::from_utf8(bytes).ok()?).ok()??;
    let table = queries::TableField { level: crate::domain::TableLevel::Company, field: "orderLine".into() };
    describe::describe(&table, &row_type, describe::Hints::default()).ok()
}

/// The rows of one table in an answer's bytes.
#[cfg(any(test, fuzzing))]
pub fn read_answer(bytes: &[u8], table: &std::sync::Arc<crate::domain::TableSpec>) -> Option<Vec<crate::domain::Row>> {
    let answer = envelope::Answer::parse(bytes.to_vec(), None, crate::domain::DatabaseTime::default()).ok()?;
    let place =
        answer::Place { context: "c0".into(), part: "t0".into(), table: std::sync::Arc::clone(table), lines: vec![] };
    let page = answer::read(&answer, &[place], chrono_tz::UTC).pop()?.ok()?;
    Some(page.rows.into_iter().flatten().collect())
}
