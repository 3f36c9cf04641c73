//! Sessions of browsers, and how often a token may be guessed. Both are kept in memory, by this process alone: a session
//! ends with it, and each replica has its own.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a session lasts.
pub(super) const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions at a time. Past it the oldest one ends.
const SESSIONS_MAX: usize = 1_000;
/// Wrong tokens that one address may give within [`WINDOW`].
const TRIES_MAX: u32 = 5;
/// How long a wrong token is remembered.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 10_000;

/// Sessions that last.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Uuid, Instant>>);

impl Sessions {
    /// Begins one. Its id has 122 bits from the system's source of randomness.
    pub(super) fn begin(&self, now: Instant) -> Uuid {
        let mut sessions = self.0.lock();
        sessions.retain(|_, ends_at| *ends_at > now);
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, ends_at)| **ends_at).map(|(id, _)| *id)
        {
            sessions.remove(&oldest);
        }
        let id = Uuid::new_v4();
        sessions.insert(id, now + LIFETIME);
        id
    }

    /// Whether a session lasts.
    pub(super) fn lasts(&self, id: Uuid, now: Instant) -> bool {
        self.0.lock().get(&id).is_some_and(|ends_at| *ends_at > now)
    }

    /// Ends one.
    pub(super) fn end(&self, id: Uuid) {
        self.0.lock().remove(&id);
    }
}

/// Wrong tokens by address.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl Tries {
    /// How long an address has to wait before its next token is looked at, if it has to. While more addresses guess
    /// than can be remembered, all others wait, too.
    pub(super) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let tries = self.0.lock();
        let Some((count, since)) = tries.get(&address) else {
            return (tries.len() >= ADDRESSES_MAX).then_some(WINDOW);
        };
        let left = WINDOW.checked_sub(now - *since).filter(|left| !left.is_zero())?;
        (*count >= TRIES_MAX).then_some(left)
    }

    /// Notes a wrong token.
    pub(super) fn note(&self, address: IpAddr, now: Instant) {
        let mut tries = self.0.lock();
        tries.retain(|_, (_, since)| now - *since < WINDOW);
        if tries.len() < ADDRESSES_MAX || tries.contains_key(&address) {
            tries.entry(address).or_insert((0, now)).0 += 1;
        }
    }

    /// Forgets those of an address: it has given the right one.
    pub(super) fn forget(&self, address: IpAddr) {
        self.0.lock().remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_itself_and_by_logout() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let (one, other) = (sessions.begin(now), sessions.begin(now));
        assert!(sessions.lasts(one, now) && sessions.lasts(other, now) && !sessions.lasts(Uuid::nil(), now));
        sessions.end(one);
        assert!(!sessions.lasts(one, now) && sessions.lasts(other, now));
        assert!(!sessions.lasts(other, now + LIFETIME));
    }

    #[test]
    fn who_guesses_has_to_wait_and_nobody_else() {
        let (tries, now) = (Tries::default(), Instant::now());
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        for _ in 0..TRIES_MAX {
            assert_eq!(tries.wait(one, now), None);
            tries.note(one, now);
        }
        assert_eq!((tries.wait(one, now), tries.wait(other, now)), (Some(WINDOW), None));
        assert_eq!(tries.wait(one, now + WINDOW), None);
        tries.forget(one);
        assert_eq!(tries.wait(one, now), None);
    }
}
