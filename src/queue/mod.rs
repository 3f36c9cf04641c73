//! The durable queue in PostgreSQL, and all its SQL.
//!
//! * [`Acceptor`] stores notifications: the ledger, one acceptance for each notification id, and one dirty row for
//!   each row of the source, by one commit for all that wait.
//! * [`Queue`] hands dirty rows out under a lease and takes the verdicts back. A verdict counts only while the lease
//!   is its own, and settles a row only if no notification has come since.
//! * [`maintenance`] keeps the ledger's partitions.

mod accept;
mod claim;
mod commit;
pub mod dead_letter;
pub mod ledger;
pub mod maintenance;
pub mod settle;
pub mod tombstone;

pub use accept::{AcceptError, Accepted, Acceptor, Delivery, DeliveryId, Notification, Quarantine};
pub use claim::{Backlog, Claimable, Claimed, Priority, Queue, RENEW_INTERVAL};
pub use commit::Committer;
pub use settle::{FailureOf, Locked, Outcome, SyncAction, SyncEntry};
pub use tombstone::Tombstone;

/// A statement against the queue's tables failed.
#[derive(Debug, thiserror::Error)]
#[error("the queue could not {action}")]
pub struct QueueError {
    /// What was attempted.
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: sqlx::Error,
}

impl QueueError {
    fn on(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { action, source }
    }
}
