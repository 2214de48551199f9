//! Sessions of the server role: bounded, at most a day old, in memory alone.
//!
//! They outlive power and RESET, not the process. In the image each ticket, made or used, would cost a durable write, or a
//! ticket could be used again after a crash; and what opens the image would open them. A restart costs each
//! peer a full handshake instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::clock::Clock;
use crate::nvm::Nvm;

/// Sessions that a card keeps an identity; the oldest goes first.
pub(super) const IN_CARD: usize = 32;

/// Images of earlier cards have sessions under names that begin with this.
const FORMER: &str = "eap/session/";

/// Seconds that a session may be resumed: what rustls tells in its tickets, under RFC 8446's seven days.
const LIFETIME: u64 = 24 * 60 * 60;

/// Bytes of one session: a certificate chain and secrets.
const MAX_VALUE: usize = 16_384;

/// Sessions of one identity.
#[derive(Debug)]
pub(super) struct Sessions {
    capacity: usize,
    clock: Arc<Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_id: BTreeMap<Vec<u8>, Entry>,
    /// When each began, and its identifier: the oldest first.
    by_age: BTreeSet<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sessions", self.by_id.len())
    }
}

struct Entry {
    created: u64,
    value: Zeroizing<Vec<u8>>,
}

/// Erases what earlier cards have left in the image.
pub(super) fn sweep(nvm: &mut Nvm) {
    for name in nvm.names(FORMER) {
        nvm.delete(name);
    }
}

impl Sessions {
    /// None yet, and so many at most.
    pub(super) fn new(capacity: usize, clock: Arc<Clock>) -> Self {
        Self {
            capacity,
            clock,
            held: Mutex::default(),
        }
    }

    fn remove(&self, id: &[u8]) -> Option<Entry> {
        self.held().remove(id)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The card has no time of its own: without the host's no session is fresh.
    fn is_fresh(&self, entry: &Entry) -> bool {
        let age = self
            .clock
            .now()
            .and_then(|now| now.checked_sub(entry.created));
        age.is_some_and(|age| age < LIFETIME)
    }
}

impl Held {
    fn insert(&mut self, id: Vec<u8>, entry: Entry) {
        self.remove(&id);
        self.by_age.insert((entry.created, id.clone()));
        self.by_id.insert(id, entry);
    }

    fn remove(&mut self, id: &[u8]) -> Option<Entry> {
        let (id, entry) = self.by_id.remove_entry(id)?;
        self.by_age.remove(&(entry.created, id));
        Some(entry)
    }

    /// `false` if there is none.
    fn remove_oldest(&mut self) -> bool {
        let oldest = self.by_age.pop_first();
        oldest.is_some_and(|(_, id)| self.by_id.remove(&id).is_some())
    }
}

/// Sessions as one handshake sees them: those that it met can be forgotten.
#[derive(Debug)]
pub(super) struct Asked {
    sessions: Arc<Sessions>,
    /// The identifiers that it asked for and made: as many as it has tickets.
    met: Mutex<Vec<Vec<u8>>>,
}

impl Asked {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self {
            sessions,
            met: Mutex::default(),
        }
    }

    /// Forgets the session that was asked for and those that were made: the peer is no longer accepted, or a fatal
    /// alert was sent (RFC 8446, 6.2).
    pub(super) fn forget(&self) {
        for id in std::mem::take(&mut *self.met()) {
            self.sessions.remove(&id);
        }
    }

    fn met(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoresServerSessions for Asked {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        self.met().push(id.clone());
        self.sessions.put(id, value)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.met().push(id.to_vec());
        self.sessions.get(id)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.sessions.take(id)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl Sessions {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let value = Zeroizing::new(value);
        let Some(created) = self.clock.now() else {
            return false;
        };
        if value.len() > MAX_VALUE || self.capacity == 0 {
            return false;
        }
        let mut held = self.held();
        while held.by_id.len() >= self.capacity && !held.by_id.contains_key(&id) {
            if !held.remove_oldest() {
                break;
            }
        }
        held.insert(id, Entry { created, value });
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let held = self.held();
        let entry = held.by_id.get(id).filter(|entry| self.is_fresh(entry))?;
        Some(entry.value.to_vec())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let entry = self.remove(id)?;
        self.is_fresh(&entry).then(|| entry.value.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_aged_and_used_once() {
        let clock = Arc::new(Clock::default());
        let sessions = Sessions::new(IN_CARD, clock.clone());
        assert!(!sessions.put(vec![1], vec![1]), "no clock, no session");
        for n in 0..40u8 {
            clock.set(1000 + u32::from(n));
            assert!(sessions.put(vec![n], vec![n]));
        }
        assert_eq!(sessions.held().by_id.len(), IN_CARD);
        assert_eq!(sessions.held().by_age.len(), IN_CARD);
        assert_eq!(sessions.get(&[7]), None);
        assert_eq!(sessions.get(&[8]), Some(vec![8]));
        assert_eq!(sessions.take(&[8]), Some(vec![8]));
        assert_eq!(sessions.take(&[8]), None);
        clock.set(1009 + 24 * 60 * 60);
        assert_eq!(sessions.get(&[9]), None);
        assert_eq!(sessions.get(&[10]), Some(vec![10]));
        assert!(!Sessions::new(0, clock).put(vec![1], vec![1]));
    }

    #[test]
    fn what_earlier_cards_have_left_is_erased() {
        let mut nvm = Nvm::default();
        nvm.put(format!("{FORMER}61/01"), vec![1]);
        nvm.put("eap/other", vec![2]);
        sweep(&mut nvm);
        assert_eq!(nvm.names(""), ["eap/other"]);
    }

    #[test]
    fn one_handshake_forgets_its_own_session_alone() {
        let clock = Arc::new(Clock::default());
        clock.set(1000);
        let sessions = Arc::new(Sessions::new(4, clock));
        let (one, other) = (Asked::new(sessions.clone()), Asked::new(sessions.clone()));
        assert!(sessions.put(vec![0], vec![0]));
        assert!(one.put(vec![1], vec![1]) && other.put(vec![2], vec![2]));
        assert_eq!(one.get(&[0]), Some(vec![0]));
        one.forget();
        assert_eq!((sessions.get(&[0]), sessions.get(&[1])), (None, None));
        assert_eq!(sessions.get(&[2]), Some(vec![2]));
    }
}
