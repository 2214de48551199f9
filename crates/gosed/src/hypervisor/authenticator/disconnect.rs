//! Disconnect-Requests to this hypervisor (RFC 5176): the ports of the sessions that they mean close.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use gose_proto::radius::{
    Secret,
    dynamic::{Cause, Request, WINDOW},
    packet::MAX_PACKET,
};
use tokio::{net::UdpSocket, task::spawn_blocking};

use crate::{
    clock::Clock,
    config,
    hypervisor::port::{Ports, Why},
    radius::Network,
};

/// Answers kept for packets that come again: as long as their Event-Timestamps count, both ways.
const KEPT: Duration = Duration::from_secs(2 * WINDOW as u64);

/// So many at most; beyond, nothing is taken until the oldest may go.
const ANSWERS: usize = 1024;

/// Where Disconnect-Requests come in.
pub(super) struct DisconnectPort {
    socket: UdpSocket,
    secret: Secret,
    clients: Vec<Network>,
    servers: Vec<SocketAddr>,
    nas: String,
    answered: VecDeque<Answered>,
}

struct Answered {
    authenticator: [u8; 16],
    at: Instant,
    bytes: Vec<u8>,
}

impl DisconnectPort {
    pub(super) fn bind(
        address: SocketAddr,
        secret: Secret,
        section: &config::Authenticator,
        nas: &str,
    ) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UdpSocket::from_std(socket)?,
            secret,
            clients: section.disconnect_clients.iter().map(|one| one.0).collect(),
            servers: section.servers.clone(),
            nas: nas.to_owned(),
            answered: VecDeque::new(),
        })
    }

    /// Serves until the task is dropped: one request at a time.
    pub(super) async fn serve(mut self, ports: Arc<Ports>) {
        let mut buffer = vec![0; MAX_PACKET + 1];
        loop {
            let (length, from) = match self.socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "receiving");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            if !self.knows(from) {
                tracing::debug!(%from, "a packet of nobody who may disconnect guests");
                continue;
            }
            if let Some(answer) = self.answer(&buffer[..length], from, &ports).await
                && let Err(error) = self.socket.send_to(&answer, from).await
            {
                tracing::debug!(%from, %error, "an answer was not sent");
            }
        }
    }

    fn knows(&self, from: SocketAddr) -> bool {
        let address = from.ip().to_canonical();
        self.servers.iter().any(|server| server.ip() == address)
            || self.clients.iter().any(|network| network.contains(address))
    }

    /// The answer to a packet; the same one to a packet that comes again.
    async fn answer(
        &mut self,
        bytes: &[u8],
        from: SocketAddr,
        ports: &Arc<Ports>,
    ) -> Option<Vec<u8>> {
        let now = u32::try_from(Clock::seconds()).unwrap_or(u32::MAX);
        let request = match Request::parse(bytes, &self.secret, now) {
            Ok(request) => request,
            Err(reason) => {
                tracing::warn!(%from, %reason, "a request to disconnect was discarded");
                return None;
            }
        };
        let authenticator = request.authenticator();
        let again = |one: &&Answered| one.authenticator == authenticator;
        if let Some(answered) = self.answered.iter().find(again) {
            return Some(answered.bytes.clone());
        }
        let begun = Instant::now();
        while self
            .answered
            .front()
            .is_some_and(|one| begun.duration_since(one.at) > KEPT)
        {
            self.answered.pop_front();
        }
        if self.answered.len() >= ANSWERS {
            tracing::warn!(%from, "a request to disconnect was discarded: too many of them");
            return None;
        }
        let ended = match request.which(&self.nas) {
            Err(cause) => Err(cause),
            Ok(which) => {
                let ports = ports.clone();
                let ended = spawn_blocking(move || {
                    close(&ports, |vm: &str, port: &str, user: &[u8], number: &str| {
                        which.matches(user, vm.as_bytes(), port.as_bytes(), number.as_bytes())
                    })
                });
                ended.await.unwrap_or(Err(Cause::NotRemovable))
            }
        };
        match &ended {
            Ok(sessions) => tracing::info!(%from, sessions, "disconnected as the server asked"),
            Err(cause) => tracing::warn!(%from, ?cause, "a request to disconnect was refused"),
        }
        let bytes = request.answer(ended.map(drop), &self.secret).ok()?;
        let at = begun;
        self.answered.push_back(Answered {
            authenticator,
            at,
            bytes: bytes.clone(),
        });
        Some(bytes)
    }
}

/// Closes the ports of the sessions that are meant: how many they are.
fn close(
    ports: &Arc<Ports>,
    means: impl Fn(&str, &str, &[u8], &str) -> bool,
) -> Result<usize, Cause> {
    let found = ports.find(|vm, session| {
        means(
            &vm.to_string(),
            &ports.name(vm),
            &session.user,
            &session.number,
        )
    });
    let mut removed = 0;
    for (vm, number) in &found {
        match ports.close(*vm, Why::Disconnected, |one| one.number == *number) {
            Ok(closed) => removed += usize::from(closed),
            Err(error) => {
                tracing::error!(%vm, %error, "the guest's port is still open");
                return Err(Cause::NotRemovable);
            }
        }
    }
    if removed == 0 {
        return Err(Cause::NoSession);
    }
    Ok(removed)
}
