//! Who asks.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use gose_element::Seid;
use tokio::sync::Notify;

use crate::{config::Name, store::Upstreams};

/// Session identifier: one a TLS session, never used again in the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid(pub(super) u64);

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer in its session.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The session.
    pub sid: Sid,
    /// What policy calls the peer.
    pub names: Names,
    /// How the grid reaches the session.
    pub evictions: Arc<Evictions>,
    /// What the request that runs is called, for the nodes that it is relayed to.
    pub request: Arc<RequestName>,
    /// The sessions with other nodes that its elements there share; `None` where each element has its own,
    /// because they are used at the same time.
    pub upstreams: Option<Arc<Upstreams>>,
}

/// The identifier of the request that a session runs. Sessions that relay keep it; others leave it empty.
#[derive(Debug, Default)]
pub struct RequestName(Mutex<Option<String>>);

impl RequestName {
    /// The request that runs from now on.
    pub fn set(&self, name: Option<&str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name.map(str::to_owned);
    }

    /// The request that runs.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        let name = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        name.clone()
    }
}

impl Peer {
    /// A peer in a new session.
    #[must_use]
    pub fn new(sid: Sid, names: Names) -> Self {
        Self {
            sid,
            names,
            evictions: Arc::default(),
            request: Arc::default(),
            upstreams: None,
        }
    }

    /// The same peer, whose elements of one remote node share one session with that node for as long as the
    /// value lives. For sessions that do one thing after the other.
    #[must_use]
    pub fn sharing_upstreams(&self) -> Self {
        Self {
            upstreams: Some(Arc::default()),
            ..self.clone()
        }
    }
}

/// The names that policy knows a peer by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// The daemon's own user, on the admin socket.
    Operator,
    /// Whoever showed a certificate with these names; only those that count.
    Certified(Box<[Name]>),
    /// A virtual machine of this hypervisor, on its own channel: it has the elements that are bound to
    /// it, whatever the users' table says.
    Guest(Arc<Bound>),
}

/// A virtual machine and its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// Its SPIFFE identifier.
    pub name: Name,
    /// What is bound to it.
    pub seids: Vec<Seid>,
}

impl Names {
    /// Whether it is one of these names.
    #[must_use]
    pub fn is(&self, name: &Name) -> bool {
        match self {
            Self::Operator => false,
            Self::Certified(names) => names.contains(name),
            Self::Guest(bound) => bound.name == *name,
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Certified(names) => match names.first() {
                Some(name) => name.fmt(f),
                None => f.write_str("(no name that counts)"),
            },
            Self::Guest(bound) => bound.name.fmt(f),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.names, self.sid)
    }
}

/// What a session must give up: elements taken away from it, or everything.
///
/// The session waits on [`Evictions::wait`] beside its socket.
#[derive(Debug, Default)]
pub struct Evictions {
    notify: Notify,
    seids: Mutex<Vec<Seid>>,
    end: AtomicBool,
    review: AtomicBool,
    /// Somebody wants to know whether the session's peer is still there.
    asked: AtomicBool,
    answered: Notify,
    /// The peer has closed; the session ends when what runs is done.
    gone: AtomicBool,
}

/// What a session is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// Give up these elements.
    Elements(Vec<Seid>),
    /// Give up what the policy no longer allows.
    Review,
    /// End.
    End,
}

impl Evictions {
    /// Waits until there is something to give up. Cancelling loses nothing.
    pub async fn wait(&self) -> Eviction {
        loop {
            self.answer();
            if let Some(eviction) = self.take() {
                return eviction;
            }
            self.notify.notified().await;
        }
    }

    /// Waits until the session is to end; what else there is to give up stays for
    /// [`Evictions::wait`].
    pub async fn ended(&self) {
        while !self.end.load(Ordering::Acquire) {
            self.answer();
            self.notify.notified().await;
        }
    }

    /// The session is to end: its certificate is no longer good.
    pub fn end(&self) {
        self.end.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// The policy changed.
    pub fn review(&self) {
        self.review.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// The session's peer has closed; the session goes on until what runs is done.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
        self.answered.notify_waiters();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Asks the session whether its peer is still there, and waits for the answer: it comes when the session has
    /// looked at its socket once more, or when it has seen the end of it.
    pub(super) async fn is_there(&self) {
        let answered = self.answered.notified();
        tokio::pin!(answered);
        answered.as_mut().enable();
        self.asked.store(true, Ordering::Release);
        self.notify.notify_one();
        if !self.is_gone() {
            answered.await;
        }
    }

    /// Whoever waits here looks at its socket first.
    fn answer(&self) {
        if self.asked.swap(false, Ordering::AcqRel) {
            self.answered.notify_waiters();
        }
    }

    pub(super) fn give_up(&self, seid: Seid) {
        if let Ok(mut seids) = self.seids.lock() {
            seids.push(seid);
        }
        self.notify.notify_one();
    }

    fn take(&self) -> Option<Eviction> {
        if self.end.load(Ordering::Acquire) {
            return Some(Eviction::End);
        }
        if self.review.swap(false, Ordering::AcqRel) {
            return Some(Eviction::Review);
        }
        let seids = std::mem::take(&mut *self.seids.lock().ok()?);
        (!seids.is_empty()).then_some(Eviction::Elements(seids))
    }
}
