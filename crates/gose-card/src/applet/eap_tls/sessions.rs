//! Sessions of the server role: bounded, at most a day old, in the card's image.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_proto::hex;
use rustls::server::StoresServerSessions;
use zeroize::Zeroizing;

use super::clock::Clock;
use crate::nvm::Nvm;

/// Sessions kept an identity; the oldest goes first.
const MAX_SESSIONS: usize = 32;

/// Seconds that a session may be resumed: what rustls tells in its tickets, under RFC 8446's seven days.
const LIFETIME: u64 = 24 * 60 * 60;

/// Bytes of one session: a certificate chain and secrets.
const MAX_VALUE: usize = 16_384;

/// Sessions of one identity. rustls calls in the middle of a handshake, where the image is not at hand:
/// changes are noted and staged after it.
#[derive(Debug)]
pub(super) struct Sessions {
    /// See [`prefix`].
    prefix: String,
    clock: Arc<Clock>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_id: BTreeMap<Vec<u8>, Entry>,
    /// Identifiers whose object in the image is out of date.
    changed: Vec<Vec<u8>>,
    /// The identifier that was asked for last.
    last: Option<Vec<u8>>,
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
                held.by_id.insert(id, entry);
            }
        }
        Self {
            prefix,
            clock,
            held: Mutex::new(held),
        }
    }

    /// Stages what changed since the last call.
    pub(super) fn stage(&self, nvm: &mut Nvm) {
        let mut held = self.held();
        for id in std::mem::take(&mut held.changed) {
            let name = format!("{}{}", self.prefix, hex::encode(&id));
            match held.by_id.get(&id) {
                Some(entry) => nvm.put(name, entry.encode()),
                None if nvm.get(&name).is_some() => nvm.delete(name),
                None => {}
            }
        }
    }

    /// Forgets the session that was asked for last: its peer is no longer accepted.
    pub(super) fn forget_last(&self) {
        let mut held = self.held();
        if let Some(id) = held.last.take() {
            held.remove(&id);
        }
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
    fn remove(&mut self, id: &[u8]) -> Option<Entry> {
        let entry = self.by_id.remove(id)?;
        self.changed.push(id.to_vec());
        Some(entry)
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

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        let value = Zeroizing::new(value);
        let Some(created) = self.clock.now() else {
            return false;
        };
        if value.len() > MAX_VALUE {
            return false;
        }
        let mut held = self.held();
        while held.by_id.len() >= MAX_SESSIONS && !held.by_id.contains_key(&id) {
            let oldest = held
                .by_id
                .iter()
                .min_by_key(|(_, e)| e.created)
                .map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { break };
            held.remove(&oldest);
        }
        held.changed.push(id.clone());
        held.by_id.insert(id, Entry { created, value });
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        let mut held = self.held();
        held.last = Some(id.to_vec());
        let entry = held.by_id.get(id).filter(|entry| self.is_fresh(entry))?;
        Some(entry.value.to_vec())
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        let entry = self.held().remove(id)?;
        self.is_fresh(&entry).then(|| entry.value.to_vec())
    }

    fn can_cache(&self) -> bool {
        true
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
}
