//! The authentication server: identities of companies, each served by elements that do EAP-TLS themselves.
//!
//! An identity may also have its TLS on the host and its key alone in an element ([`OnHost`]).
//!
//! Whoever carries EAP - RADIUS, the guests' own channel - asks [`Authenticators`] for a conversation and passes
//! packets. [`Pool`] is what answers: it chooses the identity by the realm of the peer's name and an element by
//! load, health and measured time.

mod acquainted;
mod channel;
mod conversation;
mod eap;
mod element;
mod host;
mod identity;
mod pool;
mod revoked;
mod tls;
mod verdict;

pub use channel::EapChannel;
pub use conversation::Conversation;
pub use eap::{
    Authenticators, Begin, CertificateId, EapConversation, Facts, NoRealm, Pending, Success, Turn,
};
pub use host::{Certificates, OnHost};
pub use identity::{Identity, Reply, realm};
pub use pool::{ElementState, Pool, Terms, Tuning};
pub use revoked::{Revoked, RevokedError};
pub use verdict::Verdicts;
