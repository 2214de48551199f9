//! TLS connections: accepted, admitted, handed to who speaks their protocol.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Handlers, RACS, Sessions, Stop, handler::speak, tls::Tls};
use crate::{
    clock::Clock,
    config::Limits,
    grid::{Grid, Peer},
    metrics::{Metrics, TlsRefusal},
};

/// A listener of TLS with client certificates.
pub struct Listener {
    tcp: TcpListener,
    shared: Arc<Shared>,
}

/// What every connection uses.
pub(crate) struct Shared {
    /// The elements.
    pub(crate) grid: Arc<Grid>,
    /// Certificates, as of the last reload.
    pub(crate) tls: ArcSwap<Tls>,
    /// Open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// Protocols beside RACS.
    pub(crate) handlers: Handlers,
    /// Bounds and time limits.
    pub(crate) limits: Arc<ArcSwap<Limits>>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
}

impl Listener {
    /// Listens; port 0 takes a free one.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn bind(address: SocketAddr, shared: Arc<Shared>) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { tcp, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until the node stops; then requests that run get the drain time.
    pub async fn serve(self, stop: Stop) {
        let permits = Arc::new(Semaphore::new(
            self.shared.limits.load().connections as usize,
        ));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.stopped() => break,
                accepted = accept(&self.tcp, &permits) => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Some((tcp, permit)) = accepted else {
                continue;
            };
            let (shared, stop) = (self.shared.clone(), stop.clone());
            connections.spawn(async move {
                connection(tcp, shared, stop).await;
                drop(permit);
            });
        }
        drop(self.tcp);
        let drain = self.shared.limits.load().drain_timeout_s.duration();
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(drain, all).await.is_err() {
            tracing::warn!(
                left = connections.len(),
                "connections are cut: the drain time is over"
            );
        }
    }
}

/// A connection and its place. Connections beyond the bound wait in the system's queue.
async fn accept(
    tcp: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match tcp.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            // File descriptors may have run out: others have to close first.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn connection(tcp: TcpStream, shared: Arc<Shared>, stop: Stop) {
    let _ = tcp.set_nodelay(true);
    let from = tcp
        .peer_addr()
        .map_or_else(|_| "?".to_owned(), |address| address.to_string());
    Metrics::add(&shared.metrics.connections);
    let stream = match Box::pin(handshake(tcp, &shared, stop.clone())).await {
        Ok(stream) => stream,
        Err((cause, reason)) => {
            Metrics::add(&shared.metrics.handshakes_failed);
            shared.metrics.tls_refused.add(cause);
            tracing::info!(from, reason, "refused: handshake");
            return;
        }
    };
    serve(stream, &from, shared, stop).await;
}

async fn handshake(
    tcp: TcpStream,
    shared: &Shared,
    stop: Stop,
) -> Result<TlsStream<TcpStream>, (TlsRefusal, String)> {
    let acceptor = TlsAcceptor::from(shared.tls.load().server.clone());
    let limit = shared.limits.load().handshake_timeout_s.duration();
    tokio::select! {
        done = timeout(limit, acceptor.accept(tcp)) => match done {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err((TlsRefusal::of(&error), error.to_string())),
            Err(_) => Err((TlsRefusal::Slow, "the handshake took too long".to_owned())),
        },
        () = stop.stopped() => Err((TlsRefusal::Stopping, "the node stops".to_owned())),
    }
}

async fn serve(stream: TlsStream<TcpStream>, from: &str, shared: Arc<Shared>, stop: Stop) {
    let (_, tls) = stream.get_ref();
    let chain = tls.peer_certificates().unwrap_or_default();
    let admission = shared.tls.load().admission.clone();
    let admitted = match admission.admit(chain, Clock::now()) {
        Ok(admitted) => admitted,
        Err(error) => {
            shared.metrics.tls_refused.add(TlsRefusal::Admission);
            tracing::info!(from, %error, "refused: certificate");
            return;
        }
    };
    let peer = Peer::new(shared.grid.new_sid(), admitted.names);
    let registered = shared.sessions.register(&peer, chain);
    // Certificates may have been revoked between the handshake and the register, and generations told.
    let admission_now = shared.tls.load().admission.clone();
    let may_differ = !Arc::ptr_eq(&admission, &admission_now) || peer.names.is_machine();
    if may_differ && admission_now.verify(chain).is_err() {
        return;
    }
    Metrics::add(&shared.metrics.sessions);
    tracing::info!(peer = %peer, from, "session begins");
    let handler = tls
        .alpn_protocol()
        .filter(|alpn| *alpn != RACS)
        .and_then(|alpn| shared.handlers.get(alpn))
        .cloned();
    let who = (peer, Some(admitted.identity));
    let limits = shared.limits.load_full();
    let with = (&shared.grid, &*limits);
    speak(stream, handler.as_ref(), who, with, stop).await;
    drop(registered);
}
