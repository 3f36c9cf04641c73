//! Faults on demand: scripted by a count, seeded by a probability.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use tokio::sync::watch;

use super::model::Owner;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// 401 with HTML.
    Unauthorized,
    /// 429 without `Retry-After`.
    TooMany,
    /// 429 with `Retry-After`: [`Fault::millis`], or a second.
    TooManyRetryAfter,
    /// 200 with `OUTSTANDING_LIMIT_EXCEEDED`.
    InProgress,
    /// 500.
    ServerError,
    /// 503.
    Unavailable,
    /// The connection breaks after half of the body.
    Dropped,
    /// Half of the body, as if it were all.
    Truncated,
    /// 200 with HTML.
    Html,
    /// The right answer, late.
    Slow,
    /// No answer until the faults are cleared.
    Hang,
    /// No answer to a request for descriptions, among them this table's, until the faults are cleared.
    HangDescription,
    /// One table's part fails, others are fine.
    PartialError,
    /// No access to the company or table.
    Deny,
    /// A request that touches the tenant fails as a whole with a 500.
    TenantDown,
    /// `items` is null without an error.
    WrongShape,
    /// A row that fails its part.
    PoisonPart,
    /// A row that fails the whole request with a 500.
    PoisonWhole,
    /// A row that fails its part if more than its key is asked for.
    PoisonValues,
    /// The token endpoint answers 503.
    TokenAway,
}

/// A fault to inject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// What goes wrong.
    pub kind: FaultKind,
    /// How often; without it, until it is removed.
    #[serde(default)]
    pub count: Option<u64>,
    /// Occasions that pass before the first strike.
    #[serde(default)]
    pub after: u64,
    /// How likely at each occasion.
    #[serde(default = "always")]
    pub probability: f64,
    /// Only for this tenant.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Only for this table.
    #[serde(default)]
    pub table: Option<String>,
    /// The key of a poisoned row.
    #[serde(default)]
    pub key: Map<String, Json>,
    /// How late a slow answer is, or how long a client is told to wait.
    #[serde(default)]
    pub millis: u64,
}

fn always() -> f64 {
    1.0
}

impl Fault {
    /// A fault of this kind, everywhere and always.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, count: None, after: 0, probability: 1.0, owner: None, table: None, key: Map::new(), millis: 0 }
    }

    /// That often.
    pub fn times(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// For this tenant and table alone.
    pub fn on(mut self, owner: Owner, table: Option<&str>) -> Self {
        self.owner = Some(owner);
        self.table = table.map(str::to_owned);
        self
    }
}

#[derive(Debug)]
pub(super) struct Faults {
    state: Mutex<State>,
    cleared: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    faults: Vec<Fault>,
    counts: BTreeMap<String, u64>,
    random: StdRng,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let state = Mutex::new(State { faults: vec![], counts: BTreeMap::new(), random });
        Self { state, cleared: watch::Sender::default() }
    }

    pub(super) fn add(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    pub(super) fn clear(&self) {
        self.state.lock().faults.clear();
        self.cleared.send_replace(());
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.state.lock().counts.clone()
    }

    /// A fault of one of these kinds that strikes now, at this place.
    pub(super) fn take(&self, kinds: &[FaultKind], place: Option<(Owner, &str)>) -> Option<Fault> {
        let fits = |fault: &Fault| {
            let owner_fits = fault.owner.is_none_or(|owner| place.is_some_and(|(own, _)| own == owner));
            let table_fits = fault.table.as_deref().is_none_or(|table| place.is_some_and(|(_, own)| own == table));
            kinds.contains(&fault.kind) && owner_fits && table_fits
        };
        self.strike(fits)
    }

    /// The kind of poison, if a poisoned row is among those touched, by their keys alone or with their values.
    pub(super) fn poison(
        &self,
        owner: Owner,
        table: &str,
        with_values: bool,
        touches: impl Fn(&Map<String, Json>) -> bool,
    ) -> Option<FaultKind> {
        let poisons: &[FaultKind] = match with_values {
            true => &[FaultKind::PoisonPart, FaultKind::PoisonWhole, FaultKind::PoisonValues],
            false => &[FaultKind::PoisonPart, FaultKind::PoisonWhole],
        };
        let fits = |fault: &Fault| {
            poisons.contains(&fault.kind)
                && fault.owner.is_none_or(|own| own == owner)
                && fault.table.as_deref().is_none_or(|own| own == table)
                && touches(&fault.key)
        };
        self.strike(fits).map(|fault| fault.kind)
    }

    /// Waits until the faults are cleared, if one strikes that leaves this table of this tenant without an answer.
    pub(super) async fn hang(&self, owner: Owner, table: &str) {
        self.hang_if(|fault| {
            fault.kind == FaultKind::Hang
                && fault.owner.is_none_or(|own| own == owner)
                && fault.table.as_deref().is_none_or(|own| own == table)
        })
        .await;
    }

    /// The same for an operation, as JSON, that asks for descriptions.
    pub(super) async fn hang_description(&self, operation: &str) {
        if !operation.contains("__type(") {
            return;
        }
        // Quotes inside the query are escaped, those of the variables are not.
        let operation = operation.replace('\\', "");
        self.hang_if(|fault| {
            fault.kind == FaultKind::HangDescription
                && fault.table.as_deref().is_none_or(|table| operation.contains(&format!("\"{table}\"")))
        })
        .await;
    }

    async fn hang_if(&self, fits: impl Fn(&Fault) -> bool) {
        let mut cleared = self.cleared.subscribe();
        if self.strike(fits).is_some() {
            // Fails only when the sender is gone, which this borrow rules out.
            _ = cleared.changed().await;
        }
    }

    fn strike(&self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut state = self.state.lock();
        let State { faults, counts, random } = &mut *state;
        let fault = faults.iter_mut().find(|fault| fault.count != Some(0) && fits(fault))?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        if fault.probability < 1.0 && random.random::<f64>() >= fault.probability {
            return None;
        }
        if let Some(count) = &mut fault.count {
            *count -= 1;
        }
        let name = serde_json::to_value(fault.kind).ok().and_then(|name| name.as_str().map(str::to_owned));
        *counts.entry(name.unwrap_or_default()).or_default() += 1;
        Some(fault.clone())
    }
}
