//! The mirror's database: connections and migrations.
//!
//! `connector` finds the host that takes writes, by the `route`s that lead there; `session` says what a session is like;
//! `pool` keeps the shared connections there; `pooler` knows what stands between.

mod connector;
pub mod environment;
mod error;
mod migrations;
mod pool;
mod pooler;
mod relay;
mod route;
mod session;

pub use connector::{Connector, State};
pub use error::DatabaseError;
pub use migrations::{is_current, migrate};
pub use pool::{Pools, connect, connect_daemon};
pub use session::{Client, Session, client, may_be_used};
