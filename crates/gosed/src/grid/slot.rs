//! A slot: the place of an element, and its lock.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use gose_element::{ElementError, SecureElement, Seid, SlotId};
use tokio::sync::Notify;

use super::{Evictions, Measured, Peer, Refusal, Sid, Used, meter::Meter, worker::Worker};

/// Time for a session to look whether its peer has closed. One of this program that has no peer does not answer.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Makes the element of a slot ready; may block where the element runs on a thread of its own.
pub type Opener = Arc<dyn Fn(&Peer) -> Result<Box<dyn SecureElement>, ElementError> + Send + Sync>;

/// Where an element runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// In the task of whoever holds the lease: a software card, which answers in microseconds. The
    /// element is kept while it is not used.
    Inline,
    /// On a thread of its own while it is leased; kept while it is not used: a card that is slow.
    Thread,
    /// On a thread of its own, opened for each lease and dropped after it: an element of a remote grid.
    ThreadEachLease,
}

/// What is known of a slot.
#[derive(Clone)]
pub struct Spec {
    /// The element's name in the grid.
    pub seid: Seid,
    /// Where the element runs.
    pub runs: Runs,
    /// Where it is: a slot whose place changes is a new slot.
    pub place: Box<str>,
    /// How it is made ready, at its first use or at each.
    pub open: Opener,
    /// What it was used for and how it stands, where the node can know: software elements.
    pub used: Arc<Used>,
}

impl Spec {
    /// A slot whose element lives in an image.
    #[must_use]
    pub fn image(seid: Seid, runs: Runs, image: &Path, open: Opener) -> Self {
        Self {
            seid,
            runs,
            place: image.to_string_lossy().into(),
            open,
            used: Arc::default(),
        }
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}) at {}", self.seid, self.runs, self.place)
    }
}

/// A slot and its lock.
pub(super) struct Slot {
    id: SlotId,
    spec: Spec,
    occupancy: Mutex<Occupancy>,
    freed: Notify,
    /// A call to the element outlived its time limit and has not come back.
    quarantined: AtomicBool,
    meter: Meter,
}

enum Occupancy {
    /// Nobody holds the element; it is there if it was opened once and is kept.
    Free(Option<Box<dyn SecureElement>>),
    /// A session holds it.
    Held { sid: Sid, evictions: Arc<Evictions> },
    /// A session held it, which gave it up or ended: it is being powered down.
    Released { sid: Sid },
}

/// A locked element, where it runs. Gives the slot free when dropped.
pub(super) enum Running {
    Inline(Inline),
    Thread(Worker),
}

/// An element that runs in the task of its holder.
pub(super) struct Inline {
    slot: Arc<Slot>,
    element: Option<Box<dyn SecureElement>>,
}

impl Slot {
    pub(super) fn new(id: SlotId, spec: Spec) -> Arc<Self> {
        Arc::new(Self {
            id,
            spec,
            occupancy: Mutex::new(Occupancy::Free(None)),
            freed: Notify::new(),
            quarantined: AtomicBool::new(false),
            meter: Meter::default(),
        })
    }

    pub(super) fn seid(&self) -> Seid {
        self.spec.seid
    }

    pub(super) fn used(&self) -> &Arc<Used> {
        &self.spec.used
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn measured(&self) -> Measured {
        let held = self.holder().is_some();
        self.meter.read(self.spec.seid, self.spec.runs, held)
    }

    pub(super) fn id(&self) -> SlotId {
        self.id
    }

    pub(super) fn runs(&self) -> Runs {
        self.spec.runs
    }

    pub(super) fn is_same_place(&self, spec: &Spec) -> bool {
        self.spec.place == spec.place && self.spec.runs == spec.runs
    }

    /// Locks the slot for a session and brings its element to where it runs.
    pub(super) fn lock(
        self: &Arc<Self>,
        peer: &Peer,
        timeout: Duration,
    ) -> Result<Running, Refusal> {
        let kept = self.take(peer)?;
        if self.spec.runs != Runs::Inline {
            return Ok(Running::Thread(Worker::spawn(
                self.clone(),
                kept,
                peer.clone(),
                timeout,
            )?));
        }
        let opened = match kept {
            Some(element) => Ok(element),
            None => self.open(peer),
        };
        match opened {
            Ok(element) => Ok(Running::Inline(Inline {
                slot: self.clone(),
                element: Some(element),
            })),
            Err(error) => {
                self.free(None);
                Err(error.into())
            }
        }
    }

    fn take(&self, peer: &Peer) -> Result<Option<Box<dyn SecureElement>>, Refusal> {
        let mut occupancy = self.occupancy();
        match &mut *occupancy {
            Occupancy::Held { .. } | Occupancy::Released { .. } if self.is_quarantined() => {
                Err(ElementError::Mute.into())
            }
            Occupancy::Held { sid, .. } | Occupancy::Released { sid } => {
                tracing::info!(peer = %peer, seid = %self.spec.seid, holder = %sid, "refused: in use");
                Err(Refusal::InUse)
            }
            Occupancy::Free(element) => {
                let element = element.take();
                *occupancy = Occupancy::Held {
                    sid: peer.sid,
                    evictions: peer.evictions.clone(),
                };
                Ok(element)
            }
        }
    }

    /// Makes the element ready.
    pub(super) fn open(&self, peer: &Peer) -> Result<Box<dyn SecureElement>, ElementError> {
        (self.spec.open)(peer).inspect_err(|error| {
            tracing::warn!(seid = %self.spec.seid, slot = self.id.0, %error, "the element cannot be opened");
        })
    }

    /// The element does not answer: nobody waits for it until the call that hangs comes back.
    pub(super) fn quarantine(&self) {
        if !self.quarantined.swap(true, Ordering::SeqCst) {
            tracing::warn!(seid = %self.spec.seid, slot = self.id.0, "the element does not answer: quarantined");
            self.freed.notify_waiters();
        }
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::SeqCst)
    }

    /// The call that hung came back; the element was powered down after it.
    pub(super) fn returned(&self) {
        if self.quarantined.swap(false, Ordering::SeqCst) {
            tracing::info!(seid = %self.spec.seid, slot = self.id.0, "the element is back from quarantine, reset");
        }
    }

    /// Unlocks the slot. The element must be powered down.
    pub(super) fn free(&self, element: Option<Box<dyn SecureElement>>) {
        self.returned();
        let element = element.filter(|_| self.spec.runs != Runs::ThreadEachLease);
        *self.occupancy() = Occupancy::Free(element);
        self.freed.notify_waiters();
    }

    /// The holder is gone; the element is still to be powered down.
    pub(super) fn release(&self) {
        let mut occupancy = self.occupancy();
        if let Occupancy::Held { sid, .. } = &*occupancy {
            *occupancy = Occupancy::Released { sid: *sid };
            drop(occupancy);
            self.freed.notify_waiters();
        }
    }

    pub(super) fn holder(&self) -> Option<Sid> {
        match &*self.occupancy() {
            Occupancy::Held { sid, .. } | Occupancy::Released { sid } => Some(*sid),
            Occupancy::Free(_) => None,
        }
    }

    fn occupancy(&self) -> MutexGuard<'_, Occupancy> {
        self.occupancy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the holder to give the element up.
    pub(super) fn evict(&self) {
        let occupancy = self.occupancy();
        if let Occupancy::Held { evictions, .. } = &*occupancy {
            evictions.give_up(self.spec.seid);
        }
    }

    /// Waits until this session does not hold the element.
    pub(super) async fn freed_by(&self, holder: Sid) {
        self.freed_where(|slot| slot.holder() != Some(holder)).await;
    }

    /// Waits until no session holds the element and it is powered down.
    pub(super) async fn freed(&self) {
        self.freed_where(|slot| slot.holder().is_none()).await;
    }

    /// Waits until the element is free, or it is certain that another session holds it: one whose peer has not
    /// closed. What an ended session leaves behind takes as long as the element needs to be powered down.
    pub(super) async fn settled(&self) {
        if let Some((holder, evictions)) = self.held().filter(|_| !self.is_quarantined()) {
            let is_held = |slot: &Self| slot.held().is_some_and(|(sid, _)| sid == holder);
            tokio::select! {
                biased;
                () = self.freed_where(|slot| !is_held(slot)) => {}
                () = evictions.is_there() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if evictions.is_gone() {
                self.freed_by(holder).await;
            }
        }
        self.freed_where(|slot| {
            slot.holder().is_none() || slot.held().is_some() || slot.is_quarantined()
        })
        .await;
    }

    fn held(&self) -> Option<(Sid, Arc<Evictions>)> {
        match &*self.occupancy() {
            Occupancy::Held { sid, evictions } => Some((*sid, evictions.clone())),
            Occupancy::Released { .. } | Occupancy::Free(_) => None,
        }
    }

    async fn freed_where(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if is_so(self) {
                return;
            }
            freed.await;
        }
    }
}

impl Inline {
    /// The element.
    pub(super) fn element(&mut self) -> Result<&mut (dyn SecureElement + 'static), ElementError> {
        self.element.as_deref_mut().ok_or(ElementError::Absent)
    }
}

impl Drop for Inline {
    fn drop(&mut self) {
        if let Some(element) = &mut self.element {
            element.power_off();
        }
        self.slot.free(self.element.take());
    }
}
