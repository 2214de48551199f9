//! Where a node is.

use std::{
    io::{self, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use crate::{Connection, Error, Link, guest::Guest};

/// Where the guest service listens.
pub const SERVICE: &str = "/run/gose/guest.sock";

/// What a program says first to the guest service if it gives way between two requests: another program may
/// then have the element, and the next request that does not begin with POWERON is told that it is in use.
pub const YIELD: &[u8] = b"YIELD\r\n";

/// Time for a TCP connection, and again for the TLS handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// A node that can be called, again and again.
#[derive(Clone)]
pub enum Endpoint {
    /// TLS with certificates on both sides.
    Tls {
        /// Host and port.
        address: String,
        /// What the node's certificate must carry.
        name: ServerName<'static>,
        /// See [`crate::tls::client_config`].
        config: Arc<ClientConfig>,
    },
    /// The administrator's socket of a node on this machine.
    Unix(PathBuf),
    /// The guest service of this machine.
    Service {
        /// Its socket.
        path: PathBuf,
        /// Whether this program gives way; see [`YIELD`].
        yields: bool,
    },
    /// A guest's middleware: the guest's own elements.
    Guest(Arc<Guest>),
}

impl Endpoint {
    /// The same, giving way to other programs where a service can do that.
    #[must_use]
    pub fn yielding(self) -> Self {
        match self {
            Self::Service { path, .. } => Self::Service { path, yields: true },
            other => other,
        }
    }

    /// Connects, with TLS where it belongs, within 10 s for each.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Tls`], [`Error::Guest`]
    pub fn link(&self) -> Result<Link, Error> {
        match self {
            Self::Tls {
                address,
                name,
                config,
            } => {
                let socket = tcp(address).map_err(|cause| Error::Connect {
                    address: address.clone(),
                    cause,
                })?;
                Link::tls(socket, name.clone(), config.clone(), CONNECT)
            }
            Self::Unix(path) => UnixStream::connect(path)
                .and_then(Link::plain)
                .map_err(|cause| Error::Connect {
                    address: path.display().to_string(),
                    cause,
                }),
            Self::Service { path, yields } => UnixStream::connect(path)
                .and_then(|mut stream| {
                    if *yields {
                        stream.write_all(YIELD)?;
                    }
                    Link::plain(stream)
                })
                .map_err(|cause| Error::Connect {
                    address: path.display().to_string(),
                    cause,
                }),
            Self::Guest(guest) => Ok(guest.link()?),
        }
    }

    /// A RACS session.
    ///
    /// # Errors
    /// As [`Endpoint::link`].
    pub fn connect(&self) -> Result<Connection, Error> {
        self.link().map(Connection::new)
    }
}

fn tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
