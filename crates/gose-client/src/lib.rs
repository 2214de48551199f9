//! RACS over mutual TLS, blocking, on std and rustls.
#![forbid(unsafe_code)]

pub mod identity;
pub mod record;
