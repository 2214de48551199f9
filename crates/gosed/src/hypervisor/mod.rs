//! The hypervisor role: the secure middleware between guests and their elements.
//!
//! A guest reaches its own element and no other, after a TLS handshake that only this hypervisor's
//! element can sign, for a token that names this guest.

mod actions;
pub mod attach;
pub mod authenticator;
mod channels;
pub mod domain;
pub mod driver;
pub mod eap_relay;
pub mod gate;
pub mod generations;
pub mod guest_tls;
pub mod journal;
pub mod key;
pub mod libvirt;
mod machines;
pub mod measure;
pub mod middleware;
pub mod namespace;
pub mod policy;
pub mod pool;
mod port;
pub mod process;
mod publish;
mod start;
pub mod token;
pub mod vif;
pub mod xen;

pub(crate) use actions::perform;
pub use middleware::{Middleware, MiddlewareError};
pub use publish::Publisher;
