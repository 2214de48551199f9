//! Disconnect-Requests to the NAS of a session, sent until they are answered (RFC 5176).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gose_proto::radius::{
    BuildError, Code, PacketError, Type,
    client::{Exchange, Timers},
    disconnect::{Disconnect, error_cause},
};
use tokio::{net::UdpSocket, sync::Semaphore};

use super::{
    Sessions,
    exchange::{self, Unanswered},
    front::{count, random},
    sessions::Session,
};
use crate::auth::{Revoked, RevokedError};

/// Requests on their way at a time.
const AT_ONCE: usize = 16;

/// Ends sessions.
pub struct Disconnector {
    sessions: Arc<Sessions>,
    /// Who is not let in again.
    revoked: Arc<Revoked>,
    permits: Arc<Semaphore>,
    timers: Timers,
    counters: Arc<Ended>,
}

/// What Disconnect-Requests came to.
#[derive(Debug, Default)]
pub struct Ended {
    /// Disconnect-ACK.
    pub acknowledged: AtomicU64,
    /// Disconnect-NAK.
    pub refused: AtomicU64,
    /// No answer, or no way to ask.
    pub failed: AtomicU64,
}

/// Why a session goes on.
#[derive(Debug, thiserror::Error)]
enum NotEnded {
    #[error("the client has no disconnect-port; set it, or end the session at the NAS")]
    NoPort,
    #[error("the network: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error("Disconnect-NAK: {0}")]
    Refused(&'static str),
}

impl Disconnector {
    pub(super) fn new(sessions: Arc<Sessions>, revoked: Arc<Revoked>, timers: Timers) -> Self {
        Self {
            sessions,
            revoked,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            timers,
            counters: Arc::default(),
        }
    }

    /// What was sent came to this.
    #[must_use]
    pub fn counters(&self) -> &Ended {
        &self.counters
    }

    /// A peer is not let in any more, and its sessions end: how many they are. Called within a runtime.
    ///
    /// # Errors
    /// [`RevokedError`] where the name is not kept; its sessions end nevertheless.
    pub fn revoke(&self, peer: &str) -> Result<usize, RevokedError> {
        let kept = crate::long_step(|| self.revoked.add(peer));
        let ended = self.end_of("revoked by an administrator", peer);
        kept.map(|()| ended)
    }

    /// A peer may be let in again; `false` if it was not revoked by its name.
    ///
    /// # Errors
    /// [`RevokedError`]; it stays out.
    pub fn reinstate(&self, peer: &str) -> Result<bool, RevokedError> {
        crate::long_step(|| self.revoked.remove(peer))
    }

    /// The names that are not let in.
    #[must_use]
    pub fn revoked(&self) -> Vec<String> {
        self.revoked.all()
    }

    /// The sessions of a peer end: how many they are. Called within a runtime.
    pub fn end_of(&self, reason: &'static str, peer: &str) -> usize {
        self.end(reason, |session| session.peer == peer)
    }

    /// The sessions that match end: how many they are. Called within a runtime.
    pub fn end(&self, reason: &'static str, matches: impl Fn(&Session) -> bool) -> usize {
        let sessions = self.sessions.take(matches);
        let count = sessions.len();
        for session in sessions {
            let (permits, timers) = (self.permits.clone(), self.timers.clone());
            let counters = self.counters.clone();
            tokio::spawn(async move {
                let Ok(_permit) = permits.acquire().await else {
                    return;
                };
                let ended = disconnect(&session, timers).await;
                record(&session, reason, &ended, &counters);
            });
        }
        count
    }
}

fn record(session: &Session, reason: &str, ended: &Result<(), NotEnded>, counters: &Ended) {
    let (client, peer) = (&session.client.name, &session.peer);
    let calling = &session.station.calling;
    match ended {
        Ok(()) => {
            count(&counters.acknowledged);
            tracing::info!(client, peer, calling, reason, "session disconnected");
        }
        Err(error) => {
            count(match error {
                NotEnded::Refused(_) => &counters.refused,
                _ => &counters.failed,
            });
            tracing::warn!(client, peer, calling, reason, %error, "session not disconnected");
        }
    }
}

async fn disconnect(session: &Session, timers: Timers) -> Result<(), NotEnded> {
    let port = session.client.disconnect_port.ok_or(NotEnded::NoPort)?;
    let nas = session.nas.to_canonical();
    let any: SocketAddr = if nas.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect((nas, port)).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map(|time| time.as_secs()).unwrap_or_default();
    let request = Disconnect {
        user: &session.station.user,
        calling: &session.station.calling,
        session: &session.accounting,
        nas: &session.station.nas,
        nas_address: session.station.nas_address,
        now: u32::try_from(now).unwrap_or(u32::MAX),
    };
    let [identifier] = random();
    let secret = session.client.secret.clone();
    let request = request.encode(identifier, &secret)?;
    let exchange = Exchange::new(request, secret, timers, Duration::ZERO)?;
    let answer = exchange::over_udp(&socket, exchange).await?;
    if answer.code == Code::DisconnectAck {
        return Ok(());
    }
    let cause = answer.first(Type::ERROR_CAUSE);
    let cause = cause.and_then(|value| <[u8; 4]>::try_from(value).ok());
    Err(NotEnded::Refused(error_cause(
        cause.map(u32::from_be_bytes).unwrap_or_default(),
    )))
}
