//! What answers EAP: the joint between RADIUS and the elements.

use std::{future::Future, pin::Pin};

use gose_proto::radius::{Type, request::Station};
use zeroize::Zeroizing;

/// Something that comes later.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The server's elements.
pub trait Authenticators: Send + Sync {
    /// Binds a conversation to an element. The peer's EAP-Response/Identity comes to it as the first response.
    fn begin(&self, begin: Begin) -> Pending<'_, Result<Box<dyn EapConversation>, NoRoom>>;
}

/// A conversation that begins.
#[derive(Debug, Clone)]
pub struct Begin {
    /// What the peer says it is called (RFC 7542): it chooses the server's identity by its realm, and nothing else.
    pub identity: String,
    /// The client that asks.
    pub client: String,
    /// Where the peer is.
    pub station: Station,
}

/// No element is free, or none serves the realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRoom {
    /// All elements are busy.
    Busy,
    /// No identity for this realm.
    Realm,
}

/// One conversation, bound to one element until it is dropped.
pub trait EapConversation: Send {
    /// Takes a response of the peer.
    fn receive(&mut self, response: Vec<u8>) -> Pending<'_, Turn>;

    /// The element, for the record.
    fn element(&self) -> String;
}

/// What a response came to.
pub enum Turn {
    /// Send this request.
    Request(Vec<u8>),
    /// EAP discards the response silently.
    Discarded,
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
    /// The name in the certificate that the element verified.
    pub peer: String,
    /// What policy gives to this peer.
    pub reply: Vec<(Type, Vec<u8>)>,
    /// For the record, and for EAP-Key-Name.
    pub facts: Facts,
}

/// What is known of a TLS session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Protocol version as on the line: 0303 or 0304.
    pub version: Option<u16>,
    /// Cipher suite as on the line.
    pub suite: Option<u16>,
    /// Whether it resumed another one.
    pub resumed: bool,
    /// Session-Id of EAP-TLS (RFC 5216, 2.3; RFC 9190, 2.3).
    pub session_id: Vec<u8>,
}
