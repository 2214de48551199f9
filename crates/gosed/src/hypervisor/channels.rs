//! What one domain opens: its attach channel, its sessions with its own elements and with the authentication server.

use std::sync::Arc;

use gose_client::{guest::Request, tls::EAP};
use gose_element::drive::piv::Slot;
use gose_proto::{
    identity::attach::{AttachError, Chain},
    racs::Mode,
};
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    attach::{self, IdentityTokens},
    authenticator,
    domain::Domain,
    driver::{Socket, Sockets},
    eap_relay,
    middleware::{Middleware, lock},
    port::Why,
    token::Subject,
};
use crate::{
    clock::Clock,
    grid::{Bound, Names, Peer},
    keys,
    listen::racs,
};

/// Sockets that one guest may have open at a time.
const SOCKETS: usize = 32;

/// What one domain opens.
pub(super) struct DomainSockets(Arc<Channels>);

impl DomainSockets {
    pub(super) fn new(
        middleware: Arc<Middleware>,
        domain: Arc<Domain>,
        bound: Arc<Bound>,
        tls: ServerConfig,
    ) -> Self {
        Self(Arc::new(Channels {
            middleware,
            domain,
            bound,
            tls: Arc::new(tls),
            permits: Arc::new(Semaphore::new(SOCKETS)),
        }))
    }
}

impl DomainSockets {
    /// The guest runs no more: its port closes, and is tried to be closed until it is.
    fn close_port(&self) {
        let middleware = self.0.middleware.clone();
        let (vm, generation) = (self.0.domain.vm(), self.0.domain.generation());
        tokio::spawn(async move {
            if let Some(authenticator) = &middleware.authenticator {
                let ports = authenticator.ports().clone();
                authenticator::close(ports.clone(), vm, Why::Detached, move |session| {
                    session.generation == generation
                })
                .await;
                ports.forget(vm);
            }
        });
    }
}

struct Channels {
    middleware: Arc<Middleware>,
    domain: Arc<Domain>,
    bound: Arc<Bound>,
    tls: Arc<ServerConfig>,
    permits: Arc<Semaphore>,
}

impl Sockets for DomainSockets {
    fn serve(&self, request: Request, socket: Socket) -> bool {
        let channels = self.0.clone();
        let vm = channels.domain.vm();
        let Ok(permit) = channels.permits.clone().try_acquire_owned() else {
            tracing::warn!(%vm, "refused: the guest has too many sockets open");
            return false;
        };
        if channels.domain.is_suspended() {
            tracing::warn!(%vm, "refused: the guest is paused");
            return false;
        }
        let guests = channels.middleware.guests();
        match guests.get(&vm) {
            Some(guest) => {
                let mut tasks = lock(&guest.tasks);
                while tasks.try_join_next().is_some() {}
                tasks.spawn(channels.clone().channel(request, socket, permit));
                true
            }
            None => false,
        }
    }

    fn ended(&self) {
        // Whoever opens its port looks first whether it still runs.
        self.0.domain.end();
        self.close_port();
        self.0.middleware.ended(&self.0.domain);
    }
}

impl Channels {
    async fn channel(
        self: Arc<Self>,
        request: Request,
        socket: Socket,
        permit: OwnedSemaphorePermit,
    ) {
        match request {
            Request::Attach => {
                let identities = self.clone();
                if let Err(error) = attach::serve(socket, self.domain.clone(), identities).await {
                    tracing::warn!(vm = %self.domain.vm(), %error, "attach channel closed");
                }
            }
            Request::Session => self.session(socket).await,
        }
        drop(permit);
    }

    async fn session(&self, socket: Socket) {
        let vm = self.domain.vm();
        let limit = self.middleware.limits.load().handshake_timeout_s.duration();
        let accepted = timeout(limit, TlsAcceptor::from(self.tls.clone()).accept(socket)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::warn!(%vm, %error, "refused: handshake of a guest");
                return;
            }
            Err(_) => {
                tracing::warn!(%vm, "refused: the handshake of a guest took too long");
                return;
            }
        };
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == EAP => self.eap(stream).await,
            _ => self.racs(stream).await,
        }
    }

    /// The guest's own elements, local and remote; consecutive APDUs go upstream as one request.
    async fn racs(&self, stream: TlsStream<Socket>) {
        let Middleware {
            grid, limits, stop, ..
        } = &*self.middleware;
        let peer = Peer::new(grid.new_sid(), Names::Guest(self.bound.clone()));
        tracing::info!(peer = %peer, "guest session begins");
        let ended = racs::serve(
            stream,
            grid,
            &peer,
            &limits.load_full(),
            Mode::Gather,
            stop.clone(),
        )
        .await;
        tracing::info!(peer = %peer, reason = %ended, "guest session ended");
    }

    async fn eap(&self, mut stream: TlsStream<Socket>) {
        let vm = self.domain.vm();
        if let Some(authenticator) = &self.middleware.authenticator {
            authenticator.converse(&self.domain, &mut stream).await;
            let _ = timeout(eap_relay::STEP, stream.shutdown()).await;
            return;
        }
        let Some(upstream) = self.middleware.upstream.load_full() else {
            tracing::warn!(%vm, "refused: no authentication server is configured");
            let _ = eap_relay::close(&mut stream).await;
            return;
        };
        let mut server = match upstream.connect().await {
            Ok(server) => server,
            Err(error) => {
                tracing::error!(%vm, node = %upstream.node, %error, "the authentication server cannot be reached");
                let _ = eap_relay::close(&mut stream).await;
                return;
            }
        };
        match eap_relay::relay(&mut stream, &mut server).await {
            Ok(relayed) => tracing::info!(%vm, ?relayed, "EAP conversation relayed"),
            Err(error) => tracing::warn!(%vm, %error, "EAP conversation broke"),
        }
    }
}

impl IdentityTokens for Channels {
    fn joined(&self, domain: &Domain) {
        self.middleware.driver.joined(domain.vm());
    }

    fn identity(&self, domain: &Domain) -> Result<Chain, AttachError> {
        let vm = domain.vm();
        let seid = *self.bound.seids.first().ok_or(AttachError::NoElement)?;
        // The key is asked of the element itself, not of the guest.
        let key = keys::public_key(&self.middleware.grid, seid, Slot::AUTHENTICATION);
        let key = key.map_err(|error| {
            tracing::warn!(%vm, %error, "no identity token: the guest's element shows no key");
            AttachError::NoElement
        })?;
        let subject = Subject::Own(&key);
        let issued = domain
            .issuer()
            .issue(vm, domain.generation(), subject, Clock::seconds());
        let issued = issued.map_err(|error| {
            tracing::error!(%vm, %error, "no identity token");
            AttachError::Element
        })?;
        tracing::info!(%vm, serial = %issued.serial, "identity token issued");
        Ok(issued.chain)
    }
}
