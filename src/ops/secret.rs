//! Comparing secrets.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};

/// Whether a text is the secret. Compares digests keyed by the secret itself, so that the time tells nothing of where
/// the texts differ.
pub(super) fn is(given: &str, secret: &SecretString) -> bool {
    let secret = secret.expose_secret().as_bytes();
    let digest = |text: &[u8]| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        mac.update(text);
        mac
    };
    digest(given.as_bytes()).verify(&digest(secret).finalize().into_bytes()).is_ok()
}
