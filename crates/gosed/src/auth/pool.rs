//! The elements of an identity: which one gets the next conversation, which one rests.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use gose_element::{
    Seid,
    drive::eap_tls::{Opening, scripts},
};
use gose_proto::radius::{Type, request::Station};
use tokio::sync::Notify;

use super::{
    Authenticators, Begin, Conversation, EapConversation, Identity, NoRealm, OnHost, Reply,
    Revoked, Verdicts,
    acquainted::{Acquaintance, Acquainted},
    element::ElementTls,
    host::{Host, HostTls},
    realm,
    tls::Tls,
};
use crate::grid::{Eviction, Grid, Lease, Names, Peer, Plane};

/// How a pool behaves when its elements are busy or broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// How long a conversation waits for an element.
    pub patience: Duration,
    /// A conversation whose peer was silent for so long gives its element to one that waits.
    pub preempt: Duration,
    /// How long an element rests after its first failure; twice as long after each further one.
    pub quarantine: Duration,
    /// The longest rest.
    pub longest_quarantine: Duration,
}

impl Tuning {
    /// 2 s, 3 s, 1 s, 60 s.
    pub const DEFAULT: Self = Self {
        patience: Duration::from_secs(2),
        preempt: Duration::from_secs(3),
        quarantine: Duration::from_secs(1),
        longest_quarantine: Duration::from_secs(60),
    };
}

/// The server elements of a node, by identity.
pub struct Pool {
    identities: Vec<Served>,
    revoked: Arc<Revoked>,
    verdicts: Arc<Verdicts>,
}

/// An identity, by where its TLS runs.
enum Served {
    Elements(Arc<Members>),
    Host(Arc<Host>),
}

impl Served {
    fn identity(&self) -> &Identity {
        match self {
            Self::Elements(members) => &members.identity,
            Self::Host(host) => &host.identity,
        }
    }

    fn terms(&self) -> &ArcSwap<Terms> {
        match self {
            Self::Elements(members) => &members.terms,
            Self::Host(host) => &host.terms,
        }
    }

    fn tuning(&self) -> &ArcSwap<Tuning> {
        match self {
            Self::Elements(members) => &members.tuning,
            Self::Host(host) => &host.tuning,
        }
    }

    fn elements(&self) -> Option<&Arc<Members>> {
        match self {
            Self::Elements(members) => Some(members),
            Self::Host(_) => None,
        }
    }
}

/// Who may come in under an identity, and what is said of them.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Names that may come in; `*` for whoever has a certificate under the anchors.
    pub allow: Vec<String>,
    /// What clients are told about those who come in.
    pub reply: Reply,
}

impl Terms {
    fn of(identity: &Identity) -> Self {
        Self {
            allow: identity.allow.clone(),
            reply: identity.reply.clone(),
        }
    }

    /// Whether a certified name may come in.
    pub(super) fn admits(&self, name: &str) -> bool {
        let mut allow = self.allow.iter();
        allow.any(|allowed| allowed == "*" || allowed == name)
    }
}

/// The elements of one identity.
pub(super) struct Members {
    pub(super) identity: Identity,
    tuning: ArcSwap<Tuning>,
    terms: ArcSwap<Terms>,
    grid: Arc<Grid>,
    peer: Peer,
    elements: Mutex<Vec<Element>>,
    freed: Notify,
    waits: AtomicU64,
    /// Which element a peer had last.
    acquainted: Mutex<Acquainted>,
}

struct Element {
    seid: Seid,
    place: Place,
    /// What a conversation takes of its time, smoothed.
    cost: Duration,
    used: Instant,
    failures: u32,
    conversations: u64,
}

enum Place {
    /// Free; the lease is kept between conversations.
    Free(Option<Box<Held>>),
    /// With a conversation.
    Busy(Arc<Claim>),
    /// Out of use until then.
    Resting(Instant),
}

/// An element that was opened for the identity.
pub(super) struct Held {
    pub(super) lease: Lease,
    /// Whether PIN and identity are set already.
    pub(super) opened: bool,
}

/// A conversation's hold on an element. The pool takes it back from a peer that is silent.
pub(super) struct Claim {
    pub(super) held: tokio::sync::Mutex<Option<Held>>,
    /// When the element answered last.
    last: Mutex<Instant>,
}

/// What is told about an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementState {
    /// The element.
    pub seid: Seid,
    /// Whether a conversation has it.
    pub busy: bool,
    /// Whether it rests after a failure.
    pub resting: bool,
    /// What a conversation takes of its time, smoothed.
    pub cost: Duration,
    /// Conversations that it had.
    pub conversations: u64,
}

impl Pool {
    /// A pool of these identities on a grid. It watches for administrators who want an element back for as long
    /// as it lives.
    #[must_use]
    pub fn new(
        grid: &Arc<Grid>,
        identities: Vec<Identity>,
        tuning: &Tuning,
        revoked: Revoked,
    ) -> Arc<Self> {
        let revoked = Arc::new(revoked);
        let served = identities.into_iter().map(|mut identity| {
            identity.revoked = revoked.clone();
            match identity.on_host.take() {
                Some(on_host) => Served::Host(Arc::new(Host {
                    on_host,
                    terms: ArcSwap::from_pointee(Terms::of(&identity)),
                    tuning: ArcSwap::from_pointee(tuning.clone()),
                    identity,
                })),
                None => Served::Elements(Members::new(grid, identity, tuning)),
            }
        });
        let pool = Arc::new(Self {
            identities: served.collect(),
            revoked: revoked.clone(),
            verdicts: Arc::default(),
        });
        for members in pool.identities.iter().filter_map(Served::elements) {
            tokio::spawn(watch(members.peer.clone(), Arc::downgrade(members)));
        }
        pool
    }

    /// Takes other terms of the identities, by their names, and other times; from now on they count.
    pub fn reload(&self, terms: &[(&str, Terms)], tuning: &Tuning) {
        for served in &self.identities {
            served.tuning().store(Arc::new(tuning.clone()));
            let named = |(name, _): &&(&str, Terms)| served.identity().name == *name;
            if let Some((_, terms)) = terms.iter().find(named) {
                served.terms().store(Arc::new(terms.clone()));
            }
        }
    }

    /// Names that are not let in, by whatever identity.
    #[must_use]
    pub fn revoked(&self) -> &Arc<Revoked> {
        &self.revoked
    }

    /// How conversations ended.
    #[must_use]
    pub fn verdicts(&self) -> &Arc<Verdicts> {
        &self.verdicts
    }

    /// Every element, identity by identity.
    #[must_use]
    pub fn state(&self) -> Vec<(String, ElementState)> {
        let of = |members: &Arc<Members>| {
            let name = members.identity.name.clone();
            members
                .state()
                .into_iter()
                .map(move |state| (name.clone(), state))
                .collect::<Vec<_>>()
        };
        let elements = self.identities.iter().filter_map(Served::elements);
        elements.flat_map(of).collect()
    }

    /// The identities whose TLS runs on the host, by name.
    pub fn on_host(&self) -> impl Iterator<Item = (&str, &Arc<OnHost>)> {
        self.identities.iter().filter_map(|served| match served {
            Served::Host(host) => Some((host.identity.name.as_str(), &host.on_host)),
            Served::Elements(_) => None,
        })
    }

    /// Begins a conversation. `peer` is what is known of who is at the other end, in whatever words: it gets the
    /// element that it had last, if that is free, since that one remembers its TLS session.
    ///
    /// # Errors
    /// [`NoRealm`].
    pub fn conversation(&self, identity: &str, peer: &str) -> Result<Conversation, NoRealm> {
        let served = Identity::choose(&self.identities, Served::identity, &realm(identity));
        let tls = match served.ok_or(NoRealm)? {
            Served::Elements(members) => {
                let acquaintance = Acquaintance::of(identity, peer);
                Tls::Element(ElementTls::new(members.clone(), acquaintance))
            }
            Served::Host(host) => Tls::Host(Box::new(HostTls::new(host.clone()))),
        };
        Ok(Conversation::new(tls, self.verdicts.clone()))
    }
}

impl Authenticators for Pool {
    fn begin(&self, begin: &Begin) -> Result<Box<dyn EapConversation>, NoRealm> {
        let Station { calling, nas, .. } = &begin.station;
        let peer = format!("{} {nas} {calling}", begin.client);
        Ok(Box::new(self.conversation(&begin.identity, &peer)?))
    }
}

impl Members {
    fn new(grid: &Arc<Grid>, identity: Identity, tuning: &Tuning) -> Arc<Self> {
        let element = |seid: &Seid| Element {
            seid: *seid,
            place: Place::Free(None),
            cost: Duration::ZERO,
            used: Instant::now(),
            failures: 0,
            conversations: 0,
        };
        Arc::new(Self {
            elements: Mutex::new(identity.elements.iter().map(element).collect()),
            peer: Peer::new(grid.new_sid(), Names::Operator),
            grid: grid.clone(),
            terms: ArcSwap::from_pointee(Terms::of(&identity)),
            identity,
            tuning: ArcSwap::from_pointee(tuning.clone()),
            freed: Notify::new(),
            waits: AtomicU64::new(0),
            acquainted: Mutex::default(),
        })
    }

    /// Whether a certified name may come in.
    pub(super) fn admits(&self, name: &str) -> bool {
        let terms = self.terms.load();
        !self.identity.revoked.contains(name) && terms.admits(name)
    }

    /// What clients are told about those who come in.
    pub(super) fn reply(&self) -> Vec<(Type, Vec<u8>)> {
        self.terms.load().reply.attributes()
    }

    /// What makes an element ready for a new conversation: SELECT, PIN and identity once, then Reset-State alone.
    pub(super) fn opening(&self, held: &Held) -> Vec<gose_element::Step> {
        if held.opened {
            return scripts::reset_state().steps;
        }
        let Identity {
            aid, pin, label, ..
        } = &self.identity;
        scripts::open(&Opening {
            aid,
            pin,
            identity: label,
        })
        .steps
    }

    /// An element for a conversation, waiting at most the pool's patience.
    pub(super) async fn claim(&self, peer: Acquaintance) -> Option<(Seid, Arc<Claim>)> {
        let deadline = tokio::time::Instant::now() + self.tuning.load().patience;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(claimed) = self.try_claim(peer) {
                return Some(claimed);
            }
            self.waits.fetch_add(1, Ordering::Relaxed);
            // Rests end and peers fall silent without anybody telling.
            let look_again = tokio::time::Instant::now() + Duration::from_millis(100);
            let until = deadline.min(look_again);
            if tokio::time::timeout_at(until, freed).await.is_err() && until == deadline {
                return self.try_claim(peer);
            }
        }
    }

    fn try_claim(&self, peer: Acquaintance) -> Option<(Seid, Arc<Claim>)> {
        let mut acquainted = self
            .acquainted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut elements = self.elements();
        let mut free: Vec<usize> = by_cost(&elements);
        if let Some(known) = acquainted.element(peer)
            && let Some(at) = free
                .iter()
                .position(|&at| elements[at].seid == known && elements[at].failures == 0)
        {
            free[..=at].rotate_right(1);
        }
        for at in free {
            if let Some(claimed) = self.take(&mut elements[at]) {
                acquainted.met(peer, claimed.0);
                return Some(claimed);
            }
        }
        self.preempt(&mut elements)
    }

    /// Opens the element if it is not yet; one that cannot be opened rests.
    fn take(&self, element: &mut Element) -> Option<(Seid, Arc<Claim>)> {
        let kept = match std::mem::replace(&mut element.place, Place::Free(None)) {
            Place::Free(Some(held)) if held.lease.is_permitted() => Some(*held),
            _ => None,
        };
        let held = match kept {
            Some(held) => held,
            None => match self.grid.open(&self.peer, element.seid, Plane::Management) {
                Ok(lease) => Held {
                    lease,
                    opened: false,
                },
                Err(refusal) => {
                    tracing::warn!(seid = %element.seid, %refusal, "a server element cannot be had");
                    self.rest(element);
                    return None;
                }
            },
        };
        let claim = Arc::new(Claim {
            held: tokio::sync::Mutex::new(Some(held)),
            last: Mutex::new(Instant::now()),
        });
        element.place = Place::Busy(claim.clone());
        element.used = Instant::now();
        element.conversations += 1;
        Some((element.seid, claim))
    }

    /// Takes the element of the peer that was silent for longest, if it was for long enough.
    fn preempt(&self, elements: &mut [Element]) -> Option<(Seid, Arc<Claim>)> {
        let silent = |element: &Element| match &element.place {
            Place::Busy(claim) => {
                Some(claim.silence()).filter(|silence| *silence >= self.tuning.load().preempt)
            }
            _ => None,
        };
        let element = elements
            .iter_mut()
            .filter(|element| silent(element).is_some())
            .max_by_key(|element| silent(element))?;
        let Place::Busy(claim) = &element.place else {
            return None;
        };
        // An element that is at work right now is not silent.
        let held = claim.held.try_lock().ok()?.take()?;
        tracing::info!(seid = %element.seid, "a silent conversation gives its element to another");
        element.place = Place::Free(Some(Box::new(held)));
        self.take(element)
    }

    /// A conversation gives its element back.
    pub(super) fn give_back(&self, seid: Seid, claim: &Arc<Claim>, took: Duration, healthy: bool) {
        let mut elements = self.elements();
        let Some(element) = elements.iter_mut().find(|element| element.seid == seid) else {
            return;
        };
        // Another conversation may have it by now.
        if !matches!(&element.place, Place::Busy(current) if Arc::ptr_eq(current, claim)) {
            return;
        }
        let held = claim.held.try_lock().ok().and_then(|mut held| held.take());
        if healthy {
            element.failures = 0;
            element.cost = if element.cost.is_zero() {
                took
            } else {
                (element.cost * 7 + took) / 8
            };
            element.place =
                Place::Free(held.filter(|held| held.lease.is_permitted()).map(Box::new));
        } else {
            self.rest(element);
        }
        drop(elements);
        self.freed.notify_waiters();
    }

    fn rest(&self, element: &mut Element) {
        let factor = 2_u32.saturating_pow(element.failures.min(16));
        let tuning = self.tuning.load();
        let time = tuning
            .quarantine
            .saturating_mul(factor)
            .min(tuning.longest_quarantine);
        element.failures += 1;
        element.place = Place::Resting(Instant::now() + time);
        tracing::warn!(seid = %element.seid, seconds = time.as_secs_f32(), "a server element rests");
    }

    /// Gives idle elements back to the grid; busy ones when their conversation ends, which it does at its next packet.
    fn release(&self, seids: Option<&[Seid]>) {
        let mut elements = self.elements();
        for element in elements.iter_mut() {
            if seids.is_some_and(|seids| !seids.contains(&element.seid)) {
                continue;
            }
            match &element.place {
                Place::Free(_) => {}
                Place::Busy(claim) => {
                    let Ok(mut held) = claim.held.try_lock() else {
                        continue;
                    };
                    held.take();
                }
                Place::Resting(_) => continue,
            }
            // Whoever wants it gets some time before the pool tries again.
            element.place = Place::Resting(Instant::now() + self.tuning.load().quarantine * 5);
        }
    }

    fn state(&self) -> Vec<ElementState> {
        let now = Instant::now();
        let tell = |element: &Element| ElementState {
            seid: element.seid,
            busy: matches!(element.place, Place::Busy(_)),
            resting: matches!(element.place, Place::Resting(until) if until > now),
            cost: element.cost,
            conversations: element.conversations,
        };
        self.elements().iter().map(tell).collect()
    }

    fn elements(&self) -> MutexGuard<'_, Vec<Element>> {
        self.elements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Elements that may be taken: the cheapest first, of equal ones that which was not used for longest. Those whose
/// rest is over come last: they are tried when nothing else is free, or by the way when they were cheap.
fn by_cost(elements: &[Element]) -> Vec<usize> {
    let now = Instant::now();
    let mut free: Vec<usize> = (0..elements.len())
        .filter(|&at| match elements[at].place {
            Place::Free(_) => true,
            Place::Resting(until) => until <= now,
            Place::Busy(_) => false,
        })
        .collect();
    // Costs that differ by less than a tenth are equal, or the fastest of like elements would get all.
    let class = |cost: Duration| cost.as_micros().max(1).ilog2() * 8;
    free.sort_by_key(|&at| {
        (
            elements[at].failures > 0,
            class(elements[at].cost),
            elements[at].used,
        )
    });
    free
}

impl Claim {
    /// How long the element was not asked anything.
    fn silence(&self) -> Duration {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    pub(super) fn used_now(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Gives elements up when the grid asks for them.
async fn watch(peer: Peer, members: std::sync::Weak<Members>) {
    loop {
        let eviction = tokio::select! {
            eviction = peer.evictions.wait() => eviction,
            // Looks whether the pool is gone.
            () = tokio::time::sleep(Duration::from_secs(5)) => {
                if members.strong_count() == 0 { return }
                continue;
            }
        };
        let Some(members) = members.upgrade() else {
            return;
        };
        match &eviction {
            Eviction::Elements(seids) => members.release(Some(seids)),
            Eviction::Review | Eviction::End => members.release(None),
        }
        if eviction == Eviction::End {
            return;
        }
    }
}
