//! RADIUS: packets (RFC 2865, 2866, 2869), EAP over them (RFC 3579), keys for the NAS (RFC 2548), the status
//! query (RFC 5997), dynamic authorisation (RFC 5176), and the machines of both ends (RFC 5080).
//!
//! RADIUS knows nothing of cards: what it carries is EAP packets. Every Access packet has a
//! Message-Authenticator, in answers as the first attribute
//! (draft-ietf-radext-deprecating-radius, "BlastRADIUS").

pub mod attribute;
pub mod authenticator;
pub mod client;
pub mod disconnect;
pub mod dynamic;
pub mod mppe;
pub mod packet;
pub mod request;
pub mod server;

pub use attribute::{Attribute, Type, Vendor};
pub use authenticator::{RequestAuthenticator, ResponseAuthenticator, Secret};
pub use packet::{BuildError, Builder, Code, Packet, PacketError};
