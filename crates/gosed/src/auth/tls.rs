//! Where a conversation's TLS runs: in a server element, or on the host with the key alone in an element.

use gose_element::drive::eap_tls::{Reply, SessionKeys};
use gose_proto::radius::Type;
use zeroize::Zeroizing;

use super::{Identity, element::ElementTls, host::HostTls};

/// Why a conversation fails, for the record.
pub(super) struct Broken(pub(super) String);

/// What a conversation came to.
pub(super) struct Ended {
    pub(super) msk: Zeroizing<[u8; 64]>,
    pub(super) session_id: Vec<u8>,
    /// The certificate that was verified.
    pub(super) certificate: Zeroizing<Vec<u8>>,
}

/// The server's end of one conversation.
pub(super) enum Tls {
    Element(ElementTls),
    Host(Box<HostTls>),
}

impl Tls {
    /// The identity that the conversation is with.
    pub(super) fn identity(&self) -> &Identity {
        match self {
            Self::Element(element) => element.identity(),
            Self::Host(host) => host.identity(),
        }
    }

    /// Whether a certified name may come in.
    pub(super) fn admits(&self, name: &str) -> bool {
        match self {
            Self::Element(element) => element.admits(name),
            Self::Host(host) => host.admits(name),
        }
    }

    /// What clients are told about those who come in.
    pub(super) fn reply(&self) -> Vec<(Type, Vec<u8>)> {
        match self {
            Self::Element(element) => element.reply(),
            Self::Host(host) => host.reply(),
        }
    }

    /// For the record: which element works.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Element(element) => element.place(),
            Self::Host(host) => host.place(),
        }
    }

    /// Waits until there is somebody to do TLS, at most the pool's patience.
    pub(super) async fn is_ready(&mut self) -> bool {
        match self {
            Self::Element(element) => element.is_ready().await,
            Self::Host(host) => host.is_ready().await,
        }
    }

    /// A flight of the peer, packet by packet; the first flight begins with its EAP-Response/Identity.
    pub(super) async fn deliver(
        &mut self,
        packets: &[Vec<u8>],
        begins: bool,
    ) -> Result<Reply, Broken> {
        match self {
            Self::Element(element) => element.deliver(packets, begins).await,
            Self::Host(host) => host.deliver(packets, begins),
        }
    }

    /// The fragments behind the first one of the server's flight.
    pub(super) async fn rest_of(&mut self, first: &[u8]) -> Result<Vec<Vec<u8>>, Broken> {
        match self {
            Self::Element(element) => element.rest_of(first).await,
            Self::Host(host) => host.rest_of(first),
        }
    }

    /// Keys and peer, once EAP-Success is there.
    pub(super) async fn ended(&mut self) -> Result<Ended, Broken> {
        match self {
            Self::Element(element) => element.ended().await,
            Self::Host(host) => host.ended(),
        }
    }

    /// Keys of the session, once.
    pub(super) async fn session_keys(&mut self) -> Result<SessionKeys, Broken> {
        match self {
            Self::Element(element) => element.session_keys().await,
            Self::Host(host) => host.session_keys(),
        }
    }

    /// An element that does not do what it should rests.
    pub(super) fn sick(&mut self, reason: &str) -> Broken {
        if let Self::Element(element) = self {
            element.rest();
        }
        Broken(reason.into())
    }

    /// Gives back what the conversation holds.
    pub(super) fn let_go(&mut self) {
        match self {
            Self::Element(element) => element.let_go(),
            Self::Host(host) => host.let_go(),
        }
    }
}
