//! The inbound edge: verify, parse, store, answer.
//!
//! Nothing is done with a body before its signature holds, and nothing is answered with 2xx before it is committed.

mod error;
mod payload;
mod receive;
mod signature;

pub use receive::{Receiver, configure};
pub use signature::SigningSecrets;
