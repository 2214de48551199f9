//! `[authentication-server.radius]` taken up: sockets, clients, RadSec.

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use gose_proto::radius::{
    Secret,
    client::Timers,
    server::{Client, Service},
};
use tokio::task::JoinSet;

use super::{Clients, Disconnector, Front, radsec, udp};
use crate::{
    auth::Pool,
    config,
    grid::Grid,
    keys::{self, KeyError},
    listen::tls::TlsError,
};

/// RADIUS, served until it is dropped.
pub struct Server {
    front: Arc<Front>,
    disconnector: Arc<Disconnector>,
    clients: Arc<ArcSwap<Clients>>,
    addresses: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

/// Why RADIUS is not served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] KeyError),
    /// A secret is empty.
    #[error("client {0}: the secret is empty")]
    EmptySecret(String),
    /// Certificates of RadSec.
    #[error("radsec: {0}")]
    Tls(#[from] TlsError),
}

impl Server {
    /// Listens and serves. Called within a runtime.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(
        section: &config::Radius,
        tls: Option<&config::Tls>,
        grid: &Arc<Grid>,
        pool: Arc<Pool>,
    ) -> Result<Self, StartError> {
        let revoked = pool.revoked().clone();
        let front = Front::new(pool, section.limits());
        let sessions = front.sessions().clone();
        let disconnector = Disconnector::new(sessions, revoked, Timers::DEFAULT);
        let clients = Arc::new(ArcSwap::from_pointee(clients(section)?));
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::new();
        let authentication = section
            .listen
            .iter()
            .map(|address| (*address, Service::Authentication));
        let accounting = section
            .accounting
            .iter()
            .map(|address| (*address, Service::Accounting));
        for (address, service) in authentication.chain(accounting) {
            let failed = |cause| StartError::Listen { address, cause };
            let socket = udp::bind(address, service).map_err(failed)?;
            let address = socket.address().map_err(failed)?;
            tracing::info!(%address, ?service, "RADIUS");
            addresses.push(address);
            tasks.spawn(socket.serve(front.clone(), clients.clone()));
        }
        if let (Some(radsec), Some(tls)) = (&section.radsec, tls) {
            let failed = |cause| StartError::Listen {
                address: radsec.listen,
                cause,
            };
            let listener = radsec::Listener::new(radsec, tls, grid, front.clone())?;
            let socket = radsec::bind(radsec.listen).map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            tracing::info!(%address, "RADIUS over TLS");
            addresses.push(address);
            tasks.spawn(listener.serve(socket));
        }
        Ok(Self {
            front,
            disconnector: Arc::new(disconnector),
            clients,
            addresses,
            _tasks: tasks,
        })
    }

    /// Reads the files that the section names; nothing listens.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn check(section: &config::Radius, tls: Option<&config::Tls>) -> Result<(), StartError> {
        clients(section)?;
        if let (Some(radsec), Some(tls)) = (&section.radsec, tls) {
            radsec::check(radsec, tls)?;
        }
        Ok(())
    }

    /// Where it listens, in the order of the configuration; RadSec last.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The front.
    #[must_use]
    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    /// What ends sessions at clients.
    #[must_use]
    pub fn disconnector(&self) -> &Arc<Disconnector> {
        &self.disconnector
    }

    /// Takes the clients of another configuration; everything else stays as it was.
    ///
    /// # Errors
    /// [`StartError`]. What is returned makes the change, which cannot fail.
    pub fn reload(&self, section: &config::Radius) -> Result<impl FnOnce() + '_, StartError> {
        let clients = Arc::new(clients(section)?);
        Ok(move || self.clients.store(clients))
    }
}

fn clients(section: &config::Radius) -> Result<Clients, StartError> {
    let mut all = Vec::new();
    for client in &section.clients {
        let mut secret = keys::secret(&client.secret)?;
        let secret = Secret::new(std::mem::take(&mut *secret))
            .ok_or_else(|| StartError::EmptySecret(client.name.clone()))?;
        all.push((
            client.network.0,
            Arc::new(Client {
                name: client.name.clone(),
                secret,
                disconnect_port: client.disconnect_port,
            }),
        ));
    }
    Ok(Clients::new(all))
}
