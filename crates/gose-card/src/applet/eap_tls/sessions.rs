//! Sessions of the server role: bounded, at most a day old; a card's are in its image.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_proto::hex;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::clock::Clock;
use crate::nvm::Nvm;

/// Sessions that a card keeps an identity; the oldest goes first.
const MAX_SESSIONS: usize = 32;

/// Seconds that a session may be resumed: what rustls tells in its tickets, under RFC 8446's seven days.
const LIFETIME: u64 = 24 * 60 * 60;

/// Bytes of one session: a certificate chain and secrets.
const MAX_VALUE: usize = 16_384;

/// Sessions of one identity. rustls calls in the middle of a handshake, where the image is not at hand:
/// changes are noted and staged after it.
#[derive(Debug)]
pub(super) struct Sessions {
    /// See [`prefix`]; `None`: they live in memory alone.
    prefix: Option<String>,
    capacity: usize,
    clock: Arc<Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_id: BTreeMap<Vec<u8>, Entry>,
    /// When each began, and its identifier: the oldest first.
    by_age: BTreeSet<(u64, Vec<u8>)>,
    /// Identifiers whose object in the image is out of date.
    changed: Vec<Vec<u8>>,
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

/// Names of an identity's sessions in the image begin with this.
pub(super) fn prefix(label: &[u8]) -> String {
    format!("eap/session/{}/", hex::encode(label))
}

impl Sessions {
    /// The sessions of an identity as the image has them.
    pub(super) fn load(nvm: &Nvm, label: &[u8], clock: Arc<Clock>) -> Self {
        let prefix = prefix(label);
        let mut held = Held::default();
        for name in nvm.names(&prefix) {
            let id = name
                .strip_prefix(&prefix)
                .and_then(|id| hex::decode(id).ok());
            let entry = nvm.get(&name).and_then(Entry::decode);
            if let (Some(id), Some(entry)) = (id, entry) {
                held.insert(id, entry);
            }
        }
        Self {
            prefix: Some(prefix),
            capacity: MAX_SESSIONS,
            clock,
            held: Mutex::new(held),
        }
    }

    /// Sessions that no image keeps.
    pub(super) fn in_memory(capacity: usize, clock: Arc<Clock>) -> Self {
        Self {
            prefix: None,
            capacity,
            clock,
            held: Mutex::default(),
        }
    }

    /// Stages what changed since the last call.
    pub(super) fn stage(&self, nvm: &mut Nvm) {
        let Some(prefix) = &self.prefix else {
            return;
        };
        let mut held = self.held();
        for id in std::mem::take(&mut held.changed) {
            let name = format!("{prefix}{}", hex::encode(&id));
            match held.by_id.get(&id) {
                Some(entry) => nvm.put(name, entry.encode()),
                None if nvm.get(&name).is_some() => nvm.delete(name),
                None => {}
            }
        }
    }

    fn remove(&self, id: &[u8]) -> Option<Entry> {
        let mut held = self.held();
        let entry = held.remove(id)?;
        if self.prefix.is_some() {
            held.changed.push(id.to_vec());
        }
        Some(entry)
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

    fn remove_oldest(&mut self) -> Option<Vec<u8>> {
        let (_, id) = self.by_age.pop_first()?;
        self.by_id.remove(&id);
        Some(id)
    }
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let mut out = self.created.to_be_bytes().to_vec();
        out.extend_from_slice(&self.value);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (created, value) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            created: u64::from_be_bytes(*created),
            value: Zeroizing::new(value.to_vec()),
        })
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
        let mut changed = Vec::new();
        while held.by_id.len() >= self.capacity && !held.by_id.contains_key(&id) {
            let Some(oldest) = held.remove_oldest() else {
                break;
            };
            changed.push(oldest);
        }
        changed.push(id.clone());
        held.insert(id, Entry { created, value });
        if self.prefix.is_some() {
            held.changed.append(&mut changed);
        }
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
    fn bounded_aged_and_persisted() {
        let clock = Arc::new(Clock::default());
        let mut nvm = Nvm::default();
        let sessions = Sessions::load(&nvm, b"a", clock.clone());
        assert!(!sessions.put(vec![1], vec![1]), "no clock, no session");
        for n in 0..40u8 {
            clock.set(1000 + u32::from(n));
            assert!(sessions.put(vec![n], vec![n]));
        }
        assert_eq!(sessions.get(&[7]), None);
        assert_eq!(sessions.get(&[8]), Some(vec![8]));
        sessions.stage(&mut nvm);
        assert_eq!(nvm.names("eap/session/").len(), MAX_SESSIONS);

        let again = Sessions::load(&nvm, b"a", clock.clone());
        assert_eq!(again.take(&[8]), Some(vec![8]));
        assert_eq!(again.take(&[8]), None);
        again.stage(&mut nvm);
        assert_eq!(nvm.names("eap/session/").len(), MAX_SESSIONS - 1);
        assert_eq!(Sessions::load(&nvm, b"b", clock.clone()).get(&[9]), None);

        clock.set(1009 + 24 * 60 * 60);
        assert_eq!(again.get(&[9]), None);
        assert_eq!(again.get(&[10]), Some(vec![10]));
    }

    #[test]
    fn in_memory_bounded_and_nothing_staged() {
        let clock = Arc::new(Clock::default());
        let sessions = Sessions::in_memory(3, clock.clone());
        for n in 0..9u8 {
            clock.set(1000 + u32::from(n % 4));
            assert!(sessions.put(vec![n], vec![n]));
        }
        assert_eq!(sessions.held().by_id.len(), 3);
        assert_eq!(sessions.held().by_age.len(), 3);
        assert!(sessions.held().changed.is_empty());
        let mut nvm = Nvm::default();
        sessions.stage(&mut nvm);
        assert_eq!(nvm.names("").len(), 0);
    }

    #[test]
    fn one_handshake_forgets_its_own_session_alone() {
        let clock = Arc::new(Clock::default());
        clock.set(1000);
        let sessions = Arc::new(Sessions::in_memory(4, clock));
        let (one, other) = (Asked::new(sessions.clone()), Asked::new(sessions.clone()));
        assert!(sessions.put(vec![0], vec![0]));
        assert!(one.put(vec![1], vec![1]) && other.put(vec![2], vec![2]));
        assert_eq!(one.get(&[0]), Some(vec![0]));
        one.forget();
        assert_eq!((sessions.get(&[0]), sessions.get(&[1])), (None, None));
        assert_eq!(sessions.get(&[2]), Some(vec![2]));
    }
}
