//! The joint between what carries EAP and what answers it.

use std::{future::Future, pin::Pin, time::Duration};

use gose_proto::radius::{Type, request::Station};
use zeroize::Zeroizing;

/// Something that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The server's elements.
pub trait Authenticators: Send + Sync {
    /// Begins a conversation. The peer's EAP-Response/Identity comes to it as the first response.
    ///
    /// # Errors
    /// [`NoRealm`].
    fn begin(&self, begin: &Begin) -> Result<Box<dyn EapConversation>, NoRealm>;
}

/// A conversation that begins.
#[derive(Debug, Clone, Default)]
pub struct Begin {
    /// What the peer says it is called (RFC 7542): it chooses the server's identity by its realm, and nothing else.
    pub identity: String,
    /// The client that asks.
    pub client: String,
    /// Where the peer is.
    pub station: Station,
}

/// No identity serves the realm of the peer's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no identity serves this realm")]
pub struct NoRealm;

/// One conversation. With TLS in elements it holds one from the peer's first TLS message on, until it is dropped.
pub trait EapConversation: Send {
    /// Takes a response of the peer.
    fn receive<'a>(&'a mut self, response: &'a [u8]) -> Pending<'a, Turn>;

    /// The element that has it, for the record; empty while none has. With TLS on the host: the one with the key.
    fn element(&self) -> String;
}

/// What a response came to.
pub enum Turn {
    /// Send this request.
    Request(Vec<u8>),
    /// EAP discards the response silently.
    Discarded,
    /// No element is free: the same response may be tried again.
    Busy,
    /// The peer is known and may come in.
    Success(Box<Success>),
    /// The peer may not come in, or the element failed.
    Failure {
        /// EAP-Failure.
        packet: Vec<u8>,
        /// Why, for the record.
        reason: String,
    },
}

/// A success.
pub struct Success {
    /// EAP-Success.
    pub packet: Vec<u8>,
    /// MSK.
    pub msk: Zeroizing<[u8; 64]>,
    /// The name in the certificate that was verified.
    pub peer: String,
    /// That certificate.
    pub certificate: CertificateId,
    /// What policy gives to this peer.
    pub reply: Vec<(Type, Vec<u8>)>,
    /// For the record, and for EAP-Key-Name.
    pub facts: Facts,
}

impl Default for Success {
    fn default() -> Self {
        Self {
            packet: Vec::new(),
            msk: Zeroizing::new([0; 64]),
            peer: String::new(),
            certificate: CertificateId::default(),
            reply: Vec::new(),
            facts: Facts::default(),
        }
    }
}

impl Success {
    /// After what time the peer authenticates again.
    #[must_use]
    pub fn session_timeout(&self) -> Option<Duration> {
        let mut reply = self.reply.iter();
        let (_, value) = reply.find(|(kind, _)| *kind == Type::SESSION_TIMEOUT)?;
        let seconds = u32::from_be_bytes(value.as_slice().try_into().ok()?);
        Some(Duration::from_secs(seconds.into()))
    }
}

/// A certificate, as revocation lists name it (RFC 5280, 5.1.2.3 and 5.1.2.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CertificateId {
    /// The issuer's name in DER.
    pub issuer: Vec<u8>,
    /// Content octets of the serial number.
    pub serial: Vec<u8>,
}

/// What is known of a TLS session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Protocol version as on the line: 0303 or 0304.
    pub version: u16,
    /// Cipher suite as on the line.
    pub suite: u16,
    /// Whether it resumed another one.
    pub resumed: bool,
    /// Session-Id of EAP-TLS (RFC 5216, 2.3; RFC 9190, 2.3).
    pub session_id: Vec<u8>,
}
