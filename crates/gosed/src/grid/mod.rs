//! The grid engine: slots, and who uses them.
//!
//! No APDU reaches an element without a [`Lease`], and only [`Grid::open`] makes one, after policy.

mod firewall;
mod lease;
mod meter;
mod peer;
mod policy;
mod slot;
mod used;
mod worker;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gose_element::{ElementError, Seid, SlotId};
use gose_proto::racs::Failure;
use tokio::time::Instant;

pub use lease::{Lease, PoweredOn, Ran};
pub use meter::{CLASSES, Measured};
pub use peer::{Bound, Eviction, Evictions, Names, Peer, RequestName, Sid};
pub use policy::{Plane, Policy};
pub use slot::{Opener, Runs, Spec};
pub use used::{Counted, Memory, Settings, Used};

use crate::metrics::Metrics;
use slot::Slot;

/// How long an element that is being powered down after its holder's end is waited for.
pub const RELEASE: Duration = Duration::from_secs(2);

/// The slots of a node and the policy over them.
pub struct Grid {
    table: ArcSwap<Table>,
    policy: ArcSwap<Policy>,
    next_sid: AtomicU64,
    /// Milliseconds.
    apdu_timeout: AtomicU64,
    metrics: Arc<Metrics>,
}

/// The SlotID/SEID table.
#[derive(Default)]
struct Table {
    /// In the order of the slots.
    slots: Vec<Arc<Slot>>,
    by_seid: HashMap<Seid, Arc<Slot>>,
}

/// Why a peer does not get what it asks for, by blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The element is unknown, or this peer may not use it: told apart in the log only.
    #[error("unknown or unauthorised SEID")]
    Unauthorised,
    /// The firewall refuses the APDU.
    #[error("the firewall refuses the APDU: {0}")]
    Forbidden(&'static str),
    /// Another session holds the element.
    #[error("the element is in use by another session")]
    InUse,
    /// The element gave no answer.
    #[error(transparent)]
    Element(#[from] ElementError),
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Unauthorised => Self::Unauthorised,
            Refusal::Forbidden(_) => Self::Forbidden,
            Refusal::InUse => Self::InUse,
            Refusal::Element(error) => failure(error),
        }
    }
}

/// What a RACS peer is told of an element that gave no answer.
#[must_use]
pub fn failure(error: &ElementError) -> Failure {
    match error {
        ElementError::Absent => Failure::Absent,
        ElementError::Mute => Failure::Mute,
        ElementError::Timeout(_) => Failure::Timeout,
        ElementError::Transport(_) => Failure::Transport,
        ElementError::OutcomeUnknown => Failure::OutcomeUnknown,
        ElementError::AnswerTooLong => Failure::AnswerTooLong,
        ElementError::Malformed(_) => Failure::Unsupported,
        ElementError::Refused => Failure::Unauthorised,
        ElementError::InUse => Failure::InUse,
        ElementError::Storage(_) => Failure::Internal,
    }
}

impl Grid {
    /// A grid of these slots. An element that does not answer an APDU within `apdu_timeout` counts as
    /// mute, where it runs on a thread of its own.
    #[must_use]
    pub fn new(specs: Vec<Spec>, policy: Policy, apdu_timeout: Duration) -> Arc<Self> {
        let grid = Self {
            table: ArcSwap::default(),
            policy: ArcSwap::from_pointee(policy),
            next_sid: AtomicU64::new(1),
            apdu_timeout: AtomicU64::default(),
            metrics: Arc::default(),
        };
        grid.set_apdu_timeout(apdu_timeout);
        grid.replace_slots(specs);
        Arc::new(grid)
    }

    /// Changes the slots: one whose SEID and place stay the same keeps its element and its lock; one
    /// that goes can be used by its holder until the session ends.
    pub fn replace_slots(&self, specs: Vec<Spec>) {
        let old = self.table.load();
        let mut table = Table::default();
        for (id, spec) in (0..).map(SlotId).zip(specs) {
            let slot = match old.by_seid.get(&spec.seid) {
                Some(slot) if slot.is_same_place(&spec) => slot.clone(),
                _ => Slot::new(id, spec),
            };
            table.by_seid.insert(slot.seid(), slot.clone());
            table.slots.push(slot);
        }
        self.table.store(Arc::new(table));
    }

    /// Changes the policy. Leases that it no longer allows refuse every further APDU; their sessions
    /// give them up at [`Lease::is_permitted`].
    pub fn replace_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Leases that are given from now on have this time limit.
    pub fn set_apdu_timeout(&self, timeout: Duration) {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.apdu_timeout.store(millis, Ordering::Relaxed);
    }

    fn apdu_timeout(&self) -> Duration {
        Duration::from_millis(self.apdu_timeout.load(Ordering::Relaxed))
    }

    /// What the node counts.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A session identifier that was never used in this process.
    pub fn new_sid(&self) -> Sid {
        Sid(self.next_sid.fetch_add(1, Ordering::Relaxed))
    }

    /// What an element was used for and how it stands, for whoever administers it.
    ///
    /// # Errors
    /// [`Refusal::Unauthorised`], also where there is no such element.
    pub fn used(&self, peer: &Peer, seid: Seid) -> Result<Arc<Used>, Refusal> {
        match self.table.load().by_seid.get(&seid) {
            Some(slot) if self.plane(peer, seid) == Some(Plane::Management) => {
                Ok(slot.used().clone())
            }
            _ => Err(Refusal::Unauthorised),
        }
    }

    /// What every element was asked, in the order of the slots.
    #[must_use]
    pub fn measured(&self) -> Vec<Measured> {
        let table = self.table.load();
        table.slots.iter().map(|slot| slot.measured()).collect()
    }

    /// The elements that a peer may use, in the order of the slots.
    #[must_use]
    pub fn list(&self, peer: &Peer) -> Vec<Seid> {
        let policy = self.policy.load();
        let table = self.table.load();
        table
            .slots
            .iter()
            .filter(|slot| policy.plane(&peer.names, slot.seid()).is_some())
            .map(|slot| slot.seid())
            .collect()
    }

    /// The greatest plane that a peer may open on an element; `None` if none, or if there is no such
    /// element.
    #[must_use]
    pub fn plane(&self, peer: &Peer, seid: Seid) -> Option<Plane> {
        let table = self.table.load();
        let slot = table.by_seid.get(&seid)?;
        self.policy.load().plane(&peer.names, slot.seid())
    }

    /// Locks an element for the peer's session, if policy allows it and no other session holds it.
    ///
    /// # Errors
    /// [`Refusal`]; an unknown element and a forbidden one give the same.
    pub fn open(self: &Arc<Self>, peer: &Peer, seid: Seid, plane: Plane) -> Result<Lease, Refusal> {
        let (slot, policy) = self.authorise(peer, seid, plane)?;
        let running = slot
            .lock(peer, self.apdu_timeout())
            .inspect_err(|refusal| {
                if *refusal == Refusal::InUse {
                    Metrics::add(&self.metrics.in_use);
                }
            })?;
        Ok(Lease::new(
            self.clone(),
            peer.clone(),
            plane,
            slot,
            running,
            policy,
        ))
    }

    /// As [`Grid::open`]; an element that is still being powered down after its holder gave it up or ended is waited
    /// for, at most [`RELEASE`]. One that another session holds is not: then the answer comes at once.
    ///
    /// # Errors
    /// [`Refusal`]; an unknown element and a forbidden one give the same.
    pub async fn open_when_released(
        self: &Arc<Self>,
        peer: &Peer,
        seid: Seid,
        plane: Plane,
    ) -> Result<Lease, Refusal> {
        let (slot, _) = self.authorise(peer, seid, plane)?;
        let _ = tokio::time::timeout(RELEASE, slot.settled()).await;
        self.open(peer, seid, plane)
    }

    /// As [`Grid::open`], waiting at most `patience` while another session holds the element.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::InUse`] after `patience`.
    pub async fn open_within(
        self: &Arc<Self>,
        peer: &Peer,
        seid: Seid,
        plane: Plane,
        patience: Duration,
    ) -> Result<Lease, Refusal> {
        let (slot, _) = self.authorise(peer, seid, plane)?;
        let deadline = Instant::now() + patience;
        loop {
            let freed = tokio::time::timeout_at(deadline, slot.freed()).await;
            match self.open(peer, seid, plane) {
                // Another one was faster.
                Err(Refusal::InUse) if freed.is_ok() => {}
                opened => return opened,
            }
        }
    }

    /// Takes an element away from whoever holds it, waiting at most `patience` until its session gave
    /// it up. Administrators may (protocol: SHUTDOWN of a foreign lock).
    ///
    /// # Errors
    /// [`Refusal::InUse`] if the peer is not an administrator of the element or the holder does not
    /// give it up in time; [`Refusal::Unauthorised`].
    pub async fn evict(&self, peer: &Peer, seid: Seid, patience: Duration) -> Result<(), Refusal> {
        let (slot, _) = self.authorise(peer, seid, Plane::User)?;
        if slot.holder().is_some_and(|holder| holder != peer.sid) {
            let _ = tokio::time::timeout(RELEASE, slot.settled()).await;
        }
        let Some(holder) = slot.holder().filter(|holder| *holder != peer.sid) else {
            return Ok(());
        };
        if self.plane(peer, seid) != Some(Plane::Management) {
            return Err(Refusal::InUse);
        }
        tracing::warn!(peer = %peer, %seid, %holder, "an administrator takes the element from its holder");
        slot.evict();
        tokio::time::timeout(patience, slot.freed_by(holder))
            .await
            .map_err(|_| Refusal::InUse)
    }

    fn authorise(
        &self,
        peer: &Peer,
        seid: Seid,
        plane: Plane,
    ) -> Result<(Arc<Slot>, Arc<Policy>), Refusal> {
        let policy = self.policy.load_full();
        let refuse = |reason: &str| {
            Metrics::add(&self.metrics.policy_denied);
            tracing::info!(peer = %peer, %seid, ?plane, reason, "refused");
            Err(Refusal::Unauthorised)
        };
        let table = self.table.load();
        let Some(slot) = table.by_seid.get(&seid) else {
            return refuse("no such element");
        };
        match policy.plane(&peer.names, slot.seid()) {
            Some(allowed) if allowed >= plane => Ok((slot.clone(), policy)),
            Some(_) => refuse("the role does not reach the management plane"),
            None => refuse("the policy does not give the element to this peer"),
        }
    }

    fn current_policy(&self) -> arc_swap::Guard<Arc<Policy>> {
        self.policy.load()
    }
}

#[cfg(test)]
mod tests;
