//! Rows in flight: which dirty rows this process works on. Nothing of it is in the database, where a row is claimed by
//! its target's lease alone.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Priority, claim::DirtyRow};
use crate::domain::{Target, TargetId};

/// All rows in flight of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Claims(Arc<Mutex<Flights>>);

#[derive(Debug, Default)]
struct Flights {
    targets: HashMap<TargetId, HashMap<Arc<str>, Flight>>,
    /// Reads of dirty rows that are under way, by their numbers.
    reads: BTreeSet<u64>,
    next_read: u64,
    /// Flights that ended while a read was under way, oldest first.
    ended: VecDeque<(TargetId, Arc<str>, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    Held(Priority),
    /// Ended. A read with a lower number may have seen the row as it was before.
    Ended(u64),
}

/// How many rows of a target are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) target: TargetId,
    pub(super) priority: Priority,
    pub(super) rows: usize,
}

/// A read of dirty rows, which cannot know what ends while it is under way.
pub(super) struct Reading {
    claims: Claims,
    number: u64,
}

impl Claims {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows in flight of this target.
    pub fn rows_of(&self, target: TargetId) -> usize {
        self.0.lock().targets.get(&target).map_or(0, |rows| rows.values().filter(|flight| flight.is_held()).count())
    }

    /// Rows in flight of all targets.
    pub(super) fn in_flight(&self) -> Vec<InFlight> {
        let count = |flights: &HashMap<Arc<str>, Flight>, priority| {
            flights.values().filter(|flight| **flight == Flight::Held(priority)).count()
        };
        let flights = self.0.lock();
        let by_priority = flights.targets.iter().flat_map(|(&target, rows)| {
            [Priority::Live, Priority::Deferred].map(|priority| InFlight {
                target,
                priority,
                rows: count(rows, priority),
            })
        });
        by_priority.filter(|in_flight| in_flight.rows > 0).collect()
    }

    pub(super) fn read(&self) -> Reading {
        let mut flights = self.0.lock();
        let number = flights.next_read;
        flights.next_read += 1;
        flights.reads.insert(number);
        Reading { claims: self.clone(), number }
    }

    fn end(&self, target: TargetId, held: &[Arc<str>]) {
        self.0.lock().end(target, held);
    }
}

impl Flight {
    fn is_held(self) -> bool {
        matches!(self, Self::Held(_))
    }
}

impl Flights {
    /// Whether the row was free, and now is not.
    fn hold(&mut self, read: u64, target: TargetId, row: &DirtyRow) -> bool {
        let rows = self.targets.entry(target).or_default();
        let is_free = match rows.get(&row.row_key) {
            None => true,
            Some(Flight::Held(_)) => false,
            Some(Flight::Ended(until)) => read >= *until,
        };
        if is_free {
            rows.insert(Arc::clone(&row.row_key), Flight::Held(row.priority));
        }
        is_free
    }

    fn end(&mut self, target: TargetId, held: &[Arc<str>]) {
        let Some(rows) = self.targets.get_mut(&target) else { return };
        for key in held {
            if self.reads.is_empty() {
                rows.remove(key);
            } else {
                rows.insert(Arc::clone(key), Flight::Ended(self.next_read));
                self.ended.push_back((target, Arc::clone(key), self.next_read));
            }
        }
        if rows.is_empty() {
            self.targets.remove(&target);
        }
    }

    fn end_read(&mut self, number: u64) {
        self.reads.remove(&number);
        let oldest = self.reads.first().copied().unwrap_or(self.next_read);
        while let Some((target, key, until)) = self.ended.pop_front_if(|(_, _, until)| *until <= oldest) {
            self.forget(target, &key, until);
        }
    }

    fn forget(&mut self, target: TargetId, key: &str, until: u64) {
        let Some(rows) = self.targets.get_mut(&target) else { return };
        // It may be in flight again.
        if rows.get(key) == Some(&Flight::Ended(until)) {
            rows.remove(key);
        }
        if rows.is_empty() {
            self.targets.remove(&target);
        }
    }
}

impl Reading {
    /// Holds what is free of the rows that were read, at most `rows_max`; `None` when nothing is.
    pub(super) fn hold(&self, target: Target, rows: Vec<DirtyRow>, rows_max: usize) -> Option<Claim> {
        let mut flights = self.claims.0.lock();
        let free = rows.into_iter().filter(|row| flights.hold(self.number, target.id, row));
        let rows: Vec<_> = free.take(rows_max).collect();
        drop(flights);
        if rows.is_empty() {
            return None;
        }
        let held = rows.iter().map(|row| Arc::clone(&row.row_key)).collect();
        Some(Claim { target, rows, held, claims: self.claims.clone() })
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.claims.0.lock().end_read(self.number);
    }
}

/// Rows of one target that this process works on. Dropped, it gives back whatever of it was not settled.
#[must_use = "a claim that is dropped gives its rows back"]
#[derive(Debug)]
pub struct Claim {
    /// Whose rows.
    pub target: Target,
    /// The rows, those due first at the front. Taken out, they stay in flight until the claim is dropped.
    pub rows: Vec<DirtyRow>,
    held: Vec<Arc<str>>,
    claims: Claims,
}

impl Claim {
    /// Moves the rows that `leaves` names to a claim of their own.
    pub fn split_off(&mut self, leaves: impl Fn(&DirtyRow) -> bool) -> Self {
        let (leaving, staying): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.rows).into_iter().partition(|row| leaves(row));
        self.rows = staying;
        let held: Vec<_> = leaving.iter().map(|row| Arc::clone(&row.row_key)).collect();
        let keys: BTreeSet<&str> = held.iter().map(AsRef::as_ref).collect();
        self.held.retain(|key| !keys.contains(key.as_ref()));
        Self { target: self.target.clone(), rows: leaving, held, claims: self.claims.clone() }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.end(self.target.id, &self.held);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{AnnouncedKey, KeyValue, TableName, Tenant, settle::Evidence};
    use crate::queue::{Age, Place};

    fn target() -> Target {
        Target { id: TargetId(1), tenant: Tenant::Company(1), table: TableName::new("Order").unwrap() }
    }

    fn rows(numbers: impl IntoIterator<Item = i64>) -> Vec<DirtyRow> {
        let row = |number| {
            let key = AnnouncedKey::new([("OrderNo".to_owned(), KeyValue::Int(number))]).unwrap();
            DirtyRow {
                row_key: key.canonical().into(),
                place: Place::default(),
                key,
                generation: 1,
                attempts: 0,
                priority: Priority::Live,
                notification_id: None,
                evidence: Evidence::default(),
                age: Age::when_claimed(Duration::ZERO),
            }
        };
        numbers.into_iter().map(row).collect()
    }

    fn held(claims: &Claims) -> usize {
        claims.in_flight().iter().map(|in_flight| in_flight.rows).sum()
    }

    #[test]
    fn a_row_is_in_flight_once_and_until_its_claim_is_dropped() {
        let claims = Claims::new();
        let first = claims.read().hold(target(), rows(0..3), 2).unwrap();
        assert_eq!((first.rows.len(), held(&claims)), (2, 2));
        let second = claims.read().hold(target(), rows(0..3), 9).unwrap();
        assert_eq!((second.rows.len(), held(&claims)), (1, 3));
        assert!(claims.read().hold(target(), rows(0..3), 9).is_none());
        drop(first);
        assert_eq!(held(&claims), 1);
        drop(second);
        assert_eq!(held(&claims), 0);
        assert!(claims.read().hold(target(), rows(0..3), 9).is_some());
    }

    #[test]
    fn a_read_does_not_bring_back_what_was_settled_meanwhile() {
        let claims = Claims::new();
        let claim = claims.read().hold(target(), rows(0..2), 9).unwrap();
        let before = claims.read();
        drop(claim);
        assert!(before.hold(target(), rows(0..2), 9).is_none());
        let after = claims.read();
        drop(before);
        assert_eq!(after.hold(target(), rows(0..2), 9).unwrap().rows.len(), 2);
        drop(after);
        assert!(claims.0.lock().ended.is_empty() && claims.0.lock().targets.is_empty());
    }

    #[test]
    fn both_parts_of_a_claim_give_their_rows_back() {
        let claims = Claims::new();
        let mut claim = claims.read().hold(target(), rows(0..5), 9).unwrap();
        let part = claim.split_off(|row| row.row_key.contains('3') || row.row_key.contains('4'));
        assert_eq!((claim.rows.len(), part.rows.len()), (3, 2));
        drop(claim);
        assert_eq!(held(&claims), 2);
        drop(part);
        assert_eq!(held(&claims), 0);
    }
}
