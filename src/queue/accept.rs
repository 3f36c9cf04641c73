//! The receiving side: requests wait here for the commit that stores them.

use std::{sync::Arc, time::Duration};

use actix_web::web::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::redact::redacted;
use crate::domain::{ChangeEvent, Exclusions};

/// Requests that may wait for a commit; past it the answer is 503 at once.
const WAITING_MAX: usize = 8_192;
/// How long a request waits for its commit. The contract allows 15 s until the 503.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);
/// Bytes of a notification id that are stored as they are.
const DELIVERY_ID_BYTES_MAX: usize = 200;

/// `x-vwd-notification-id`, an opaque text. Whether it stays the same over retries is not documented.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// Takes the bytes of the header; `None` when it is empty. What is long or not plain text goes by its digest.
    pub fn new(header: &[u8]) -> Option<Self> {
        let header = header.trim_ascii();
        let plain = header.len() <= DELIVERY_ID_BYTES_MAX && header.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(header) {
            Ok("") => None,
            Ok(text) if plain => Some(Self(text.to_owned())),
            Ok(_) | Err(_) => {
                let digest = Sha256::digest(header);
                Some(Self(digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))))
            }
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A notification that was understood.
#[derive(Debug)]
pub struct Notification {
    /// Its id, when the sender gave one.
    pub delivery_id: Option<DeliveryId>,
    /// What it says.
    pub event: ChangeEvent,
    /// Who made the change.
    pub changed_by: Option<String>,
    /// Names of the columns that changed, as received.
    pub columns: Vec<String>,
    /// The body as received; UTF-8, since it was understood.
    pub body: Bytes,
}

/// A signed body that was not understood.
#[derive(Debug)]
pub struct Quarantine {
    /// Its id, when the sender gave one.
    pub delivery_id: Option<DeliveryId>,
    /// Why it was not understood.
    pub reason: String,
    /// The body as received.
    pub body: Bytes,
}

/// Something to store before it is answered.
#[derive(Debug)]
pub enum Delivery {
    /// To the ledger.
    Notification(Notification),
    /// To the dead letters.
    Quarantine(Quarantine),
}

impl Delivery {
    pub(super) fn body(&self) -> &Bytes {
        match self {
            Self::Notification(notification) => &notification.body,
            Self::Quarantine(quarantine) => &quarantine.body,
        }
    }
}

/// How a delivery was stored. It survives any crash from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// In the ledger.
    Stored,
    /// Among the dead letters.
    Quarantined,
    /// Nowhere: its table is left out.
    LeftOut,
}

/// Why a delivery was not stored, as far as is known.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too many requests wait already.
    #[error("{WAITING_MAX} requests are waiting for a commit already")]
    Full,
    /// No commit in time. It may still happen; the sender's retry is then stored a second time, which changes nothing.
    #[error("no commit within {ANSWER_TIMEOUT:?}")]
    TimedOut,
    /// The commit failed.
    #[error("the commit failed: {0}")]
    Failed(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// One waiting request.
#[derive(Debug)]
pub struct Waiting {
    pub(super) delivery: Delivery,
    pub(super) answer: oneshot::Sender<Result<Accepted, AcceptError>>,
}

impl Waiting {
    /// Answers the request. One that is gone does not hear it.
    pub fn answer(self, result: Result<Accepted, AcceptError>) {
        _ = self.answer.send(result);
    }
}

/// Where requests hand in what they received. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acceptor {
    sender: mpsc::Sender<Waiting>,
    exclusions: Arc<Exclusions>,
}

impl Acceptor {
    /// Where requests hand in, and where they come out: at the [`Appender`](super::Appender), or at a measurement of
    /// what receiving costs beside storing.
    pub fn channel(exclusions: Arc<Exclusions>) -> (Self, mpsc::Receiver<Waiting>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { sender, exclusions }, receiver)
    }

    /// Waits until the delivery is committed, without what is left out. One of a table that is left out is not kept.
    pub async fn accept(&self, delivery: Delivery) -> Result<Accepted, AcceptError> {
        let Some(delivery) = redacted(delivery, &self.exclusions) else { return Ok(Accepted::LeftOut) };
        let (answer, committed) = oneshot::channel();
        self.sender.try_send(Waiting { delivery, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AcceptError::Full,
            mpsc::error::TrySendError::Closed(_) => AcceptError::Stopping,
        })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, committed).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(AcceptError::Stopping),
            Err(_elapsed) => Err(AcceptError::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_as_text_or_as_a_digest() {
        assert_eq!(DeliveryId::new(b" abc-1 ").unwrap().as_str(), "abc-1");
        assert_eq!(DeliveryId::new(b"  "), None);
        let long = DeliveryId::new(&[b'x'; 300]).unwrap();
        assert!(long.as_str().starts_with("sha256:") && long.as_str().len() == 71);
        assert_ne!(DeliveryId::new(b"\xff\xfe"), DeliveryId::new(b"\xff\xfd"));
    }
}
