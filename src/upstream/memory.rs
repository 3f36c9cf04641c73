//! A bound in bytes over all answers that are read at the same time.
//!
//! Each request may hold [`FREE_BYTES`] without asking. More is taken from a shared pool, piece by piece; when that is
//! empty, from a reserve that only one request holds at a time and that fits the largest answer. So whoever holds the
//! reserve comes to its end, and requests that wait for each other cannot stand still.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Bytes of an answer that are read; the size of the reserve, too.
pub(super) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that each request may hold.
const FREE_BYTES: usize = 128 * 1024;
/// Bytes that are taken from the pool at once.
const PIECE_BYTES: usize = 512 * 1024;
/// Pieces in the pool: with the reserve, 96 MiB.
const PIECES: usize = 32 * 1024 * 1024 / PIECE_BYTES;

/// What the answers of one process may take.
#[derive(Debug)]
pub(super) struct AnswerMemory {
    pool: Arc<Semaphore>,
    reserve: Arc<Mutex<()>>,
}

/// What one answer holds, given back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    memory: Arc<AnswerMemory>,
    covered_bytes: usize,
    pieces: Option<OwnedSemaphorePermit>,
    reserve: Option<OwnedMutexGuard<()>>,
}

impl Default for AnswerMemory {
    fn default() -> Self {
        Self { pool: Arc::new(Semaphore::new(PIECES)), reserve: Arc::default() }
    }
}

impl AnswerMemory {
    /// A reservation that covers the free bytes.
    pub(super) fn reserve(self: &Arc<Self>) -> Reservation {
        Reservation { memory: Arc::clone(self), covered_bytes: FREE_BYTES, pieces: None, reserve: None }
    }
}

impl Reservation {
    /// Waits until an answer of this size may be held.
    pub(super) async fn cover(&mut self, bytes: usize) {
        while self.reserve.is_none() && self.covered_bytes < bytes {
            self.take_piece().await;
        }
    }

    async fn take_piece(&mut self) {
        let pool = Arc::clone(&self.memory.pool);
        let reserve = Arc::clone(&self.memory.reserve);
        tokio::select! {
            biased;
            piece = pool.acquire_owned() => {
                let piece = piece.expect("the pool is never closed");
                self.covered_bytes += PIECE_BYTES;
                match &mut self.pieces {
                    Some(pieces) => pieces.merge(piece),
                    None => self.pieces = Some(piece),
                }
            }
            reserve = reserve.lock_owned() => self.reserve = Some(reserve),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn small_answers_never_wait() {
        let memory = Arc::new(AnswerMemory::default());
        let mut large = [memory.reserve(), memory.reserve()];
        large[0].cover(ANSWER_BYTES_MAX).await;
        let mut small = memory.reserve();
        small.cover(FREE_BYTES).now_or_never().expect("no wait");
        assert!(large[1].cover(ANSWER_BYTES_MAX).now_or_never().is_none(), "two large ones at once");
        drop(large);
        assert_eq!(memory.pool.available_permits(), PIECES);
    }

    #[tokio::test]
    async fn many_large_answers_come_to_their_end_one_after_the_other() {
        let memory = Arc::new(AnswerMemory::default());
        let answers = (0..20).map(|_| async {
            let mut answer = memory.reserve();
            for megabytes in 0..=64 {
                answer.cover(megabytes << 20).await;
                tokio::task::yield_now().await;
            }
        });
        tokio::time::timeout(Duration::from_secs(10), join_all(answers)).await.expect("nobody stands still");
    }
}
