//! Protocols beside RACS: other roles register a handler for an ALPN name.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use gose_proto::{identity::PeerIdentity, racs::Mode};
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{Stop, racs};
use crate::{
    config::Limits,
    grid::{Grid, Peer},
};

/// ALPN name of RACS; also what is spoken where none is offered.
pub const RACS: &[u8] = b"racs/0.2";
/// ALPN name of the channel to the authentication server.
pub const EAP: &[u8] = b"gose-eap/1";
/// ALPN name of the administrators' channel.
pub const ADMIN: &[u8] = b"gose-admin/1";

/// A connection's bytes.
pub trait Stream: AsyncBufRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncBufRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection's bytes, whatever carries them.
pub type BoxedStream = Box<dyn Stream>;

/// A connection whose peer is known.
pub struct Connection {
    /// The bytes.
    pub stream: BoxedStream,
    /// The session and the names that count.
    pub peer: Peer,
    /// The certificate's names; `None` on the admin socket.
    pub identity: Option<PeerIdentity>,
    /// When to leave.
    pub stop: Stop,
}

/// Serves one protocol.
pub trait Handler: Send + Sync {
    /// Serves a connection until it ends. It must leave soon after `stop`, and when
    /// [`crate::grid::Evictions::wait`] of the peer says that the session ends.
    fn serve(&self, connection: Connection) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Speaks a protocol until the connection ends: the handler's, or RACS where there is none.
pub(super) async fn speak(
    stream: impl Stream + 'static,
    handler: Option<&Arc<dyn Handler>>,
    (peer, identity): (Peer, Option<PeerIdentity>),
    (grid, limits): (&Arc<Grid>, &Limits),
    stop: Stop,
) {
    match handler {
        Some(handler) => {
            let connection = Connection {
                stream: Box::new(stream),
                peer: peer.clone(),
                identity,
                stop,
            };
            handler.serve(connection).await;
            tracing::info!(peer = %peer, "session ended");
        }
        None => {
            let ended = racs::serve(stream, grid, &peer, limits, Mode::Direct, stop).await;
            tracing::info!(peer = %peer, reason = %ended, "session ended");
        }
    }
}

/// Handlers by ALPN name.
#[derive(Clone, Default)]
pub struct Handlers(HashMap<&'static [u8], Arc<dyn Handler>>);

impl Handlers {
    /// Registers a protocol; the last one of a name counts.
    pub fn register(&mut self, alpn: &'static [u8], handler: Arc<dyn Handler>) {
        self.0.insert(alpn, handler);
    }

    /// The handler of a name.
    #[must_use]
    pub fn get(&self, alpn: &[u8]) -> Option<&Arc<dyn Handler>> {
        self.0.get(alpn)
    }

    /// RACS, and every registered name.
    #[must_use]
    pub fn names(&self) -> Vec<Vec<u8>> {
        std::iter::once(RACS)
            .chain(self.0.keys().copied())
            .map(<[u8]>::to_vec)
            .collect()
    }
}
