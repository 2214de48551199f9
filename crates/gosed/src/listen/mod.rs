//! Who calls, and what is spoken: TLS with client certificates, the admin socket, RACS over both.

mod accept;
mod admin;
pub mod admission;
mod handler;
pub mod racs;
mod sessions;
pub mod tls;

pub use accept::Listener;
pub(crate) use accept::Shared;
pub(crate) use admin::AdminShared;
pub use admin::AdminSocket;
pub use handler::{ADMIN, BoxedStream, Connection, EAP, Handler, Handlers, RACS, Stream};
pub use sessions::{Registered, Sessions};

use tokio::sync::watch;

/// Tells every connection that the node stops.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Stops what holds the [`Stop`] of it.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stopper {
    /// A stop that was not pulled yet.
    #[must_use]
    pub fn new() -> (Self, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Stop(receiver))
    }

    /// Connections end after the request that runs; none is accepted any more.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns when the node stops.
    pub async fn stopped(&mut self) {
        // A stopper that is gone stops as well.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Whether the node stops.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow()
    }
}
