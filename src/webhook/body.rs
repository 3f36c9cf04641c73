//! Taking bodies in: bounded each, bounded all together, bounded in time.

use std::{sync::Arc, time::Duration};

use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Refusal;

/// How long the whole of a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of bodies that are read or wait for their commit at the same time, so that neither strangers nor a database
/// that is away can fill the memory.
const BYTES_HELD_MAX: usize = 128 * 1024 * 1024;

/// Room for bodies, shared by all requests.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

/// A body that has its room until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl Room {
    /// All of it free.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_HELD_MAX)))
    }

    /// Reads a body of at most `bytes_max`, each part of it only where there is room.
    pub(super) async fn take_in(&self, body: Payload, bytes_max: usize) -> Result<Held, Refusal> {
        match tokio::time::timeout(TIMEOUT, self.read(body, bytes_max)).await {
            Ok(read) => read,
            Err(_elapsed) => Err(Refusal::Slow),
        }
    }

    async fn read(&self, mut body: Payload, bytes_max: usize) -> Result<Held, Refusal> {
        let mut bytes = BytesMut::new();
        let mut room = self.reserve(0)?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|_broken| Refusal::Incomplete)?;
            if bytes.len() + chunk.len() > bytes_max {
                return Err(Refusal::TooLarge(bytes_max));
            }
            room.merge(self.reserve(chunk.len())?);
            bytes.extend_from_slice(&chunk);
        }
        Ok(Held { bytes: bytes.freeze(), _room: room })
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        let bytes = u32::try_from(bytes).map_err(|_too_many| Refusal::Crowded)?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).map_err(|_taken| Refusal::Crowded)
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}
