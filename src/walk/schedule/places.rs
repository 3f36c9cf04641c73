//! How many walks run at the same time, and whose.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::task::Id;

use super::Kind;
use crate::{
    domain::{Target, TargetId, Tenant},
    walk::Progress,
};

/// A walk that has waited so long without anything coming to its end takes no place from others.
const STALLED: Duration = Duration::from_secs(5);
/// Walks of a kind, those that stand still included, for each place.
const TASKS_FOR_PLACE_MAX: usize = 8;
/// Walks of a kind that may stand still in a tenant before it gets no more.
const STALLED_OF_TENANT_MAX: usize = 2;

/// A walk under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) kind: Kind,
    pub(super) tenant: Tenant,
    pub(super) targets: Vec<Target>,
    pub(super) progress: Arc<Progress>,
}

/// Whether there is a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// The tenant has as many as it gets.
    NoneForTenant,
    NoneAtAll,
}

impl Running {
    /// Its tenant and whether it moves, if it is of this kind.
    fn of_kind(&self, kind: Kind) -> Option<(Tenant, bool)> {
        (self.kind == kind).then(|| (self.tenant, self.progress.stalled_for() < STALLED))
    }
}

/// Walks under way, by their tasks.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<Id, Running>);

/// Walks of a kind that may move at the same time, over all and for one tenant.
fn limits(kind: Kind) -> (usize, usize) {
    match kind {
        Kind::Load => (4, 2),
        Kind::Resync => (2, 2),
        Kind::Sweep => (8, 1),
    }
}

impl Places {
    /// Whether a walk of this kind may start in this tenant.
    pub(super) fn room(&self, kind: Kind, tenant: Tenant) -> Room {
        let (places, of_tenant_max) = limits(kind);
        let alike: Vec<(Tenant, bool)> = self.0.values().filter_map(|running| running.of_kind(kind)).collect();
        let moving = alike.iter().filter(|(_, is_moving)| *is_moving).count();
        if alike.len() >= places * TASKS_FOR_PLACE_MAX || moving >= places {
            return Room::NoneAtAll;
        }
        let of_tenant: Vec<bool> = alike.iter().filter(|(own, _)| *own == tenant).map(|(_, moving)| *moving).collect();
        let moving = of_tenant.iter().filter(|is_moving| **is_moving).count();
        if of_tenant.len() >= of_tenant_max + STALLED_OF_TENANT_MAX || moving >= of_tenant_max {
            return Room::NoneForTenant;
        }
        Room::Free
    }

    /// Whether a walk of this kind is under way for a target.
    pub(super) fn hold(&self, kind: Kind, target: TargetId) -> bool {
        let is_of = |running: &Running| running.targets.iter().any(|own| own.id == target);
        self.0.values().any(|running| running.kind == kind && is_of(running))
    }

    pub(super) fn take(&mut self, task: Id, running: Running) {
        self.0.insert(task, running);
    }

    pub(super) fn free(&mut self, task: Id) -> Option<Running> {
        self.0.remove(&task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TableName;

    /// Task ids come from tasks alone.
    async fn id() -> Id {
        tokio::spawn(async {}).id()
    }

    fn running(kind: Kind, company: i64) -> Running {
        let tenant = Tenant::Company(company);
        let table = TableName::new("Order").unwrap();
        let targets = vec![Target { id: TargetId(company as i32), tenant, table }];
        Running { kind, tenant, targets, progress: Arc::default() }
    }

    async fn places(running: Vec<Running>) -> Places {
        let mut places = Places::default();
        for one in running {
            places.take(id().await, one);
        }
        places
    }

    #[tokio::test]
    async fn one_tenant_cannot_take_all_places() {
        let places = places(vec![running(Kind::Load, 1), running(Kind::Load, 1), running(Kind::Sweep, 1)]).await;
        for kind in [Kind::Load, Kind::Sweep] {
            assert_eq!(places.room(kind, Tenant::Company(1)), Room::NoneForTenant);
            assert_eq!(places.room(kind, Tenant::Company(2)), Room::Free);
        }
        assert!(places.hold(Kind::Load, TargetId(1)) && !places.hold(Kind::Resync, TargetId(1)));
    }

    #[tokio::test]
    async fn places_are_few() {
        let places = places((1..=4).map(|company| running(Kind::Load, company)).collect()).await;
        assert_eq!(places.room(Kind::Load, Tenant::Company(5)), Room::NoneAtAll);
        assert_eq!(places.room(Kind::Resync, Tenant::Company(5)), Room::Free);
    }
}
