//! A RADIUS client, over UDP and over TLS, and EAP-TLS of an element through it: what a NAS does for a peer.

mod authentication;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use gose_proto::radius::{
    BuildError, Builder, Code, PacketError, RequestAuthenticator, Secret, Type,
    client::{Access, Answer, Exchange, Step, Timers},
    packet::MAX_PACKET,
};

use crate::Link;

pub use authentication::{AuthenticationError, Report, Round, Station, authenticate};

/// A client of one server.
pub struct Client {
    transport: Transport,
    secret: Secret,
    timers: Timers,
    identifier: u8,
    sent: u64,
}

enum Transport {
    Udp(UdpSocket),
    /// RADIUS over TLS: nothing is retransmitted (RFC 6613, 2.6.1).
    Stream(Box<Link>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The system's.
    #[error("the network: {0}")]
    Io(#[from] io::Error),
    /// The request does not fit into a packet.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The server sends what is no RADIUS packet, on a stream that cannot go on behind it.
    #[error("the server's stream: {0}")]
    Packet(#[from] PacketError),
    /// No answer in time.
    #[error(
        "no answer after {0} transmissions; look at the server's address, at its clients and at the secret"
    )]
    NoAnswer(u32),
    /// No randomness.
    #[error("the system gives no random bytes")]
    Randomness,
}

impl Client {
    /// A client over UDP.
    ///
    /// # Errors
    /// The system's.
    pub fn udp(server: SocketAddr, secret: Secret, timers: Timers) -> io::Result<Self> {
        let any: SocketAddr = if server.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0_u16; 8], 0).into()
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Ok(Self {
            transport: Transport::Udp(socket),
            secret,
            timers,
            identifier: 0,
            sent: 0,
        })
    }

    /// A client over TLS (RFC 6614), whose secret is a constant. `patience` is how long it waits for an answer.
    ///
    /// # Errors
    /// The system's.
    pub fn radsec(link: Link, patience: Duration) -> io::Result<Self> {
        let secret = Secret::new(Secret::RADSEC.to_vec()).ok_or(io::ErrorKind::InvalidInput)?;
        let timers = Timers {
            initial: patience,
            longest: patience,
            count: 1,
            patience,
        };
        Ok(Self {
            transport: Transport::Stream(Box::new(link)),
            secret,
            timers,
            identifier: 0,
            sent: 0,
        })
    }

    /// Packets sent so far, retransmissions included.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends an EAP response; gives the checked answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn access(&mut self, access: &Access<'_>) -> Result<Answer, ClientError> {
        self.ask(|identifier, authenticator, secret| {
            access.encode(identifier, authenticator, secret)
        })
    }

    /// Asks whether the server is there (RFC 5997).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<Answer, ClientError> {
        self.ask(|identifier, authenticator, secret| {
            Builder::new(Code::StatusServer, identifier).request(authenticator, secret)
        })
    }

    /// Tells the server what a session used (RFC 2866).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn account(&mut self, attributes: &[(Type, &[u8])]) -> Result<Answer, ClientError> {
        self.ask(|identifier, _, secret| {
            Builder::without_message_authenticator(Code::AccountingRequest, identifier)
                .attributes(attributes.iter().copied())
                .digest_request(secret)
        })
    }

    /// Sends a request that `build` makes of an identifier and a random authenticator, until it is answered.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(
        &mut self,
        build: impl FnOnce(u8, &RequestAuthenticator, &Secret) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Answer, ClientError> {
        self.identifier = self.identifier.wrapping_add(1);
        let authenticator = RequestAuthenticator(random()?);
        let request = build(self.identifier, &authenticator, &self.secret)?;
        let start = Instant::now();
        let mut exchange = Exchange::new(
            request,
            self.secret.clone(),
            self.timers.clone(),
            Duration::ZERO,
        )?;
        loop {
            let [varies] = random()?;
            match exchange.poll(start.elapsed(), varies) {
                Step::Send(bytes) => {
                    self.transport.send(bytes)?;
                    self.sent += 1;
                }
                Step::Wait(until) => {
                    let patience = until.saturating_sub(start.elapsed());
                    if let Some(bytes) = self.transport.receive(patience)?
                        && let Ok(answer) = exchange.receive(&bytes)
                    {
                        return Ok(answer);
                    }
                }
                Step::GiveUp => return Err(ClientError::NoAnswer(exchange.sent())),
            }
        }
    }
}

impl Transport {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => match socket.send(bytes) {
                // The answer to an earlier packet: nobody listened then. It is tried again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                sent => sent.map(drop),
            },
            Self::Stream(link) => {
                link.write_all(bytes)?;
                link.flush()
            }
        }
    }

    /// A packet, or nothing within `patience`.
    fn receive(&mut self, patience: Duration) -> Result<Option<Vec<u8>>, ClientError> {
        let patience = patience.max(Duration::from_millis(1));
        let received = match self {
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(patience))?;
                let mut bytes = vec![0; MAX_PACKET];
                socket.recv(&mut bytes).map(|length| {
                    bytes.truncate(length);
                    bytes
                })
            }
            Self::Stream(link) => {
                link.set_timeout(patience);
                return framed(link);
            }
        };
        match received {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_silence(&error) => Ok(None),
            // Nobody listens there; the exchange goes on until its patience ends.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(patience.min(Duration::from_millis(100)));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// One packet of a stream: its Length field frames it (RFC 6613, 2.6).
fn framed(link: &mut Link) -> Result<Option<Vec<u8>>, ClientError> {
    let mut bytes = vec![0; 4];
    match link.read_exact(&mut bytes) {
        Err(error) if is_silence(&error) => return Ok(None),
        read => read?,
    }
    let length = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    if !(20..=MAX_PACKET).contains(&length) {
        return Err(PacketError::Length(length).into());
    }
    bytes.resize(length, 0);
    link.read_exact(&mut bytes[4..])?;
    Ok(Some(bytes))
}

fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn random<const N: usize>() -> Result<[u8; N], ClientError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ClientError::Randomness)?;
    Ok(bytes)
}
