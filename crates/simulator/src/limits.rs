//! The documented limits, enforced and counted.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Serialize;

use super::{fault::Faults, model::Owner};

const WINDOW: Duration = Duration::from_secs(60);

/// What the simulator saw of its clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// HTTP requests to the GraphQL endpoint.
    pub graphql_requests: u64,
    /// Operations, by their names.
    pub operations: BTreeMap<String, u64>,
    /// Requests over the limit of a minute.
    pub rate_violations: u64,
    /// Answers that were compressed, since the client offered to understand that.
    pub compressed: u64,
    /// Requests before the time that a 429 had told.
    pub early_requests: u64,
    /// Requests over the limit under way for one company.
    pub in_flight_violations: u64,
    /// The most requests in any 60 seconds.
    pub peak_per_minute: usize,
    /// The most requests under way for one company.
    pub peak_in_flight: usize,
    /// Queries that brought errors and no data at all, as those of validation do.
    pub invalid_requests: u64,
    /// Rows in the answers.
    pub rows_returned: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct State {
    counters: Counters,
    recent: VecDeque<Instant>,
    in_flight: BTreeMap<Owner, usize>,
    /// No request is welcome before.
    closed_until: Option<Instant>,
}

/// Counts and refuses.
#[derive(Debug)]
pub(super) struct Limits {
    requests_per_minute: usize,
    in_flight_max: usize,
    state: Arc<Mutex<State>>,
}

impl Limits {
    pub(super) fn new(requests_per_minute: usize, in_flight_max: usize) -> Self {
        Self { requests_per_minute, in_flight_max, state: Arc::default() }
    }

    pub(super) fn counters(&self, faults: &Faults) -> Counters {
        Counters { faults: faults.counts(), ..self.state.lock().counters.clone() }
    }

    pub(super) fn reset(&self) {
        self.state.lock().counters = Counters::default();
    }

    pub(super) fn token_requested(&self) {
        self.state.lock().counters.token_requests += 1;
    }

    pub(super) fn was_asked(&self, operation: &str) {
        *self.state.lock().counters.operations.entry(operation.to_owned()).or_default() += 1;
    }

    pub(super) fn was_invalid(&self) {
        self.state.lock().counters.invalid_requests += 1;
    }

    pub(super) fn returned(&self, rows: usize) {
        self.state.lock().counters.rows_returned += rows as u64;
    }

    pub(super) fn compressed(&self) {
        self.state.lock().counters.compressed += 1;
    }

    /// A 429 tells to wait so long. One that comes while another one holds does not make it longer.
    pub(super) fn close(&self, pause: Duration) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if state.closed_until.is_none_or(|closed| closed <= now) {
            state.closed_until = Some(now + pause);
        }
    }

    /// How long no request is welcome yet; counts one that comes nevertheless.
    pub(super) fn closed(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let left = state.closed_until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        state.counters.early_requests += 1;
        Some(left)
    }

    /// Counts a request at the gateway; false when it is one too many in the last 60 seconds.
    pub(super) fn admit(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        while state.recent.front().is_some_and(|first| now.duration_since(*first) >= WINDOW) {
            state.recent.pop_front();
        }
        state.counters.graphql_requests += 1;
        if state.recent.len() >= self.requests_per_minute {
            state.counters.rate_violations += 1;
            return false;
        }
        state.recent.push_back(now);
        state.counters.peak_per_minute = state.counters.peak_per_minute.max(state.recent.len());
        true
    }

    /// The places that one HTTP request takes.
    pub(super) fn scope(&self) -> Scope {
        Scope(Arc::new(Places {
            state: Arc::clone(&self.state),
            owners: Mutex::default(),
            doomed: AtomicBool::new(false),
        }))
    }
}

/// One request's places among those under way, given back when it ends.
#[derive(Debug, Clone)]
pub(super) struct Scope(Arc<Places>);

#[derive(Debug)]
struct Places {
    state: Arc<Mutex<State>>,
    owners: Mutex<HashSet<Owner>>,
    doomed: AtomicBool,
}

impl Scope {
    /// Takes a place for a tenant; the limit when there is none.
    pub(super) fn enter(&self, limits: &Limits, owner: Owner) -> Result<(), usize> {
        let mut owners = self.0.owners.lock();
        if owners.contains(&owner) {
            return Ok(());
        }
        let mut state = limits.state.lock();
        let under_way = state.in_flight.entry(owner).or_default();
        if *under_way >= limits.in_flight_max {
            state.counters.in_flight_violations += 1;
            return Err(limits.in_flight_max);
        }
        *under_way += 1;
        let under_way = *under_way;
        state.counters.peak_in_flight = state.counters.peak_in_flight.max(under_way);
        owners.insert(owner);
        Ok(())
    }

    /// The whole request shall fail.
    pub(super) fn doom(&self) {
        self.0.doomed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.0.doomed.load(Ordering::Relaxed)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        for owner in self.owners.lock().iter() {
            if let Some(under_way) = state.in_flight.get_mut(owner) {
                *under_way -= 1;
            }
        }
    }
}
