//! The inbound edge: verify, parse, store, answer.
//!
//! Nothing is done with a body before its signature holds, and nothing is answered with 2xx before it is committed.

mod again;
mod body;
mod error;
mod payload;
mod receive;
mod signature;

pub use again::{Retried, RetryError, retry};
pub use body::Room;
pub use payload::Payload;
pub use receive::{Receiver, configure};
pub use signature::{HEADER as SIGNATURE_HEADER, SigningSecrets, sign};

/// Reads a body whose signature was verified when it came, or says why it is not understood.
pub fn understand(body: &[u8]) -> Result<Payload, String> {
    payload::parse(body).map_err(|error| error.to_string())
}
