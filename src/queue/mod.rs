//! The durable queue in PostgreSQL, and all its SQL.
//!
//! * Receiving is an append: [`Acceptor`] hands deliveries to the [`Appender`], which stores one block of the ledger
//!   for all that wait. It only inserts, on a connection of its own.
//! * [`Queue::fold`] turns blocks into dirty rows, one for each row of the source, exactly once.
//! * [`Queue::overview`] tells what is due by target, [`Queue::claim`] takes it: a living worker leases the target, and
//!   the rows in flight are known to this process alone ([`Claims`]). Double work is harmless.
//! * [`settle()`] takes the outcomes back, in the transaction that writes the mirror, and clears a row only if no
//!   notification has come since.
//!
//! Locks of dirty rows are taken in the order of their keys, here and everywhere.

mod accept;
pub mod activity;
mod announced;
mod append;
mod aside;
mod asked;
mod block;
pub mod changes;
mod claim;
pub mod dead_letter;
mod error;
mod evidence;
mod feed;
mod flights;
mod floors;
mod fold;
mod journal;
pub mod ledger;
pub mod maintenance;
mod mark;
mod overview;
mod redact;
mod settle;
pub mod status;
mod sync_log;
pub mod target;
pub mod tombstone;
mod worker;

use std::sync::{Arc, atomic::AtomicI32};

use sqlx::PgPool;

pub use accept::{AcceptError, Accepted, Acceptor, Delivery, DeliveryId, Notification, Quarantine, Waiting};
pub use announced::{announced_columns, announced_counts, announced_key};
pub use append::Appender;
pub use aside::set_target_aside;
pub use asked::Asked;
pub use claim::{Age, Claimable, DirtyRow, Place, Priority, Wanted};
pub use error::QueueError;
pub use evidence::{HasEvidence, Pending, evidence, has_evidence};
pub use feed::{ChangeAction, FeedEntry};
pub use flights::{Claim, Claims};
pub use fold::Folded;
pub use journal::Journal;
pub use mark::mark;
pub use overview::{Due, Overview};
pub use settle::{Outcome, settle};
pub use sync_log::{OperatorEntry, SyncAction, SyncEntry, log_operator};
pub use target::{Applied, note_applied};
pub use tombstone::Tombstone;
pub use worker::{BEAT_INTERVAL, WorkerId};

/// The queue of dirty rows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: PgPool,
    /// Behind which target the next overview begins.
    cursor: Arc<AtomicI32>,
    floors: floors::Floors,
    part_size: fold::PartSize,
}

impl Queue {
    /// A queue in this database.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, cursor: Arc::default(), floors: floors::Floors::default(), part_size: fold::PartSize::default() }
    }
}
