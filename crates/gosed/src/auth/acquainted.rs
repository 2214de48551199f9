//! Which element a peer had last.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use gose_element::Seid;

/// A peer as the pool remembers it: a digest of what is known of it before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Acquaintance(u64);

impl Acquaintance {
    pub(super) fn of(identity: &str, peer: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        (identity, peer).hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Peers and the element that each had last. It is a hint for resumption, so that forgetting costs a full handshake
/// and nothing else: when it is full, the older half of what it knows is gone.
#[derive(Default)]
pub(super) struct Acquainted {
    newer: HashMap<Acquaintance, Seid>,
    older: HashMap<Acquaintance, Seid>,
}

/// Peers in one half of [`Acquainted`].
const ACQUAINTED: usize = 4096;

impl Acquainted {
    pub(super) fn element(&self, peer: Acquaintance) -> Option<Seid> {
        self.newer
            .get(&peer)
            .or_else(|| self.older.get(&peer))
            .copied()
    }

    pub(super) fn met(&mut self, peer: Acquaintance, seid: Seid) {
        if self.newer.len() >= ACQUAINTED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(peer, seid);
    }
}
