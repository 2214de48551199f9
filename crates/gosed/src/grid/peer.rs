//! Who asks.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use gose_element::Seid;
use gose_proto::identity::SpiffeId;
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
        *lock(&self.0) = name.map(str::to_owned);
    }

    /// The request that runs.
    #[must_use]
    pub fn get(&self) -> Option<String> {
        lock(&self.0).clone()
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

impl Names {
    /// Whether it is a virtual machine that showed its token.
    #[must_use]
    pub fn is_machine(&self) -> bool {
        let of_machine = |name: &Name| match name {
            Name::Uri(uri) => uri.parse::<SpiffeId>().is_ok_and(|id| id.vm().is_some()),
            Name::CommonName(_) => false,
        };
        matches!(self, Self::Certified(names) if names.iter().any(of_machine))
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
/// The session's one task waits on [`Evictions::wait`] beside its socket.
#[derive(Debug, Default)]
pub struct Evictions {
    /// Whether there is something to give up: looked at with each request, so it is one load.
    pending: AtomicBool,
    end: AtomicBool,
    review: AtomicBool,
    seids: Mutex<Vec<Seid>>,
    /// The session's task. It stays here when it is woken: a session that found nothing to give up need not
    /// register again.
    waiting: Mutex<Option<Waker>>,
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
        poll_fn(|context| {
            let eviction = self.poll_wait(context);
            self.answer();
            eviction
        })
        .await
    }

    /// Waits until there is something to give up; after [`Poll::Pending`] the task of `context` is woken by it.
    pub fn poll_wait(&self, context: &mut Context<'_>) -> Poll<Eviction> {
        if let Some(eviction) = self.take() {
            return Poll::Ready(eviction);
        }
        self.register(context.waker());
        // What came before the waker was there.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits until the session is to end; what else there is to give up stays for
    /// [`Evictions::wait`].
    pub async fn ended(&self) {
        poll_fn(|context| {
            self.register(context.waker());
            self.answer();
            if self.end.load(Ordering::Acquire) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Whether [`Evictions::wait`] would return at once.
    #[must_use]
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// The session is to end: its certificate is no longer good.
    pub fn end(&self) {
        self.end.store(true, Ordering::Release);
        self.wake();
    }

    /// The policy changed.
    pub fn review(&self) {
        self.review.store(true, Ordering::Release);
        self.wake();
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
        self.rouse();
        if !self.is_gone() {
            answered.await;
        }
    }

    /// Tells whoever asked that the session has looked at its socket. Whoever waits by [`Evictions::wait`] looks
    /// there first.
    pub fn answer(&self) {
        if self.asked.load(Ordering::Acquire) && self.asked.swap(false, Ordering::AcqRel) {
            self.answered.notify_waiters();
        }
    }

    pub(super) fn give_up(&self, seid: Seid) {
        lock(&self.seids).push(seid);
        self.wake();
    }

    fn wake(&self) {
        self.pending.store(true, Ordering::Release);
        self.rouse();
    }

    fn rouse(&self) {
        if let Some(waker) = &*lock(&self.waiting) {
            waker.wake_by_ref();
        }
    }

    fn register(&self, waker: &Waker) {
        let mut waiting = lock(&self.waiting);
        if !waiting.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *waiting = Some(waker.clone());
        }
    }

    fn take(&self) -> Option<Eviction> {
        // Whoever adds something after this sets it again.
        if !self.pending.swap(false, Ordering::AcqRel) {
            return None;
        }
        // What is not returned now is there at the next call. An end stands for good.
        if self.end.load(Ordering::Acquire) {
            self.pending.store(true, Ordering::Release);
            return Some(Eviction::End);
        }
        let seids = std::mem::take(&mut *lock(&self.seids));
        if self.review.swap(false, Ordering::AcqRel) {
            if !seids.is_empty() {
                lock(&self.seids).extend(seids);
                self.pending.store(true, Ordering::Release);
            }
            return Some(Eviction::Review);
        }
        (!seids.is_empty()).then_some(Eviction::Elements(seids))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    /// Counts how often a task would run.
    #[derive(Default)]
    struct Task(std::sync::atomic::AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn nothing_that_is_to_be_given_up_is_lost() {
        let task = Arc::new(Task::default());
        let waker = Waker::from(task.clone());
        let mut context = Context::from_waker(&waker);
        let evictions = Evictions::default();
        let seid = |name: &str| name.parse::<Seid>().unwrap();
        assert!(evictions.poll_wait(&mut context).is_pending() && !evictions.is_pending());
        // three at once: each comes out, the waker is kept
        evictions.give_up(seid("SE1"));
        evictions.review();
        evictions.give_up(seid("SE2"));
        assert_eq!(task.0.load(Ordering::Relaxed), 3);
        assert_eq!(
            evictions.poll_wait(&mut context),
            Poll::Ready(Eviction::Review)
        );
        assert!(evictions.is_pending());
        assert_eq!(
            evictions.poll_wait(&mut context),
            Poll::Ready(Eviction::Elements(vec![seid("SE1"), seid("SE2")]))
        );
        assert!(!evictions.is_pending());
        // not registered again since, and woken all the same
        evictions.end();
        assert_eq!(task.0.load(Ordering::Relaxed), 4);
        for _ in 0..2 {
            assert_eq!(
                evictions.poll_wait(&mut context),
                Poll::Ready(Eviction::End)
            );
        }
        assert!(evictions.is_pending());
    }
}
