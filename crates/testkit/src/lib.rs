//! One harness for tests, bench and demo.
//!
//! [`compare()`] holds a mirror against its source, [`Site`] runs daemons as processes of their own, [`TestDatabase`] is a
//! database that nobody else sees, and [`Scratch`] a folder for a server of one's own.
//!
//! It shares no code with the daemon, not even the rule that makes SQL names: a mistake in shared code would be on both
//! sides and never be seen. Where the machine itself does not do its part, such as a program that cannot be started, it
//! panics.

mod compare;
mod database;
mod names;
mod process;
mod scratch;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};

pub use compare::{Comparison, compare};
pub use database::TestDatabase;
pub use process::{Daemon, Site};
pub use scratch::Scratch;

/// The key that notifications are signed with.
pub const SECRET: &str = "test-signature-key";

/// Makes an object of a JSON literal.
pub fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}

/// Signs a body the way Visma Connect does.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
