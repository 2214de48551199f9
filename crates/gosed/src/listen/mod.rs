//! Who calls, and what is spoken: TLS with client certificates, the admin socket, RACS over both.

mod accept;
mod admin;
pub mod admission;
mod handler;
pub mod racs;
mod sessions;
pub mod tls;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

pub use accept::Listener;
pub(crate) use accept::Shared;
pub(crate) use admin::AdminShared;
pub use admin::AdminSocket;
pub use handler::{ADMIN, BoxedStream, Connection, EAP, Handler, Handlers, RACS, Stream};
pub use sessions::{Registered, Sessions};

/// Tells every connection that the node stops.
#[derive(Debug, Clone)]
pub struct Stop(Arc<State>);

/// Stops what holds the [`Stop`] of it. A stopper that is gone stops as well.
#[derive(Debug)]
pub struct Stopper(Arc<State>);

#[derive(Debug, Default)]
struct State {
    stopped: AtomicBool,
    waiting: Notify,
}

impl Stopper {
    /// A stop that was not pulled yet.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let state = Arc::<State>::default();
        (Self(state.clone()), Stop(state))
    }

    /// Connections end after the request that runs; none is accepted any more.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.waiting.notify_waiters();
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Stop {
    /// Returns when the node stops.
    pub async fn stopped(&self) {
        let waiting = self.0.waiting.notified();
        tokio::pin!(waiting);
        // From here on a stop is not missed.
        waiting.as_mut().enable();
        if !self.is_stopped() {
            waiting.await;
        }
    }

    /// Whether the node stops.
    #[must_use]
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }
}
