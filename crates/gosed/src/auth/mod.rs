//! The authentication server: identities of companies, each served by elements that do EAP-TLS themselves.
//!
//! Whoever carries EAP - RADIUS, the guests' own channel - asks [`Authenticators`] for a conversation and passes
//! packets. [`Pool`] is what answers: it chooses the identity by the realm of the peer's name and an element by
//! load, health and measured time.

mod channel;
mod conversation;
mod eap;
mod identity;
mod pool;

pub use channel::EapChannel;
pub use conversation::Conversation;
pub use eap::{Authenticators, Begin, EapConversation, Facts, NoRealm, Pending, Success, Turn};
pub use identity::{Identity, Reply, realm};
pub use pool::{ElementState, Pool, Terms, Tuning};
