//! One helper for all tests: a database, a simulator, a daemon.

pub mod app;
pub mod database;
pub mod process;
pub mod scratch;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value};

/// Makes an object of a JSON literal.
pub fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        other => panic!("{other} is not an object"),
    }
}

/// Signs a body the way Visma Connect does.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
