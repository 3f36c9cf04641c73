//! The webhook sender: signed notifications with retries, and everything that can go wrong on their way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::TimeDelta;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::{Mutex, MutexGuard};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use sha2::Sha256;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    clock::Clock,
    model::Owner,
    store::{Change, Event},
    value::{fold, seven_decimals},
};

/// Deliveries under way at once.
const CONCURRENCY: usize = 64;
/// How much later than the change a notification is stamped.
const STAMP_DELAY: TimeDelta = TimeDelta::milliseconds(31);

/// How notifications are sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Knobs {
    /// Where to; nothing is sent without it.
    pub url: Option<String>,
    /// Signing keys, used in turn.
    pub secrets: Vec<String>,
    /// How likely a notification is sent twice.
    pub duplicate: f64,
    /// How likely it is never sent.
    pub loss: f64,
    /// The longest random delay, in milliseconds; more than 0 reorders.
    pub delay_ms_max: u64,
    /// How likely it is signed with a wrong key first; the retry is right.
    pub wrong_signature: f64,
    /// Tries beside the first one.
    pub retries: u32,
    /// Milliseconds until the first retry, doubling.
    pub retry_ms: u64,
    /// The six fields of 2024 instead of the eight of 2025.
    pub old_payload: bool,
    /// How far the clock of the notifications is ahead of that of the rows, in seconds.
    pub stamp_ahead_seconds: i64,
    /// Only these tables; all when empty.
    pub tables: Vec<String>,
    /// A byte order mark stands before each body, and its signature covers it.
    pub byte_order_mark: bool,
    /// Texts of keys are spelled in the other case and with a blank behind, which the source holds equal.
    pub loose_keys: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            url: None,
            secrets: vec!["simulated-signature-key".into()],
            duplicate: 0.0,
            loss: 0.0,
            delay_ms_max: 0,
            wrong_signature: 0.0,
            retries: 8,
            retry_ms: 200,
            old_payload: false,
            stamp_ahead_seconds: 0,
            tables: vec![],
            byte_order_mark: false,
            loose_keys: false,
        }
    }
}

/// What became of the notifications.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SenderCounters {
    /// Requests sent.
    pub sent: u64,
    /// Answers of 2xx.
    pub accepted: u64,
    /// Answers that are no 2xx, and requests without one.
    pub failed: u64,
    /// What happened to the last of these.
    pub last_failure: Option<String>,
    /// Given up after the last retry.
    pub given_up: u64,
    /// Lost on purpose.
    pub lost: u64,
}

#[derive(Debug)]
struct Shared {
    knobs: Mutex<Knobs>,
    random: Mutex<StdRng>,
    sent: AtomicU64,
    accepted: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
    given_up: AtomicU64,
    lost: AtomicU64,
    numbers: AtomicU64,
    open: tokio::sync::watch::Sender<u64>,
    slots: Semaphore,
    http: reqwest::Client,
    stop: CancellationToken,
}

/// Sends notifications in tasks of its own.
#[derive(Debug, Clone)]
pub(super) struct Sender(Arc<Shared>);

impl Sender {
    pub(super) fn start(knobs: Knobs, seed: u64, stop: CancellationToken) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .expect("a client without special settings");
        Self(Arc::new(Shared {
            knobs: Mutex::new(knobs),
            random: Mutex::new(StdRng::seed_from_u64(seed.wrapping_add(1))),
            sent: AtomicU64::default(),
            accepted: AtomicU64::default(),
            failed: AtomicU64::default(),
            last_failure: Mutex::default(),
            given_up: AtomicU64::default(),
            lost: AtomicU64::default(),
            numbers: AtomicU64::default(),
            open: tokio::sync::watch::Sender::new(0),
            slots: Semaphore::new(CONCURRENCY),
            http,
            stop,
        }))
    }

    fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.0.knobs.lock()
    }

    pub(super) fn set_knobs(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.knobs());
    }

    pub(super) fn current_knobs(&self) -> Knobs {
        self.knobs().clone()
    }

    pub(super) fn counters(&self) -> SenderCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.0;
        SenderCounters {
            sent: of(&shared.sent),
            accepted: of(&shared.accepted),
            failed: of(&shared.failed),
            last_failure: shared.last_failure.lock().clone(),
            given_up: of(&shared.given_up),
            lost: of(&shared.lost),
        }
    }

    pub(super) async fn drain(&self) {
        let mut open = self.0.open.subscribe();
        // Fails only when the sender is gone, which this borrow rules out.
        _ = open.wait_for(|open| *open == 0).await;
    }

    fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.random(|random| random.random::<f64>()) < probability
    }

    fn random<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.random.lock())
    }

    /// Sends the notification of a change, as the knobs say.
    pub(super) fn announce(&self, change: &Change) {
        let knobs = self.current_knobs();
        if !knobs.tables.is_empty() && !knobs.tables.contains(&change.table.name) {
            return;
        }
        if self.chance(knobs.loss) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mark = if knobs.byte_order_mark { "\u{feff}" } else { "" };
        let body = format!("{mark}{}", body(change, &knobs));
        self.send(body.clone(), &knobs);
        if self.chance(knobs.duplicate) {
            self.send(body, &knobs);
        }
    }

    /// Sends a body as it is, signed.
    pub(super) fn send_raw(&self, body: String) {
        let knobs = self.current_knobs();
        self.send(body, &knobs);
    }

    fn send(&self, body: String, knobs: &Knobs) {
        let Some(url) = knobs.url.clone() else { return };
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let delay = match knobs.delay_ms_max {
            0 => Duration::ZERO,
            max => Duration::from_millis(self.random(|random| random.random_range(0..=max))),
        };
        let id = format!("{:016x}-{number}", self.random(|random| random.random::<u64>()));
        let sender = self.clone();
        let knobs = knobs.clone();
        self.0.open.send_modify(|open| *open += 1);
        tokio::spawn(async move {
            tokio::select! {
                () = sender.deliver(&url, &id, &body, &knobs, delay, number) => {}
                () = sender.0.stop.cancelled() => {}
            }
            sender.0.open.send_modify(|open| *open -= 1);
        });
    }

    async fn deliver(&self, url: &str, id: &str, body: &str, knobs: &Knobs, delay: Duration, number: u64) {
        tokio::time::sleep(delay).await;
        let mut wrong = self.chance(knobs.wrong_signature);
        for attempt in 0..=knobs.retries {
            if attempt > 0 {
                let factor = 1_u64 << (attempt - 1).min(6);
                tokio::time::sleep(Duration::from_millis(knobs.retry_ms.saturating_mul(factor))).await;
            }
            let Ok(slot) = self.0.slots.acquire().await else { return };
            let secret = match knobs.secrets.as_slice() {
                _ if wrong => "not the key",
                [] => "",
                secrets => &secrets[usize::try_from(number).unwrap_or_default() % secrets.len()],
            };
            let posted = self.post(url, id, body, secret).await;
            drop(slot);
            match posted {
                Ok(()) => {
                    self.0.accepted.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(reason) => {
                    self.0.failed.fetch_add(1, Ordering::Relaxed);
                    *self.0.last_failure.lock() = Some(reason);
                }
            }
            wrong = false;
        }
        self.0.given_up.fetch_add(1, Ordering::Relaxed);
    }

    async fn post(&self, url: &str, id: &str, body: &str, secret: &str) -> Result<(), String> {
        self.0.sent.fetch_add(1, Ordering::Relaxed);
        let now = Clock::default().now().timestamp_millis().to_string();
        let answer = self
            .0
            .http
            .post(url)
            .header("content-type", "application/json; charset=utf-8")
            .header("x-vwd-signature-v1", sign(secret, body.as_bytes()))
            .header("x-vwd-notification-id", id)
            .header("x-vwd-notification-timestamp", &now)
            .header("x-vwd-webhook-timestamp", &now)
            .header("x-vwd-event-id", "TableChange")
            .header("x-vwd-subscription-id", "simulated-subscription")
            .body(body.to_owned())
            .send()
            .await
            .map_err(|error| format!("{error:?}"))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(status.to_string()),
        }
    }
}

/// `base64(HMAC-SHA256(UTF-8 of the key, raw body))`
pub(super) fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    BASE64_STANDARD.encode(mac.finalize().into_bytes())
}

fn body(change: &Change, knobs: &Knobs) -> String {
    let entry = |(name, value): &(String, Json)| Json::Object(Map::from_iter([(name.clone(), value.clone())]));
    let key = |(name, value): &(String, Json)| match value {
        Json::String(text) if knobs.loose_keys => entry(&(name.clone(), other_spelling(text).into())),
        _ => entry(&(name.clone(), value.clone())),
    };
    let event = match change.event {
        Event::Insert => "INSERT",
        Event::Update => "UPDATE",
        Event::Delete => "DELETE",
    };
    let company = match change.owner {
        Owner::Company(company) => company,
        Owner::Customer(_) => 0,
    };
    let stamp = change.at + STAMP_DELAY + TimeDelta::seconds(knobs.stamp_ahead_seconds);
    let mut body = json!({
        "tableIdentifier": change.table.name,
        "customerNo": change.customer,
        "companyNo": company,
        "event": event,
        "primaryKeys": change.key.iter().map(key).collect::<Vec<_>>(),
        "timestamp": format!("{}Z", seven_decimals(stamp)),
    });
    if !knobs.old_payload {
        body["changedByUser"] = "kari.nordmann".into();
        if change.event != Event::Delete {
            body["changedColumns"] = change.columns.iter().map(entry).collect();
        }
    }
    body.to_string()
}

/// A text in another spelling that the source holds equal.
fn other_spelling(text: &str) -> String {
    let other = |letter: char| match letter.is_lowercase() {
        true => letter.to_uppercase().to_string(),
        false => letter.to_lowercase().to_string(),
    };
    let turned: String = text.chars().map(other).collect();
    let spelled = if fold(&turned) == fold(text) { turned } else { text.to_owned() };
    format!("{spelled} ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_signature_is_the_one_openssl_computes() {
        assert_eq!(super::sign("test-key", b"{\"a\":1}"), "SG7NGxjnfvGUXumE138IgurzHHXJS+YySywEcq+VVuc=");
    }
}
