//! The ports of guests: closed until a guest has authenticated, and again when its session ends.

mod gate;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use gose_proto::identity::VmId;
use tokio::task::JoinSet;

use super::{domain::Domain, namespace};
use crate::config::Driver;

pub(super) use gate::Gate;

/// What a port belongs to.
pub(super) struct Wire {
    pub(super) vm: VmId,
    /// The node's end of the guest's link, where the driver has one.
    pub(super) device: Option<String>,
}

/// What the server's Access-Accept asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Terms {
    /// Filter-Id.
    pub(super) filter: Option<String>,
    /// Tunnel-Private-Group-ID.
    pub(super) vlan: Option<String>,
}

/// A session on an open port.
pub(super) struct Session {
    /// User-Name.
    pub(super) user: Vec<u8>,
    /// Acct-Session-Id: no other session of any guest has it.
    pub(super) number: String,
    /// Which life of the virtual machine.
    pub(super) generation: u64,
    /// Ends it in time; stopped with it.
    pub(super) _timer: JoinSet<()>,
}

/// Why a port closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A guest begins.
    New,
    /// The guest's Logoff.
    Logoff,
    /// Session-Timeout.
    TimeOver,
    /// Access-Reject.
    Rejected,
    /// Disconnect-Request.
    Disconnected,
    /// The guest runs no more.
    Detached,
}

impl Why {
    /// A word for hooks and the log.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Logoff => "logoff",
            Self::TimeOver => "session-timeout",
            Self::Rejected => "rejected",
            Self::Disconnected => "disconnected",
            Self::Detached => "detached",
        }
    }
}

/// Why a port does not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    /// The packet filter or the hook.
    #[error("the port could not be opened: {0}")]
    Gate(#[from] io::Error),
    /// The guest runs no more.
    #[error("the guest runs no more")]
    Gone,
}

type Slot = Arc<Mutex<Option<Session>>>;

/// The ports of a hypervisor's guests.
pub(super) struct Ports {
    gate: Gate,
    driver: Driver,
    /// One lock a guest: opening and closing its port are never at work at once.
    slots: Mutex<HashMap<VmId, Slot>>,
    opened: AtomicU64,
    closed: AtomicU64,
}

impl Ports {
    /// All ports are closed. Blocks.
    ///
    /// # Errors
    /// What the packet filter says.
    pub(super) fn new(gate: Gate, driver: Driver) -> io::Result<Self> {
        gate.close_all()?;
        Ok(Self {
            gate,
            driver,
            slots: Mutex::default(),
            opened: AtomicU64::new(0),
            closed: AtomicU64::new(0),
        })
    }

    /// A guest of this name is about to start: its port is closed. Blocks.
    ///
    /// # Errors
    /// What the packet filter or the hook says: the guest is not to start.
    pub(super) fn begin(&self, vm: VmId) -> io::Result<()> {
        let slot = self.slot(vm);
        let mut held = lock(&slot);
        self.gate.close(&self.wire(vm), Why::New)?;
        *held = None;
        Ok(())
    }

    /// Opens the port for a session, or leaves it open for this one in place of another. Blocks.
    ///
    /// # Errors
    /// [`PortError`]; the port is closed then.
    pub(super) fn open(
        &self,
        domain: &Domain,
        session: Session,
        terms: &Terms,
    ) -> Result<(), PortError> {
        let vm = domain.vm();
        let slot = self.slot(vm);
        let mut held = lock(&slot);
        // Whoever ends the domain does so before it closes the port, under this lock.
        if !domain.runs() {
            return Err(PortError::Gone);
        }
        let before = held.take();
        if let Err(error) = self.gate.open(&self.wire(vm), &session.number, terms) {
            if before.is_some() {
                let _ = self.gate.close(&self.wire(vm), Why::Rejected);
            }
            return Err(error.into());
        }
        *held = Some(session);
        count(&self.opened);
        Ok(())
    }

    /// Closes the port if its session matches; `false` if there is none such. Blocks.
    ///
    /// # Errors
    /// What the packet filter or the hook says: the session stays, and is to be closed again.
    pub(super) fn close(
        &self,
        vm: VmId,
        why: Why,
        matches: impl Fn(&Session) -> bool,
    ) -> io::Result<bool> {
        let slot = self.slot(vm);
        let mut held = lock(&slot);
        let closing = held.as_ref().filter(|session| matches(session));
        let Some(number) = closing.map(|session| session.number.clone()) else {
            return Ok(false);
        };
        self.gate.close(&self.wire(vm), why)?;
        *held = None;
        count(&self.closed);
        tracing::info!(%vm, session = number, reason = why.word(), "the guest's port is closed");
        Ok(true)
    }

    /// The guests whose sessions match.
    pub(super) fn find(&self, matches: impl Fn(VmId, &Session) -> bool) -> Vec<(VmId, String)> {
        let slots: Vec<(VmId, Slot)> = lock(&self.slots)
            .iter()
            .map(|(vm, slot)| (*vm, slot.clone()))
            .collect();
        let found = slots.into_iter().filter_map(|(vm, slot)| {
            let held = lock(&slot);
            let session = held.as_ref().filter(|session| matches(vm, session))?;
            Some((vm, session.number.clone()))
        });
        found.collect()
    }

    /// Forgets guests that run no more and have no session.
    pub(super) fn forget(&self, vm: VmId) {
        let mut slots = lock(&self.slots);
        // Nobody else holds it, and nobody can get it meanwhile.
        let idle = slots
            .get(&vm)
            .is_some_and(|slot| Arc::strong_count(slot) == 1 && lock(slot).is_none());
        if idle {
            slots.remove(&vm);
        }
    }

    /// What the guest's port is called (NAS-Port-Id): its link, or its UUID.
    pub(super) fn name(&self, vm: VmId) -> String {
        self.wire(vm).device.unwrap_or_else(|| vm.to_string())
    }

    /// Ports opened and closed since the start.
    pub(super) fn counts(&self) -> [u64; 2] {
        [&self.opened, &self.closed].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Ports that are open.
    pub(super) fn open_now(&self) -> usize {
        self.find(|_, _| true).len()
    }

    fn wire(&self, vm: VmId) -> Wire {
        let device = match self.driver {
            Driver::Namespace => Some(namespace::device(vm)),
            _ => None,
        };
        Wire { vm, device }
    }

    fn slot(&self, vm: VmId) -> Slot {
        lock(&self.slots).entry(vm).or_default().clone()
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
