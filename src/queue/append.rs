//! Group commit: one block and one commit for all requests that wait, each answered after it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};

use super::{
    accept::{AcceptError, Accepted, Acceptor, Delivery, Notification, Waiting},
    block::{Block, Letter, Stream},
    error::{is_collision, is_lost, is_of_data, is_read_only},
};
use crate::{
    database::{Connector, DatabaseError, Session},
    domain::Exclusions,
    failpoint::Failpoint,
    telemetry::{Metrics, chain, spans},
};

/// Deliveries in one commit. A notification's place in its block has 10 bits of its id.
const BATCH_MAX: usize = 1_000;
/// Bytes of bodies in one commit.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long one commit may take before its requests get a 503. Two of them fit into the answer's time-out.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of a commit that collides with another one, whose host takes no writes any more, or whose connection is lost.
const TRIES_MAX: usize = 5;
/// After how long without a commit the connection is asked whether it is alive.
const IDLE_MAX: Duration = Duration::from_secs(1);
/// The server gives up before the client does, so that no statement outlives its requests.
const SESSION: Session = Session {
    label: "receiver",
    settings: &[
        ("statement_timeout", "4500"),
        ("lock_timeout", "2000"),
        // One statement for ever, by a primary key alone.
        ("plan_cache_mode", "auto"),
    ],
};

/// The task that commits. It has a connection of its own, so that nothing else can keep it waiting for one, and only
/// ever inserts, so that there is nothing that others could lock.
pub struct Appender {
    connector: Connector,
    stream: Option<Stream>,
    /// When the stream was last used.
    used_at: Instant,
    waiting: mpsc::Receiver<Waiting>,
    stored: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").finish_non_exhaustive()
    }
}

impl Appender {
    /// An appender and the place where requests hand in. `stored` is notified after each commit with new work.
    /// What is left out never reaches it.
    pub fn new(
        connector: Connector,
        exclusions: Arc<Exclusions>,
        stored: Arc<Notify>,
        metrics: Arc<Metrics>,
    ) -> (Acceptor, Self) {
        let (acceptor, waiting) = Acceptor::channel(exclusions);
        (acceptor, Self { connector, stream: None, used_at: Instant::now(), waiting, stored, metrics })
    }

    /// Commits until every [`Acceptor`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.commit(std::mem::take(&mut batch)).await;
            batch.reserve(BATCH_MAX);
        }
        if let Some(stream) = self.stream.take() {
            stream.close().await;
        }
    }

    async fn commit(&mut self, batch: Vec<Waiting>) {
        self.metrics.commit_notifications.observe(batch.len() as f64);
        Failpoint::ReceiveTaken.pass();
        let (deliveries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.delivery, waiting.answer)).unzip();
        let begun_at = Instant::now();
        let result = spans::within(spans::append(deliveries.len()), self.store_in_time(&deliveries)).await;
        self.metrics.commit_duration.observe(begun_at.elapsed().as_secs_f64());
        match result {
            Ok(stored) => {
                Failpoint::ReceiveStored.pass();
                for (answer, accepted) in answers.into_iter().zip(stored) {
                    // A request that is gone was stored all the same.
                    let _ = answer.send(Ok(accepted));
                }
                self.stored.notify_one();
                Failpoint::ReceiveAnswered.pass();
            }
            Err(reason) => {
                // Its state is unknown: the next batch gets a new connection, and with it a new stream.
                self.stream = None;
                for answer in answers {
                    let _ = answer.send(Err(AcceptError::Failed(reason.clone())));
                }
            }
        }
    }

    async fn store_in_time(&mut self, deliveries: &[Delivery]) -> Result<Vec<Accepted>, String> {
        match tokio::time::timeout(COMMIT_TIMEOUT, self.store_all(deliveries)).await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(error)) => Err(chain(&error).to_string()),
            Err(_elapsed) => Err(format!("not done within {COMMIT_TIMEOUT:?}")),
        }
    }

    /// Stores a batch as one block. What is too large, or refused for its data, is halved until the culprit stands
    /// alone, which is set aside with the database's reason.
    async fn store_all(&mut self, deliveries: &[Delivery]) -> Result<Vec<Accepted>, DatabaseError> {
        let mut accepted = Vec::with_capacity(deliveries.len());
        let mut parts = vec![deliveries];
        while let Some(part) = parts.pop() {
            if part.len() > 1 && bytes(part) > BATCH_BYTES_MAX {
                halve(part, &mut parts);
                continue;
            }
            match self.store(part).await {
                Ok(()) => accepted.extend(part.iter().map(accepted_as)),
                Err(DatabaseError::Sql(error)) if is_of_data(&error) && part.len() > 1 => halve(part, &mut parts),
                Err(DatabaseError::Sql(error)) if is_of_data(&error) => {
                    accepted.push(self.set_aside(&part[0], &error).await?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(accepted)
    }

    async fn store(&mut self, deliveries: &[Delivery]) -> Result<(), DatabaseError> {
        let block = Block::of(deliveries.iter().filter_map(as_notification));
        let letters: Vec<_> = deliveries.iter().filter_map(as_letter).collect();
        self.append(&block, &letters).await
    }

    /// Stores a notification among the dead letters, as the database does not take it as what it is.
    async fn set_aside(&mut self, delivery: &Delivery, refusal: &sqlx::Error) -> Result<Accepted, DatabaseError> {
        let Delivery::Notification(notification) = delivery else {
            return Err(sqlx::Error::Protocol(format!("a dead letter was refused: {refusal}")).into());
        };
        let reason = format!("the database cannot store it: {refusal}");
        let letter = Letter {
            delivery_id: notification.delivery_id.as_ref().map(|id| id.as_str()),
            reason: &reason,
            body: &notification.body,
        };
        self.append(&Block::default(), &[letter]).await?;
        Ok(Accepted::Quarantined)
    }

    async fn append(&mut self, block: &Block<'_>, letters: &[Letter<'_>]) -> Result<(), DatabaseError> {
        for _ in 1..TRIES_MAX {
            match self.stream().await?.append(block, letters).await {
                Err(error) if is_collision(&error) => tracing::debug!(%error, "a commit is repeated"),
                // What is stored twice changes nothing: a sender that hears nothing sends it again, too.
                Err(error) if is_read_only(&error) || is_lost(&error) => self.stream = None,
                done => return Ok(done?),
            }
        }
        Ok(self.stream().await?.append(block, letters).await?)
    }

    /// The stream, or a new one where its connection has ended while nothing came, or says nothing.
    async fn stream(&mut self) -> Result<&mut Stream, DatabaseError> {
        let idle = std::mem::replace(&mut self.used_at, Instant::now()).elapsed();
        if let Some(stream) = &mut self.stream
            && idle > IDLE_MAX
            && !stream.may_be_used().await
        {
            self.stream = None;
        }
        Ok(match &mut self.stream {
            Some(stream) => stream,
            empty => empty.insert(Stream::open(self.connector.connect(&SESSION).await?).await?),
        })
    }
}

/// Puts both halves on the stack, the first one on top.
fn halve<'a>(part: &'a [Delivery], parts: &mut Vec<&'a [Delivery]>) {
    let (first, second) = part.split_at(part.len() / 2);
    parts.extend([second, first]);
}

fn bytes(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|delivery| delivery.body().len()).sum()
}

fn accepted_as(delivery: &Delivery) -> Accepted {
    match delivery {
        Delivery::Notification(_) => Accepted::Stored,
        Delivery::Quarantine(_) => Accepted::Quarantined,
    }
}

fn as_notification(delivery: &Delivery) -> Option<&Notification> {
    match delivery {
        Delivery::Notification(notification) => Some(notification),
        Delivery::Quarantine(_) => None,
    }
}

fn as_letter(delivery: &Delivery) -> Option<Letter<'_>> {
    match delivery {
        Delivery::Quarantine(quarantine) => Some(Letter {
            delivery_id: quarantine.delivery_id.as_ref().map(|id| id.as_str()),
            reason: &quarantine.reason,
            body: &quarantine.body,
        }),
        Delivery::Notification(_) => None,
    }
}
