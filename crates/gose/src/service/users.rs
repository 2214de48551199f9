//! Who may connect: the kernel tells whose program is at the other end (SO_PEERCRED).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Service, config::Allowed};
use crate::{output::log, socket::Peer};

/// Users, and how many clients each has.
pub(super) struct Users {
    allowed: BTreeMap<u32, Allowed>,
    most: usize,
    connected: Mutex<HashMap<u32, usize>>,
}

/// A client's place among those that are served.
pub(super) struct Admitted {
    service: Arc<Service>,
    uid: u32,
}

impl Users {
    pub(super) fn new(allowed: BTreeMap<u32, Allowed>, most: usize) -> Self {
        Self {
            allowed,
            most,
            connected: Mutex::default(),
        }
    }

    /// What a user may use.
    pub(super) fn allowed(&self, uid: u32) -> Option<&Allowed> {
        self.allowed.get(&uid)
    }

    /// Takes a client, unless its user may use nothing or there are too many. Where there are several users,
    /// one of them has at most half of the places.
    pub(super) fn admit(service: &Arc<Service>, peer: &Peer) -> Option<Admitted> {
        let users = &service.users;
        if users.allowed(peer.uid).is_none() {
            log(&format!(
                "user {} (process {}) is turned away: the configuration has no [[user]] for it",
                peer.uid, peer.pid
            ));
            return None;
        }
        let mut connected = users.lock();
        let own = connected.get(&peer.uid).copied().unwrap_or_default();
        let all: usize = connected.values().sum();
        let share = match users.allowed.len() {
            1 => users.most,
            _ => users.most.div_ceil(2),
        };
        if all >= users.most || own >= share {
            log(&format!(
                "user {} (process {}) is turned away: {own} of its programs and {all} in all are connected; \
                 raise `clients`",
                peer.uid, peer.pid
            ));
            return None;
        }
        connected.insert(peer.uid, own + 1);
        Some(Admitted {
            service: service.clone(),
            uid: peer.uid,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(count) = self.service.users.lock().get_mut(&self.uid) {
            *count = count.saturating_sub(1);
        }
    }
}
