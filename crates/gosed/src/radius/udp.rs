//! RADIUS over UDP (RFC 2865, 3).

use std::{
    io,
    net::{SocketAddr, UdpSocket as StdSocket},
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use gose_proto::radius::{
    packet::MAX_PACKET,
    server::{Origin, Service},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::UdpSocket;

use super::{
    Clients,
    front::{self, Channel, Front},
};

/// Bytes that wait in the system while all tasks are busy.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A socket that is bound and not served yet.
pub struct Socket {
    socket: Arc<UdpSocket>,
    service: Service,
}

/// Binds a socket; an IPv6 one takes IPv6 only, so that both wildcards can be bound. Port 0 takes a free one.
///
/// # Errors
/// What the system says.
pub fn bind(address: SocketAddr, service: Service) -> io::Result<Socket> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // The system grants what it allows; the default is what remains.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    rustix::net::bind(&socket, &address)?;
    let socket = UdpSocket::from_std(StdSocket::from(socket))?;
    Ok(Socket {
        socket: Arc::new(socket),
        service,
    })
}

struct Udp(Arc<UdpSocket>);

impl Channel for Udp {
    fn send(&self, to: Origin, bytes: &[u8]) {
        if let Err(error) = self.0.try_send_to(bytes, to.address) {
            tracing::debug!(to = %to.address, %error, "an answer was not sent");
        }
    }
}

impl Socket {
    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves clients until the task is dropped. `clients` may change meanwhile.
    pub async fn serve(self, front: Arc<Front>, clients: Arc<ArcSwap<Clients>>) {
        let channel = front.open(Arc::new(Udp(self.socket.clone())));
        let ticking: Weak<Front> = Arc::downgrade(&front);
        let tick = front::tick(ticking);
        tokio::select! {
            () = receive(&self.socket, self.service, channel, &front, &clients) => {}
            () = tick => {}
        }
        front.close(channel);
    }
}

async fn receive(
    socket: &UdpSocket,
    service: Service,
    channel: u64,
    front: &Arc<Front>,
    clients: &ArcSwap<Clients>,
) {
    // One byte more than a packet may have: longer ones are seen to be too long.
    let mut buffer = vec![0; MAX_PACKET + 1];
    loop {
        let (length, address) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer comes back here; it concerns one client alone.
            Err(error) => {
                tracing::debug!(%error, "receiving");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let clients = clients.load();
        match clients.find(address.ip()) {
            Some(client) => front.receive(
                Origin {
                    address,
                    channel,
                    service,
                },
                client,
                &buffer[..length],
            ),
            None => {
                front.stranger();
                tracing::debug!(%address, "a packet of nobody that is a client");
            }
        }
    }
}
