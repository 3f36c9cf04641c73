//! The budget of a process that has no database yet: the same slots, known to it alone.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::budget::HOLD;

/// A slot is free this long after the end of its request.
const WINDOW: Duration = Duration::from_secs(60);

/// Which slots are held.
#[derive(Debug)]
pub(super) struct Alone {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When each slot is free; `None` while it never was held.
    free_at: Vec<Option<Instant>>,
    /// Nothing is sent before.
    paused_until: Option<Instant>,
}

impl Alone {
    pub(super) fn new(requests_per_minute: u32) -> Self {
        let slots = usize::try_from(requests_per_minute).unwrap_or(usize::MAX);
        Self { state: Mutex::new(State { free_at: vec![None; slots], paused_until: None }) }
    }

    /// A slot, or how long there may be none.
    pub(super) fn take(&self, now: Instant) -> Result<usize, Duration> {
        let mut state = self.state.lock();
        if let Some(until) = state.paused_until.filter(|until| *until > now) {
            return Err(until - now);
        }
        let soonest = (0..state.free_at.len()).min_by_key(|slot| state.free_at[*slot]).ok_or(WINDOW)?;
        match state.free_at[soonest] {
            Some(free_at) if free_at > now => Err(free_at - now),
            _ => {
                state.free_at[soonest] = Some(now + HOLD + WINDOW);
                Ok(soonest)
            }
        }
    }

    /// The request has ended.
    pub(super) fn give_back(&self, slot: usize, now: Instant) {
        self.state.lock().free_at[slot] = Some(now + WINDOW);
    }

    /// Nothing is sent before.
    pub(super) fn pause(&self, until: Instant) {
        let mut state = self.state.lock();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Slots that are held.
    pub(super) fn used(&self, now: Instant) -> u32 {
        let held = self.state.lock().free_at.iter().flatten().filter(|free_at| **free_at > now).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_requests_begin_in_a_minute_than_there_are_slots() {
        let (alone, start) = (Alone::new(2), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = alone.take(start).unwrap();
        assert_ne!(alone.take(start).unwrap(), first);
        alone.give_back(first, after(1));
        assert_eq!((alone.take(after(2)), alone.used(after(2))), (Err(Duration::from_secs(59)), 2));
        assert_eq!(alone.take(after(61)), Ok(first));
        // Whoever never says that a request has ended keeps its slot for the longest time.
        assert_eq!(alone.take(after(62)), Err(after(135) - after(62)));
    }

    #[test]
    fn a_pause_is_for_every_slot() {
        let (alone, start) = (Alone::new(2), Instant::now());
        alone.pause(start + Duration::from_secs(7));
        alone.pause(start + Duration::from_secs(3));
        assert_eq!(alone.take(start), Err(Duration::from_secs(7)));
        assert!(alone.take(start + Duration::from_secs(7)).is_ok());
    }
}
