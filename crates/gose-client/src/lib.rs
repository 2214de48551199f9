//! RACS over mutual TLS, blocking, on std and rustls: no runtime, no threads, finite time limits.
//!
//! [`Endpoint`] says where a node is, [`Connection`] is a RACS session with it, [`RemoteElement`] is
//! one of its elements as a [`SecureElement`](gose_element::SecureElement).
#![forbid(unsafe_code)]

pub mod admin;
pub mod connection;
pub mod element_key;
pub mod endpoint;
mod error;
pub mod guest;
pub mod identity;
mod link;
pub mod middleware;
#[cfg(feature = "pki")]
pub mod pki;
pub mod radius;
pub mod record;
mod remote;
mod session;
pub mod terminal;
pub mod tls;
pub mod xenstore;

pub use connection::Connection;
pub use endpoint::Endpoint;
pub use error::Error;
pub use link::{Link, Socket};
pub use remote::{Once, RemoteElement};
pub use session::SharedSession;
