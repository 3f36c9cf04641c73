//! Following a sequence live: one reader of the database for all that follow it.
//!
//! A follower first reads from the database what it has missed, then goes on with what the one poller hands round. Both
//! are in the order of positions, so a follower knows by the last one that it has sent what comes twice. What is handed
//! round is held in a bounded buffer: a follower that falls behind it is dropped, and resumes where it was. So is one
//! whose client has stopped reading, which is what the poller looks for.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use actix_web::web::Bytes;
use futures_util::{Stream, stream};
use sqlx::PgPool;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, broadcast::error::RecvError, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    reader::{Connection, Reader, Readers},
    refusal::Refusal,
    sequence::{Line, Sequence},
};
use crate::{
    queue::{QueueError, activity::EntryFilter},
    telemetry::chain,
};

/// Entries that a follower may be behind.
const BUFFER: usize = 4_096;
/// Entries that one statement reads.
const PAGE: i64 = 500;
/// Followers of all sequences of a process.
const FOLLOWERS_MAX: usize = 256;
/// How often the sequence is looked at while it is followed.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How often its end is looked up while nobody follows.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);
/// How often a follower to which there is nothing to say is told that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a follower waits for the poller's first look.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How a stream begins: a client whose connection breaks comes back after a second.
const GREETING: &str = "retry: 1000\n\n";

/// A sequence that can be followed.
#[derive(Debug)]
pub(super) struct Tail {
    sequence: Sequence,
    sender: broadcast::Sender<Arc<Line>>,
    /// All up to there was handed round, or came when nobody followed. `None` before the first look.
    position: watch::Sender<Option<i64>>,
    followed: Notify,
    places: Arc<Semaphore>,
    /// How many entries were handed round.
    handed_round: Arc<AtomicU64>,
    readers: Readers,
}

impl Tail {
    /// Nothing is handed round before [`Tail::run`]. A follower may take that long for one part of its stream.
    pub(super) fn new(sequence: Sequence, taking_max: Duration) -> Self {
        Self {
            sequence,
            sender: broadcast::Sender::new(BUFFER),
            position: watch::Sender::new(None),
            followed: Notify::new(),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            handed_round: Arc::default(),
            readers: Readers::new(taking_max),
        }
    }

    /// Hands new entries round until stopped.
    pub(super) async fn run(&self, pool: &PgPool, stop: &CancellationToken) {
        let poll = async {
            loop {
                if let Err(error) = self.poll(pool).await {
                    tracing::debug!(error = %chain(&error), "the sequence could not be read");
                }
                self.readers.hang_up_on_stalled(self.handed_round.load(Ordering::Relaxed), BUFFER as u64);
                let pause = if self.is_followed() { POLL_INTERVAL } else { IDLE_INTERVAL };
                tokio::select! {
                    () = sleep(pause) => {}
                    // Who follows anew is not kept waiting by the long pause.
                    () = self.followed.notified() => {}
                }
            }
        };
        stop.run_until_cancelled(poll).await;
    }

    /// What it follows.
    pub(super) fn sequence(&self) -> Sequence {
        self.sequence
    }

    fn is_followed(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Hands round what is new or, while nobody follows, only looks where the sequence ends.
    async fn poll(&self, pool: &PgPool) -> Result<(), QueueError> {
        let position = *self.position.borrow();
        match position.filter(|_| self.is_followed()) {
            Some(position) => self.hand_round(pool, position).await,
            None => {
                let newest = self.sequence.newest(pool).await?;
                // Who has come meanwhile may have read the sequence before this look at it.
                if position.is_none() || !self.is_followed() {
                    self.position.send_replace(Some(newest));
                }
                Ok(())
            }
        }
    }

    async fn hand_round(&self, pool: &PgPool, mut position: i64) -> Result<(), QueueError> {
        loop {
            let lines = self.sequence.after(pool, &EntryFilter::default(), position, PAGE).await?;
            let is_last = is_last_page(&lines);
            for line in lines {
                position = line.position;
                // Fails when the last follower has just gone, which does no harm.
                let _ = self.sender.send(Arc::new(line));
                self.handed_round.fetch_add(1, Ordering::Relaxed);
            }
            self.position.send_replace(Some(position));
            if is_last {
                return Ok(());
            }
        }
    }

    /// What is wanted after a position, as server-sent events; without one, what comes next.
    pub(super) async fn follow(
        &self,
        pool: PgPool,
        filter: EntryFilter,
        after: Option<i64>,
        connection: Option<Connection>,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::Crowded)?;
        // In this order, so that nothing falls between what is handed round and what is read.
        let receiver = self.sender.subscribe();
        self.followed.notify_one();
        let mut position = self.position.subscribe();
        let looked = timeout(FIRST_LOOK, position.wait_for(Option::is_some)).await;
        looked.map_err(|_| Refusal::Away)?.map_err(|_| Refusal::Away)?;
        let position = match after {
            Some(position) => position,
            None => self.sequence.newest(&pool).await?,
        };
        let follower = Follower {
            sequence: self.sequence,
            pool,
            filter,
            position,
            receiver,
            phase: Phase::Greeting,
            reader: self.readers.add(connection),
            handed_round: Arc::clone(&self.handed_round),
            stop,
            _place: place,
        };
        Ok(stream::unfold(follower, |mut follower| async move {
            let text = follower.next().await?;
            Some((Ok(Bytes::from(text)), follower))
        }))
    }
}

fn is_last_page(lines: &[Line]) -> bool {
    i64::try_from(lines.len()).is_ok_and(|count| count < PAGE)
}

/// How far a follower has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    /// It reads from the database.
    CatchingUp,
    /// It has read all, and has met nothing live yet.
    CaughtUp,
    Live,
}

/// One connection.
struct Follower {
    sequence: Sequence,
    pool: PgPool,
    filter: EntryFilter,
    /// Of the last entry that was looked at.
    position: i64,
    receiver: broadcast::Receiver<Arc<Line>>,
    phase: Phase,
    reader: Arc<Reader>,
    handed_round: Arc<AtomicU64>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next part of the stream; `None` ends it, and the client resumes.
    async fn next(&mut self) -> Option<String> {
        self.reader.ask();
        let stop = self.stop.clone();
        let text = stop.run_until_cancelled(self.advance()).await.flatten();
        let is_live = self.phase == Phase::Live;
        self.reader.give(is_live.then(|| self.handed_round.load(Ordering::Relaxed)));
        text
    }

    async fn advance(&mut self) -> Option<String> {
        loop {
            match self.phase {
                Phase::Greeting => {
                    self.phase = Phase::CatchingUp;
                    return Some(GREETING.to_owned());
                }
                Phase::CatchingUp => {
                    let text = self.catch_up().await?;
                    if !text.is_empty() {
                        return Some(text);
                    }
                }
                Phase::CaughtUp | Phase::Live => match timeout(HEARTBEAT, self.receive()).await {
                    Ok(Received::Event(text)) => return Some(text),
                    Ok(Received::TooLate) if self.phase == Phase::CaughtUp => self.phase = Phase::CatchingUp,
                    Ok(Received::TooLate) => return None,
                    Err(_) => return Some(": still here\n\n".to_owned()),
                },
            }
        }
    }

    /// A page of what it has missed; `None` when that cannot be read.
    async fn catch_up(&mut self) -> Option<String> {
        let read = self.sequence.after(&self.pool, &self.filter, self.position, PAGE).await;
        let lines = read.inspect_err(|error| tracing::warn!(error = %chain(error), "a stream ends")).ok()?;
        if is_last_page(&lines) {
            self.phase = Phase::CaughtUp;
        }
        self.position = lines.last().map_or(self.position, |line| line.position);
        Some(lines.iter().map(event).collect())
    }

    /// What is handed round, but for what was read already.
    async fn receive(&mut self) -> Received {
        loop {
            match self.receiver.recv().await {
                Ok(line) if line.position > self.position => {
                    self.phase = Phase::Live;
                    self.position = line.position;
                    if line.is_wanted(&self.filter) {
                        return Received::Event(event(&line));
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Received::TooLate,
            }
        }
    }
}

enum Received {
    Event(String),
    /// It has fallen behind the buffer.
    TooLate,
}

fn event(line: &Line) -> String {
    format!("id: {}\ndata: {}\n\n", line.position, line.json())
}
