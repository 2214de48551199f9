//! The sessions that are open, so that a revocation list or a new policy reaches them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::pki_types::CertificateDer;

use super::admission::Admission;
use crate::grid::{Peer, Sid};

/// Every open session of a node.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<Sid, Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    peer: Peer,
    /// What the peer showed; empty on the admin socket.
    chain: Arc<[CertificateDer<'static>]>,
}

/// A session's place in the register; dropped with the session.
#[derive(Debug)]
pub struct Registered {
    sessions: Arc<Sessions>,
    sid: Sid,
}

impl Sessions {
    /// Registers a session until the value is dropped.
    #[must_use]
    pub fn register(self: &Arc<Self>, peer: &Peer, chain: &[CertificateDer<'_>]) -> Registered {
        let chain = chain
            .iter()
            .cloned()
            .map(CertificateDer::into_owned)
            .collect();
        let entry = Entry {
            peer: peer.clone(),
            chain,
        };
        self.lock().insert(peer.sid, entry);
        Registered {
            sessions: self.clone(),
            sid: peer.sid,
        }
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Every session gives up what the policy of now does not allow.
    pub fn review(&self) {
        self.lock()
            .values()
            .for_each(|entry| entry.peer.evictions.review());
    }

    /// Ends the sessions whose certificates would not be let in now: expired, revoked, another anchor.
    /// Takes some hundred microseconds a session.
    pub fn verify_again(&self, admission: &Admission) {
        let entries = self.lock().values().cloned().collect();
        Self::end_refused(entries, admission);
    }

    /// As [`Sessions::verify_again`], of virtual machines alone: for when a generation was told.
    pub fn verify_machines_again(&self, admission: &Admission) {
        let sessions = self.lock();
        let machines = sessions
            .values()
            .filter(|entry| entry.peer.names.is_machine())
            .cloned();
        let machines = machines.collect();
        drop(sessions);
        Self::end_refused(machines, admission);
    }

    fn end_refused(entries: Vec<Entry>, admission: &Admission) {
        for Entry { peer, chain } in entries {
            if chain.is_empty() {
                continue;
            }
            if let Err(error) = admission.verify(&chain) {
                tracing::warn!(peer = %peer, %error, "the session ends: its certificate is no longer good");
                peer.evictions.end();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.sid);
    }
}
