//! The RADIUS servers of a hypervisor: over UDP, the next one where one is silent; or over TLS.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gose_proto::radius::{
    BuildError, Builder, PacketError, RequestAuthenticator, Secret,
    client::{Answer, Exchange, Timers},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::AuthenticatorError;
use crate::{
    config, keys,
    listen::tls::certificates,
    radius::{
        exchange::{self, Unanswered},
        fresh,
    },
};

/// For each server, so that a guest hears within its minute of a frame from the second one or the third.
const TIMERS: Timers = Timers {
    initial: Duration::from_secs(2),
    longest: Duration::from_secs(8),
    count: 4,
    patience: Duration::from_secs(15),
};

/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);

/// Time for an answer over TLS.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a server was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAsked {
    #[error("RADIUS server {0}: {1}")]
    Unanswered(String, Unanswered),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// The servers.
pub(super) enum Servers {
    Udp {
        addresses: Vec<SocketAddr>,
        secret: Secret,
        /// The one that answered last: the next conversation begins there.
        good: AtomicUsize,
    },
    Tls {
        node: String,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
        secret: Secret,
    },
}

/// What the section shares with its servers.
pub(super) fn secret(
    section: &config::Authenticator,
) -> Result<Option<Secret>, AuthenticatorError> {
    let Some(place) = &section.secret else {
        return Ok(None);
    };
    let mut bytes = keys::secret(place)?;
    let secret = Secret::new(std::mem::take(&mut *bytes));
    secret.map(Some).ok_or(AuthenticatorError::EmptySecret)
}

impl Servers {
    pub(super) fn new(
        section: &config::Authenticator,
        secret: Option<&Secret>,
        tls: &config::Tls,
        identity: &gose_client::tls::Identity,
    ) -> Result<Self, AuthenticatorError> {
        let Some(radsec) = &section.radsec else {
            return Ok(Self::Udp {
                addresses: section.servers.clone(),
                secret: secret.cloned().ok_or(AuthenticatorError::EmptySecret)?,
                good: AtomicUsize::new(0),
            });
        };
        let mut anchors = Vec::new();
        for file in &tls.node_anchor_files {
            anchors.extend(certificates(file)?);
        }
        let anchors = gose_client::tls::anchors(anchors)?;
        let mut config = (*gose_client::tls::client_config(identity, anchors, &[])?).clone();
        // RADIUS over TLS offers no ALPN (RFC 6614).
        config.alpn_protocols.clear();
        Ok(Self::Tls {
            node: radsec.node.clone(),
            name: gose_client::tls::server_name(&radsec.name)?,
            config: Arc::new(config),
            secret: Secret::new(Secret::RADSEC.to_vec()).ok_or(AuthenticatorError::EmptySecret)?,
        })
    }

    /// A conversation: its requests go to one server.
    pub(super) fn conversation(&self) -> Conversation<'_> {
        Conversation {
            servers: self,
            server: None,
            identifier: 0,
        }
    }
}

pub(super) struct Conversation<'a> {
    servers: &'a Servers,
    /// The one that answered first.
    server: Option<Server>,
    identifier: u8,
}

enum Server {
    Udp(SocketAddr, UdpSocket),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conversation<'_> {
    /// Sends a request that `build` makes of an identifier, until it is answered.
    pub(super) async fn ask(&mut self, build: impl Fn(u8) -> Builder) -> Result<Answer, NotAsked> {
        self.identifier = self.identifier.wrapping_add(1);
        let exchange = |secret: &Secret| {
            let request = build(self.identifier).request(&RequestAuthenticator(fresh()), secret)?;
            Ok::<_, NotAsked>(Exchange::new(
                request,
                secret.clone(),
                TIMERS,
                Duration::ZERO,
            )?)
        };
        match self.servers {
            Servers::Udp {
                addresses,
                secret,
                good,
            } => {
                if let Some(Server::Udp(address, socket)) = &self.server {
                    let asked = exchange::over_udp(socket, exchange(secret)?).await;
                    return asked.map_err(|error| unanswered(address, error));
                }
                let first = good.load(Ordering::Relaxed);
                let mut last = None;
                for step in 0..addresses.len() {
                    let at = (first + step) % addresses.len();
                    let address = addresses[at];
                    let asked = async {
                        let socket = connected(address).await?;
                        let answer = exchange::over_udp(&socket, exchange(secret)?).await;
                        Ok((socket, answer.map_err(|error| unanswered(&address, error))?))
                    };
                    match asked.await {
                        Ok((socket, answer)) => {
                            good.store(at, Ordering::Relaxed);
                            self.server = Some(Server::Udp(address, socket));
                            return Ok(answer);
                        }
                        Err(NotAsked::Unanswered(server, error)) => {
                            tracing::warn!(server, %error, "the next RADIUS server is asked");
                            last = Some(NotAsked::Unanswered(server, error));
                        }
                        Err(error) => return Err(error),
                    }
                }
                Err(last.unwrap_or_else(|| unanswered(&"none", Unanswered::NoAnswer(0))))
            }
            Servers::Tls {
                node,
                name,
                config,
                secret,
            } => {
                let mut stream = match self.server.take() {
                    Some(Server::Tls(stream)) => stream,
                    _ => {
                        let connected = timeout(CONNECT, connect(node, name, config)).await;
                        let connected = connected.map_err(io::Error::from).flatten();
                        Box::new(connected.map_err(|error| unanswered(node, error.into()))?)
                    }
                };
                let asked = exchange::over_stream(&mut stream, exchange(secret)?, PATIENCE).await;
                let answer = asked.map_err(|error| unanswered(node, error))?;
                self.server = Some(Server::Tls(stream));
                Ok(answer)
            }
        }
    }
}

fn unanswered(server: &impl ToString, error: Unanswered) -> NotAsked {
    NotAsked::Unanswered(server.to_string(), error)
}

async fn connected(address: SocketAddr) -> Result<UdpSocket, NotAsked> {
    let any: SocketAddr = if address.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let connected = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(address).await?;
        Ok(socket)
    };
    connected
        .await
        .map_err(|error: io::Error| unanswered(&address, error.into()))
}

async fn connect(
    node: &str,
    name: &ServerName<'static>,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(node).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(config.clone())
        .connect(name.clone(), tcp)
        .await
}
