//! Who may be asked now: bounded per target and per tenant, with places that slow ones cannot take.
//!
//! A request that takes longer than a moment stops counting among the healthy, so that their places are free again; its
//! tenant is slow from then on and has one request at a time, out of the places for the ill. Nothing here waits.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::domain::{Target, TargetId, Tenant};

/// Requests of healthy targets at the same time.
const HEALTHY_MAX: usize = 32;
/// Requests of targets that failed or are slow.
const ILL_MAX: usize = 24;
/// Requests of one tenant that is well.
const TENANT_MAX: usize = 8;
/// Requests of one target that is well, together with answers whose rows are not written yet: a table that is written
/// more slowly than its rows are fetched must not gather them in memory.
const TARGET_MAX: usize = 4;
/// A request that takes longer makes its tenant slow.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// How long a tenant counts as slow, and a target is asked apart, after it was.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What this process knows of who answers how. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: HashMap<u64, Running>,
    /// Answers whose rows are not written yet.
    unwritten: HashMap<TargetId, usize>,
    slow: HashMap<Tenant, Instant>,
    apart: HashMap<TargetId, Instant>,
    targets_pause: HashMap<TargetId, Instant>,
    tenants_pause: HashMap<Tenant, Instant>,
}

#[derive(Debug)]
struct Running {
    /// When its request was sent; until then it waits for the budget, which says nothing of its targets.
    sent: Option<Instant>,
    targets: Vec<(TargetId, Tenant)>,
    is_ill: bool,
}

/// An answer whose rows are written, or given up, when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Unwritten {
    places: Places,
    target: TargetId,
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        let unwritten = &mut self.places.0.lock().unwritten;
        if let Some(count) = unwritten.get_mut(&self.target) {
            *count -= 1;
        }
        unwritten.retain(|_, count| *count > 0);
    }
}

/// A request under way. Its place is free when this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct Place {
    places: Places,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.lock().running.remove(&self.id);
    }
}

/// The request of a place, seen from elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    places: Places,
    id: u64,
}

impl Place {
    /// When its request was sent, and how it goes on.
    pub(super) fn sent(&self) -> Sent {
        Sent { places: self.places.clone(), id: self.id }
    }
}

impl Sent {
    /// The request is sent now.
    pub(super) fn note(&self) {
        if let Some(running) = self.places.0.lock().running.get_mut(&self.id) {
            running.sent.get_or_insert_with(Instant::now);
        }
    }

    /// How long ago it was sent; `None` while it waits for the budget.
    pub(super) fn elapsed(&self) -> Option<Duration> {
        self.places.0.lock().running.get(&self.id)?.sent.map(|sent| sent.elapsed())
    }

    /// The request goes on, but nobody waits for it any more: it counts for none of its tenants.
    pub(super) fn abandon(&self) {
        if let Some(running) = self.places.0.lock().running.get_mut(&self.id) {
            running.targets.clear();
            running.is_ill = true;
        }
    }
}

impl Places {
    /// Whether a request of this target may be sent now. `failures` are those of its health.
    pub(super) fn may(&self, target: &Target, failures: u32, now: Instant) -> bool {
        let mut state = self.0.lock();
        state.note_slow(now);
        state.may(target, failures, now)
    }

    /// Takes a place for a request of these targets.
    pub(super) fn take(&self, targets: &[(TargetId, Tenant)], is_ill: bool) -> Place {
        let mut state = self.0.lock();
        let id = state.next;
        state.next += 1;
        state.running.insert(id, Running { sent: None, targets: targets.to_vec(), is_ill });
        Place { places: self.clone(), id }
    }

    /// Whether the target had better not share a request.
    pub(super) fn is_apart(&self, target: &Target, now: Instant) -> bool {
        let state = self.0.lock();
        is_ahead(&state.apart, &target.id, now) || is_ahead(&state.slow, &target.tenant, now)
    }

    /// These targets failed together, or one of them is slow: each is asked for apart from now on.
    pub(super) fn set_apart(&self, targets: impl IntoIterator<Item = TargetId>, now: Instant) {
        let mut state = self.0.lock();
        for target in targets {
            state.apart.insert(target, now + REMEMBERED);
        }
    }

    /// A target that was asked apart answered in time.
    pub(super) fn answered(&self, target: &Target, elapsed: Duration) {
        let mut state = self.0.lock();
        state.apart.remove(&target.id);
        if elapsed < SLOW {
            state.slow.remove(&target.tenant);
        }
    }

    /// Counts rows of the target that are there and not written yet.
    pub(super) fn write_later(&self, target: TargetId) -> Unwritten {
        *self.0.lock().unwritten.entry(target).or_default() += 1;
        Unwritten { places: self.clone(), target }
    }

    /// Nothing is asked of the target for this long.
    pub(super) fn pause(&self, target: TargetId, until: Instant) {
        self.0.lock().targets_pause.insert(target, until);
    }

    /// Nothing is asked of the tenant for this long: it has too many requests in progress.
    pub(super) fn pause_tenant(&self, tenant: Tenant, until: Instant) {
        self.0.lock().tenants_pause.insert(tenant, until);
    }
}

impl State {
    fn may(&self, target: &Target, failures: u32, now: Instant) -> bool {
        if is_ahead(&self.targets_pause, &target.id, now) || is_ahead(&self.tenants_pause, &target.tenant, now) {
            return false;
        }
        let is_slow = is_ahead(&self.slow, &target.tenant, now);
        let is_ill = is_slow || failures > 0 || is_ahead(&self.apart, &target.id, now);
        let of_tenant = self.running.values().filter(|running| running.has_tenant(target.tenant)).count();
        let unwritten = self.unwritten.get(&target.id).copied().unwrap_or_default();
        let of_target = unwritten + self.running.values().filter(|running| running.has_target(target.id)).count();
        let (tenant_max, target_max) = match (is_slow, is_ill) {
            (true, _) => (1, 1),
            (false, true) => (TENANT_MAX, 1),
            (false, false) => (TENANT_MAX, TARGET_MAX),
        };
        let places = if is_ill { ILL_MAX } else { HEALTHY_MAX };
        let taken = self.running.values().filter(|running| running.is_ill == is_ill).count();
        of_tenant < tenant_max && of_target < target_max && taken < places
    }

    /// Requests that take long leave the places of the healthy, and make their tenants slow where it is plain whose
    /// fault it is.
    fn note_slow(&mut self, now: Instant) {
        let Self { running, slow, .. } = self;
        let is_slow = |sent: &Instant| now.saturating_duration_since(*sent) > SLOW;
        for running in running.values_mut().filter(|running| running.sent.as_ref().is_some_and(is_slow)) {
            running.is_ill = true;
            let tenants: HashSet<Tenant> = running.targets.iter().map(|(_, tenant)| *tenant).collect();
            if tenants.len() == 1 {
                slow.extend(tenants.into_iter().map(|tenant| (tenant, now + REMEMBERED)));
            }
        }
        self.slow.retain(|_, until| *until > now);
        self.apart.retain(|_, until| *until > now);
        self.targets_pause.retain(|_, until| *until > now);
        self.tenants_pause.retain(|_, until| *until > now);
    }
}

impl Running {
    fn has_tenant(&self, tenant: Tenant) -> bool {
        self.targets.iter().any(|(_, own)| *own == tenant)
    }

    fn has_target(&self, target: TargetId) -> bool {
        self.targets.iter().any(|(own, _)| *own == target)
    }
}

fn is_ahead<K: std::hash::Hash + Eq>(times: &HashMap<K, Instant>, key: &K, now: Instant) -> bool {
    times.get(key).is_some_and(|until| *until > now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TableName;

    fn target(id: i32, company: i64) -> Target {
        Target { id: TargetId(id), tenant: Tenant::Company(company), table: TableName::new("Order").unwrap() }
    }

    fn take(places: &Places, target: &Target) -> Place {
        let place = places.take(&[(target.id, target.tenant)], false);
        place.sent().note();
        place
    }

    #[test]
    fn a_slow_tenant_has_one_request_and_leaves_the_places_of_the_healthy() {
        let (places, now) = (Places::default(), Instant::now());
        let (slow, healthy) = (target(1, 1), target(2, 2));
        let held: Vec<Place> = (0..HEALTHY_MAX).map(|_| take(&places, &slow)).collect();
        assert!(!places.may(&healthy, 0, now));
        let later = Instant::now() + SLOW + Duration::from_millis(1);
        assert!(places.may(&healthy, 0, later));
        assert!(!places.may(&slow, 0, later));
        drop(held);
        assert!(places.may(&slow, 0, later));
        let _one = take(&places, &slow);
        assert!(!places.may(&slow, 0, later));
    }

    #[test]
    fn a_target_that_failed_is_tried_by_one_request_at_a_time() {
        let (places, now) = (Places::default(), Instant::now());
        let target = target(1, 1);
        let _one = places.take(&[(target.id, target.tenant)], true);
        assert!(!places.may(&target, 1, now));
        assert!(places.may(&target, 0, now));
    }

    #[test]
    fn a_request_that_is_no_longer_waited_for_counts_for_none_of_its_tenants() {
        let (places, now) = (Places::default(), Instant::now());
        let (one, other) = (target(1, 1), target(2, 2));
        let place = places.take(&[(one.id, one.tenant), (other.id, other.tenant)], false);
        place.sent().note();
        place.sent().abandon();
        let later = now + SLOW * 2;
        assert!(places.may(&one, 0, later) && places.may(&other, 0, later));
    }

    #[test]
    fn what_failed_together_is_asked_apart_until_it_answers() {
        let (places, now) = (Places::default(), Instant::now());
        let one = target(1, 1);
        places.set_apart([one.id], now);
        assert!(places.is_apart(&one, now));
        places.answered(&one, Duration::from_millis(10));
        assert!(!places.is_apart(&one, now));
    }

    #[test]
    fn what_is_not_written_yet_counts_for_its_target_alone() {
        let (places, now) = (Places::default(), Instant::now());
        let (one, other) = (target(1, 1), target(2, 1));
        let mut unwritten: Vec<Unwritten> = (0..TARGET_MAX).map(|_| places.write_later(one.id)).collect();
        assert!(!places.may(&one, 0, now) && places.may(&other, 0, now));
        unwritten.pop();
        assert!(places.may(&one, 0, now));
        let _last = take(&places, &one);
        assert!(!places.may(&one, 0, now));
        drop(unwritten);
        assert!(places.may(&one, 0, now) && places.0.lock().unwritten.is_empty());
    }

    #[test]
    fn a_pause_ends_by_itself() {
        let (places, now) = (Places::default(), Instant::now());
        let one = target(1, 1);
        places.pause(one.id, now + SLOW);
        places.pause_tenant(one.tenant, now + SLOW * 2);
        assert!(!places.may(&one, 0, now) && !places.may(&one, 0, now + SLOW));
        assert!(places.may(&one, 0, now + SLOW * 3));
    }
}
