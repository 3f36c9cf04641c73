//! The public address, tried from outside: do notifications that are posted there end up in this database?
//!
//! Two kinds of bodies are posted, neither of which makes work. One bears a wrong signature and has to be refused. One
//! for each signature key is signed, and is not understood, so that it ends among the dead letters, where its number
//! is looked for: only that proves that the address leads here. It is taken out again at once. A doctor that is killed
//! in between leaves a dead letter that says where it comes from, and so does an address that leads to another
//! installation with the same keys.

use secrecy::SecretString;
use sqlx::PgPool;
use url::Url;
use uuid::Uuid;

use super::findings::Findings;
use crate::{
    config::WebhookSettings,
    queue::dead_letter,
    telemetry::chain,
    upstream,
    webhook::{SIGNATURE_HEADER, sign},
};

const WHAT: &str = "public address";

/// Why a notification would not arrive.
enum Fault {
    /// Nothing answers.
    Unreachable(String),
    /// It is taken whatever its signature.
    Unchecked(u16),
    /// What answers is no receiver, or not at this path.
    Strange(u16),
    /// It does not know a key, counted from 1.
    UnknownKey(usize),
    /// It stores somewhere else.
    Elsewhere,
    /// The database could not be asked.
    Database(String),
}

/// Posts to the address as Business NXT would.
pub(super) async fn try_out(public: &Url, settings: &WebhookSettings, pool: &PgPool, findings: &mut Findings) {
    let url = with_path(public, &settings.path);
    match post_all(&url, settings, pool).await {
        Ok(()) => {
            let keys = settings.secrets.len();
            findings.fine(WHAT, format_args!("{url} takes what is signed by any of {keys} keys, and nothing else"));
        }
        Err(fault) => {
            let (found, remedy) = fault.told();
            findings.problem(WHAT, format_args!("{url} {found}"), remedy);
        }
    }
}

/// An address without a path means that of the settings.
fn with_path(public: &Url, path: &str) -> Url {
    let mut url = public.clone();
    if url.path() == "/" {
        url.set_path(path);
    }
    url
}

async fn post_all(url: &Url, settings: &WebhookSettings, pool: &PgPool) -> Result<(), Fault> {
    let client = upstream::http_client().map_err(|error| Fault::Unreachable(chain(&error).to_string()))?;
    let post = async |body: &str, signature: String| {
        let request = client.post(url.clone()).header(SIGNATURE_HEADER, signature).body(body.to_owned());
        let answer =
            request.send().await.map_err(|error| Fault::Unreachable(chain(&error.without_url()).to_string()))?;
        Ok(answer.status().as_u16())
    };
    let wrong = SecretString::from(Uuid::new_v4().to_string());
    let body = letter();
    match post(&body, sign(&wrong, body.as_bytes())).await? {
        401 => {}
        status @ 200..300 => return Err(Fault::Unchecked(status)),
        status => return Err(Fault::Strange(status)),
    }
    for (index, secret) in settings.secrets.iter().enumerate() {
        let body = letter();
        let status = post(&body, sign(secret, body.as_bytes())).await?;
        let taken_out = dead_letter::drop_body(pool, body.as_bytes()).await;
        let taken_out = taken_out.map_err(|error| Fault::Database(chain(&error).to_string()))?;
        match status {
            202 if taken_out > 0 => {}
            202 => return Err(Fault::Elsewhere),
            401 => return Err(Fault::UnknownKey(index + 1)),
            status => return Err(Fault::Strange(status)),
        }
    }
    Ok(())
}

/// A body that is no notification, and no other's.
fn letter() -> String {
    serde_json::json!({ "postedBy": "nxt-mirror doctor", "number": Uuid::new_v4() }).to_string()
}

impl Fault {
    fn told(self) -> (String, &'static str) {
        match self {
            Self::Unreachable(reason) => (
                format!("cannot be reached: {reason}"),
                "check its DNS name, its certificate, the firewall and the proxy; this machine must reach it, too",
            ),
            Self::Unchecked(status) => (
                format!("takes a body with a wrong signature ({status})"),
                "another program answers there: see that the proxy leads to NXT_LISTEN",
            ),
            Self::Strange(404 | 405) => (
                "is not where notifications are received".to_owned(),
                "see that the proxy leads to NXT_LISTEN, and that the path is that of NXT_WEBHOOK_PATH",
            ),
            Self::Strange(status) => (
                format!("answers with status {status}"),
                "502, 503 and 504 come from a proxy without a daemon behind it, or from a daemon without its database",
            ),
            Self::UnknownKey(number) => (
                format!("refuses what is signed by key {number} of NXT_WEBHOOK_SECRETS"),
                "the daemon there has other keys: give it the same NXT_WEBHOOK_SECRETS, and restart it",
            ),
            Self::Elsewhere => (
                "takes notifications, but stores them in another database".to_owned(),
                "another daemon answers there: check DATABASE_URL here and there, and where the proxy leads",
            ),
            Self::Database(reason) => (
                format!("was not tried to the end: {reason}"),
                "look for a dead letter that was posted by the doctor, and drop it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_means_that_of_the_settings() {
        for (given, expected) in [
            ("https://h.example", "https://h.example/hooks"),
            ("https://h.example/", "https://h.example/hooks"),
            ("https://h.example/other/hooks", "https://h.example/other/hooks"),
        ] {
            assert_eq!(with_path(&given.parse().unwrap(), "/hooks").as_str(), expected);
        }
    }
}
