//! Connections to the one host that takes writes, among those of `DATABASE_URL`.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use secrecy::SecretString;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::sync::watch;

use super::{
    DatabaseError,
    relay::Relay,
    route::{self, Route},
    session::{self, Session},
};
use crate::config::{DatabaseAddress, DatabaseHost};

/// What is known of the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// One takes writes, or none has been looked for yet.
    Writable,
    /// None does, and why. The line is fit for operators, not for strangers.
    Nowhere(String),
}

/// How to reach the database. Cheap to clone; clones share what they know of the hosts.
#[derive(Debug, Clone)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: DatabaseAddress,
    /// The host that was the right one last, by its place in the address.
    last: watch::Sender<usize>,
    state: watch::Sender<State>,
    /// By name and port of their hosts.
    relays: Mutex<HashMap<(String, u16), Relay>>,
}

/// A session that takes writes, and how its host was reached.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: PgConnection,
    pub(super) options: PgConnectOptions,
    pub(super) host: DatabaseHost,
}

impl Connector {
    /// Connections by this address.
    pub fn new(address: DatabaseAddress) -> Self {
        let (last, state) = (watch::Sender::new(0), watch::Sender::new(State::Writable));
        Self(Arc::new(Inner { address, last, state, relays: Mutex::default() }))
    }

    /// Connections by the address in this text.
    pub fn to(url: &SecretString) -> Result<Self, DatabaseError> {
        Ok(Self::new(DatabaseAddress::parse(url)?))
    }

    /// A connection of one's own, to a host that takes writes, with these settings beside those of every session.
    pub async fn connect(&self, session: &Session) -> Result<PgConnection, DatabaseError> {
        Ok(self.open(session).await?.connection)
    }

    /// What is known of the hosts now.
    pub fn state(&self) -> State {
        self.0.state.borrow().clone()
    }

    pub(super) fn address(&self) -> &DatabaseAddress {
        &self.0.address
    }

    /// Notes what is known of the hosts, and returns whether that is new.
    pub(super) fn note(&self, state: State) -> bool {
        self.0.state.send_if_modified(|known| {
            let is_new = *known != state;
            *known = state;
            is_new
        })
    }

    /// Tries the hosts in turn, beginning with the one that was right last.
    pub(super) async fn open(&self, session: &Session) -> Result<Opened, DatabaseError> {
        let hosts = &self.0.address.hosts;
        let last = *self.0.last.borrow();
        let mut refusals = Vec::new();
        for index in (0..hosts.len()).map(|step| (last + step) % hosts.len()) {
            match self.open_host(&hosts[index], session).await {
                Ok(opened) => {
                    self.0.last.send_replace(index);
                    return Ok(opened);
                }
                Err(error) => refusals.push((&hosts[index], error)),
            }
        }
        Err(DatabaseError::of_hosts(refusals))
    }

    async fn open_host(&self, host: &DatabaseHost, session: &Session) -> Result<Opened, DatabaseError> {
        let address = &self.0.address;
        let mut failed = None;
        for route in route::routes(address, host, session)? {
            if failed.as_ref().is_some_and(|error| !route.is_worth_a_try_after(error)) {
                continue;
            }
            let route = match route.is_relayed() {
                true => {
                    let port = self.relay(route.options()).await?;
                    route.through(port)
                }
                false => route,
            };
            match tokio::time::timeout(address.connect_timeout, begin(&route, session)).await {
                Ok(Ok(connection)) => {
                    return Ok(Opened { connection, options: route.into_options(), host: host.clone() });
                }
                Ok(Err(error)) => failed = Some(error),
                Err(_elapsed) => {
                    return Err(DatabaseError::Slow {
                        host: host.to_string(),
                        seconds: address.connect_timeout.as_secs(),
                    });
                }
            }
        }
        Err(failed.expect("a host has a route"))
    }

    /// The port of the relay to the server that these options name.
    async fn relay(&self, options: &PgConnectOptions) -> Result<u16, DatabaseError> {
        let server = (options.get_host().to_owned(), options.get_port());
        if let Some(relay) = self.0.relays.lock().get(&server) {
            return Ok(relay.port());
        }
        let relay = Relay::start(server.0.clone(), server.1, self.0.address.connect_timeout);
        let relay = relay.await.map_err(sqlx::Error::Io)?;
        tracing::info!(
            host = server.0,
            "the database's certificate is of X.509 version 1; sslmode does not ask for it to be verified, and connections \
             are encrypted"
        );
        Ok(self.0.relays.lock().entry(server).or_insert(relay).port())
    }
}

async fn begin(route: &Route, session: &Session) -> Result<PgConnection, DatabaseError> {
    let mut connection = PgConnection::connect_with(route.options()).await.map_err(DatabaseError::of_connecting)?;
    match session::begin(&mut connection, session).await? {
        true => Ok(connection),
        false => Err(DatabaseError::ReadOnly),
    }
}
