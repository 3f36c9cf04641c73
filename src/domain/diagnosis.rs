//! Whose a failure is: the smallest thing that explains it, and when to try again.

use std::time::Duration;

/// Who a failure belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// One row: others of its table are not concerned.
    Row,
    /// One tenant's table. Also everything that is not understood.
    Target,
    /// All tables of one tenant.
    Tenant,
    /// The API as a whole.
    Api,
    /// The mirror's database as a whole.
    Database,
    /// The table is not as it was described: it is to be described and brought in line again.
    Schema,
}

/// A failure, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// Who it belongs to.
    pub owner: Owner,
    /// How long to wait, where the other side asked for it or it is known to take that long.
    pub pause: Option<Duration>,
    /// What happened and what to do about it, for people.
    pub reason: String,
}
