//! One harness for tests, bench and demo.
//!
//! [`compare()`] holds a mirror against its source, [`Site`] runs daemons as processes of their own, [`TestDatabase`] is a
//! database that nobody else sees, [`Scratch`] a folder for a server of one's own, and [`Wait`] waits for what has no
//! event. [`settings`] and [`deliver`] make a daemon and its source known to each other.
//!
//! It shares no code with the daemon, not even the rule that makes SQL names: a mistake in shared code would be on both
//! sides and never be seen. Where the machine itself does not do its part, such as a program that cannot be started, it
//! panics.

mod cluster;
mod compare;
mod database;
mod names;
mod place;
mod process;
mod scratch;
mod source;
mod wait;

use serde_json::{Map, Value};

pub use compare::{Comparison, compare};
pub use database::{OTHER_ROLE, TestDatabase, is_cluster, is_server_given, recreate};
pub use process::{Daemon, Site, free_address};
pub use scratch::Scratch;
pub use source::{SECRET, deliver, settings, sign, webhook_url};
pub use wait::Wait;

/// Makes an object of a JSON literal.
pub fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}
