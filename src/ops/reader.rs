//! Readers of streams, and ending the connections of those that stop reading.
//!
//! A server asks for the next part of an answer when the client has taken most of the last one. A client that stops
//! reading is never asked for again: nothing in its stream can notice, so somebody else has to look.

use std::{
    any::Any,
    net::Shutdown,
    os::fd::AsFd,
    sync::{Arc, Weak},
    time::Duration,
};

use actix_web::{dev::Extensions, rt::net::TcpStream};
use parking_lot::Mutex;
use socket2::Socket;
use tokio::time::Instant;

/// A connection's socket once more, by which it can be ended while the server waits for the client.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Socket>);

impl Connection {
    /// Keeps the socket of a connection that is being made, where its requests find it.
    pub fn keep(connection: &dyn Any, data: &mut Extensions) {
        let stream = connection.downcast_ref::<TcpStream>();
        if let Some(Ok(socket)) = stream.map(|stream| stream.as_fd().try_clone_to_owned()) {
            data.insert(Self(Arc::new(Socket::from(socket))));
        }
    }

    /// What the client has not read yet is thrown away, also by the kernel.
    fn hang_up(&self) {
        let ended = self.0.set_linger(Some(Duration::ZERO)).and_then(|()| self.0.shutdown(Shutdown::Both));
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection had ended already");
        }
    }
}

/// What a client was given last, until it asks for more.
#[derive(Debug, Clone, Copy)]
struct Given {
    at: Instant,
    /// Entries that had been handed round by then. `None` for what was read from the database.
    handed_round: Option<u64>,
}

/// Who reads a stream.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Option<Connection>,
    given: Mutex<Option<Given>>,
}

impl Reader {
    /// It was given a part of the stream; `handed_round` is `None` for what was read from the database.
    pub(super) fn give(&self, handed_round: Option<u64>) {
        self.set(Some(Given { at: Instant::now(), handed_round }));
    }

    /// It has taken what it was given.
    pub(super) fn ask(&self) {
        self.set(None);
    }

    fn set(&self, given: Option<Given>) {
        *self.given.lock() = given;
    }

    fn is_stalled(&self, taking_max: Duration, handed_round: u64, behind_max: u64) -> bool {
        let given = *self.given.lock();
        given.is_some_and(|given| {
            let is_behind = given.handed_round.is_some_and(|then| handed_round - then > behind_max);
            is_behind || given.at.elapsed() > taking_max
        })
    }
}

/// All that read now.
#[derive(Debug)]
pub(super) struct Readers {
    /// How long a client may take for one part of a stream.
    taking_max: Duration,
    all: Mutex<Vec<Weak<Reader>>>,
}

impl Readers {
    /// Nobody reads yet.
    pub(super) fn new(taking_max: Duration) -> Self {
        Self { taking_max, all: Mutex::default() }
    }

    /// A new one.
    pub(super) fn add(&self, connection: Option<Connection>) -> Arc<Reader> {
        let reader = Arc::new(Reader { connection, given: Mutex::default() });
        self.all.lock().push(Arc::downgrade(&reader));
        reader
    }

    /// Ends the connections of those that have stopped reading: they took a part of the stream for too long, or have
    /// not taken it while more than `behind_max` entries were handed round.
    pub(super) fn hang_up_on_stalled(&self, handed_round: u64, behind_max: u64) {
        self.all.lock().retain(|reader| {
            let Some(reader) = reader.upgrade() else { return false };
            let is_stalled = reader.is_stalled(self.taking_max, handed_round, behind_max);
            if let Some(connection) = reader.connection.as_ref().filter(|_| is_stalled) {
                tracing::debug!("a reader has stopped reading; its connection ends");
                connection.hang_up();
            }
            true
        });
    }
}
