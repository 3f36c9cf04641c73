//! Signatures: base64 of HMAC-SHA256 over the raw body, keyed by the UTF-8 bytes of a secret
//! (webhook documentation, `webhooks/connect`).

use actix_web::web::Bytes;
use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// The header that carries the signature.
pub const HEADER: &str = "x-vwd-signature-v1";

/// Signs a body as the sender does.
pub fn sign(secret: &SecretString, body: &[u8]) -> String {
    BASE64_STANDARD.encode(keyed(secret).chain_update(body).finalize().into_bytes())
}

fn keyed(secret: &SecretString) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length")
}

/// The keys of all subscriptions that post here, any of which may have signed.
#[derive(Clone)]
pub struct SigningSecrets(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningSecrets({})", self.0.len())
    }
}

/// A body whose signature holds. Only [`SigningSecrets::verify`] makes one.
#[derive(Debug)]
pub(super) struct VerifiedBody(Bytes);

impl VerifiedBody {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl SigningSecrets {
    /// Prepares the keys.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        Self(secrets.into_iter().map(keyed).collect())
    }

    /// Hands the body over if one of the keys signed it. Takes the same time wherever a signature differs and
    /// whichever key matches.
    pub(super) fn verify(&self, body: Bytes, signature: Option<&[u8]>) -> Option<VerifiedBody> {
        let signature = BASE64_STANDARD.decode(signature?.trim_ascii()).ok()?;
        let signed = self.0.iter().fold(false, |signed, key| {
            let mut mac = key.clone();
            mac.update(&body);
            signed | mac.verify_slice(&signature).is_ok()
        });
        signed.then_some(VerifiedBody(body))
    }

    /// Whether one of the keys signed a body.
    #[cfg(any(test, fuzzing))]
    pub fn is_signed(&self, body: Bytes, signature: Option<&[u8]>) -> bool {
        self.verify(body, signature).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(secrets: &[&str], body: &str, signature: &str) -> bool {
        let secrets: Vec<SecretString> = secrets.iter().map(|secret| (*secret).into()).collect();
        let verified = SigningSecrets::new(&secrets).verify(Bytes::from(body.to_owned()), Some(signature.as_bytes()));
        verified.is_some_and(|verified| verified.bytes() == body)
    }

    /// Computed with `printf '%s' BODY | openssl dgst -sha256 -hmac KEY -binary | base64`.
    const VECTORS: [(&str, &str, &str); 4] = [
        ("test-key", r#"{"a":1}"#, "SG7NGxjnfvGUXumE138IgurzHHXJS+YySywEcq+VVuc="),
        ("nøkkel med ÆØÅ", r#"{"ProductNo":"Blåbær"}"#, "2kbcvHzlgAsC+GcgClVAOlXoCLYQlQ62X00l8Tcrp+U="),
        ("k", "", "i7mQxAp9YcuXWXqUISUCW+UKyL63RDbjc1uYiTp/ZiA="),
        (
            "a key that is longer than the sixty-four bytes of one block of the hash",
            "x",
            "VxMS6UKKVB/YpEJX8b6o0IxyL7x0guffMdLIpF68R7Q=",
        ),
    ];

    #[test]
    fn signatures_computed_with_openssl_hold() {
        for (key, body, signature) in VECTORS {
            assert!(signed(&[key], body, signature), "{key}");
            assert_eq!(sign(&key.into(), body.as_bytes()), signature);
        }
    }

    #[test]
    fn any_of_several_secrets_may_have_signed() {
        let (key, body, signature) = VECTORS[0];
        assert!(signed(&["other", key], body, signature));
        assert!(signed(&[key, "other"], body, signature));
        assert!(!signed(&["other", "another"], body, signature));
    }

    #[test]
    fn a_changed_body_or_signature_is_refused() {
        let (key, body, signature) = VECTORS[0];
        assert!(!signed(&[key], r#"{"a":2}"#, signature));
        for bad in ["", "=", "not base64!", "SG7NGxjnfvGUXumE138IgurzHHXJS+YySywEcq+VVuY=", &signature[..40]] {
            assert!(!signed(&[key], body, bad), "{bad:?}");
        }
        assert!(SigningSecrets::new(&[key.into()]).verify(Bytes::from_static(b"{}"), None).is_none());
    }
}
