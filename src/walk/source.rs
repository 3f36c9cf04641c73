//! Where pages come from, and how fast.

use std::sync::Arc;

use super::pacer::Pacer;
use crate::upstream::{Catalogue, Upstream};

/// The API as walks use it.
#[derive(Debug, Clone)]
pub struct Source {
    pub(super) upstream: Upstream,
    pub(super) catalogue: Arc<Catalogue>,
    /// `NXT_FETCH_ROWS_MAX`.
    pub(super) keys_max: usize,
    /// Spreads pages over time; none for a walk that goes as fast as the budget allows.
    pub(super) pacer: Option<Arc<Pacer>>,
}

impl Source {
    /// Pages as fast as the budget allows; their size follows from the number of keys in a request.
    pub fn new(upstream: Upstream, catalogue: Arc<Catalogue>, keys_max: usize) -> Self {
        Self { upstream, catalogue, keys_max, pacer: None }
    }

    /// The same, with pages spread over time.
    pub(super) fn paced(self, pacer: Option<Arc<Pacer>>) -> Self {
        Self { pacer, ..self }
    }
}
