//! A link that one guest shares with this node alone: a listener bound to it knows its peer before the first
//! byte, from the interface and never from an address that the guest chose.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gose_client::guest::{ATTACH_PORT, Request, SESSION_PORT};
use tokio::net::{TcpListener, TcpSocket};

use super::driver::Sockets;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Rest after an error of accept, which may last (no descriptors left).
const PAUSE: Duration = Duration::from_millis(100);

/// One of the /30 networks of 169.254.0.0/16 (RFC 3927): the node's address and the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkNetwork(u16);

impl LinkNetwork {
    /// How many there are. The first and the last 256 addresses are reserved (RFC 3927, 2.1).
    const COUNT: u16 = 16_384;

    /// The first network that is free.
    #[must_use]
    pub fn free(taken: impl Fn(Self) -> bool) -> Option<Self> {
        (64..Self::COUNT - 64).map(Self).find(|own| !taken(*own))
    }

    /// The network in which a guest has this address.
    #[must_use]
    pub fn of_guest(address: Ipv4Addr) -> Option<Self> {
        let [169, 254, third, fourth] = address.octets() else {
            return None;
        };
        let network = Self(u16::from_be_bytes([third, fourth]) / 4);
        (network.guest() == address).then_some(network)
    }

    /// The node's address.
    #[must_use]
    pub fn host(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The guest's address.
    #[must_use]
    pub fn guest(self) -> Ipv4Addr {
        self.address(2)
    }

    fn address(self, host: u16) -> Ipv4Addr {
        let [third, fourth] = (self.0 * 4 + host).to_be_bytes();
        Ipv4Addr::new(169, 254, third, fourth)
    }
}

/// The middleware's ports on one link.
pub struct Vif {
    session: TcpListener,
    attach: TcpListener,
}

impl Vif {
    /// Listens on an address of the node, for what comes in by `device` and nothing else.
    ///
    /// # Errors
    /// What the system says: the device or the address is not there, no right to bind to a device.
    pub fn listen(device: &str, address: IpAddr) -> io::Result<Self> {
        Ok(Self {
            session: listen(device, SocketAddr::new(address, SESSION_PORT))?,
            attach: listen(device, SocketAddr::new(address, ATTACH_PORT))?,
        })
    }

    /// Hands over what the guest opens, until it is dropped.
    pub async fn serve(self, sockets: Arc<dyn Sockets>) {
        tokio::join!(
            accept(self.session, Request::Session, &*sockets),
            accept(self.attach, Request::Attach, &*sockets),
        );
    }
}

fn listen(device: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    // What is accepted is bound as well: nothing leaves or enters by another way.
    socket.bind_device(Some(device.as_bytes()))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, request: Request, sockets: &dyn Sockets) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // A refused one is closed, and logged by whoever refuses.
                if socket.set_nodelay(true).is_ok() {
                    sockets.serve(request, Box::new(socket));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a guest's connection was not accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_do_not_meet() {
        let first = LinkNetwork::free(|_| false).unwrap();
        let second = LinkNetwork::free(|one| one == first).unwrap();
        let text = |link: LinkNetwork| (link.host().to_string(), link.guest().to_string());
        assert_eq!(text(first), ("169.254.1.1".into(), "169.254.1.2".into()));
        assert_eq!(text(second), ("169.254.1.5".into(), "169.254.1.6".into()));
        let mut seen = Vec::new();
        while let Some(link) = LinkNetwork::free(|one| seen.contains(&one)) {
            seen.push(link);
            if seen.len() == 100 {
                break;
            }
        }
        assert_eq!(seen.len(), 100);
        assert_eq!(LinkNetwork::free(|_| true), None);
        assert_eq!(LinkNetwork::of_guest(second.guest()), Some(second));
        assert_eq!(LinkNetwork::of_guest(second.host()), None);
        assert_eq!(text(LinkNetwork(16_319)).1, "169.254.254.254");
    }
}
