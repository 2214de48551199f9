//! EAP (RFC 3748) and EAP-TLS packets (RFC 5216, RFC 9190).

pub mod fragment;
pub mod hello;
pub mod packet;
pub mod records;

pub use fragment::{Fragment, FragmentError, Fragmenter, Reassembled, Reassembler};
pub use hello::Hello;
pub use packet::{Code, Identifier, Packet, PacketError, Type};

/// The two ends of an EAP conversation (RFC 3748, 1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers requests; the TLS client.
    Peer,
    /// Sends requests; the TLS server.
    Authenticator,
}
