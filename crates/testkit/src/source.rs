//! A daemon and its source made known to each other.

use std::fmt::Display;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use nxt_simulator::{Options, Simulator};

/// The key that notifications of tests are signed with.
pub const SECRET: &str = "test-signature-key";

/// Settings of a daemon that has a simulator for its source, takes these signing keys, and listens on any free port of
/// this machine. `options` are those that the simulator was started with.
pub fn settings(simulator: &Simulator, options: &Options, secrets: &str) -> Vec<(&'static str, String)> {
    vec![
        ("NXT_LISTEN", "127.0.0.1:0".to_owned()),
        ("NXT_OPS_LISTEN", "127.0.0.1:0".to_owned()),
        ("NXT_WEBHOOK_SECRETS", secrets.to_owned()),
        ("NXT_CLIENT_ID", options.client_id.clone()),
        ("NXT_CLIENT_SECRET", options.client_secret.clone()),
        ("NXT_TOKEN_URL", simulator.token_url()),
        ("NXT_GRAPHQL_URL", simulator.graphql_url()),
    ]
}

/// Where a daemon that listens on `address` takes notifications.
pub fn webhook_url(address: impl Display) -> String {
    format!("http://{address}/webhooks/business-nxt")
}

/// Has a simulator send its notifications there, signed with this key.
pub fn deliver(simulator: &Simulator, url: String, secret: &str) {
    simulator.set_knobs(|knobs| {
        knobs.url = Some(url);
        knobs.secrets = vec![secret.to_owned()];
    });
}

/// Signs a body the way Visma Connect does.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}
