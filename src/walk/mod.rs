//! Whole tables: load, resync, sweep and verification.
//!
//! * A **full scan** walks a table in the order of its primary key: `ranges` cuts a large table into ranges of its key,
//!   and `page` moves through each by keyset pages, in the source's own order and by the source's own comparison, so that
//!   any collation will do. The first one is the **load**, a later one a **resync**. [`Loader`] writes what it meets with
//!   the one writer; rows that only the mirror has are marked for a fetch by key, which decides.
//! * A **sweep** asks for what changed since a watermark.
//! * [`Verifier`] is the writer's dry run: it compares, and leaves a certificate.
//!
//! [`schedule`] does the first three by itself while the daemon serves.

mod certificate;
mod checkpoint;
mod compare;
mod error;
mod extras;
mod history;
mod load;
mod order;
mod pacer;
mod page;
mod patience;
mod progress;
mod ranges;
mod recheck;
mod record;
mod report;
mod schedule;
mod settled;
mod silence;
mod source;
mod sweep;
mod targets;
mod verify;
mod watermark;
mod write;

pub use error::WalkError;
pub use history::Histories;
pub use load::{Loaded, Loader};
pub use order::Order;
pub use progress::Progress;
pub use record::{CertificateRecord, ScanRecord, SweepRecord, WalkRecord};
pub use report::{Difference, Differing, Report, Unreadable};
pub use schedule::{Parts as ScheduleParts, run as schedule};
pub use settled::{Marked, wait_until_settled};
pub use source::Source;
pub use targets::{Found, Selection, Unreachable, targets};
pub use verify::{Repair, Verifier};

/// Tables that a command walks at the same time.
pub const TABLES_AT_ONCE: usize = 4;
