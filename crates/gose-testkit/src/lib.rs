//! World, test PKI, script runners; for tests only.
#![forbid(unsafe_code)]
// What cannot be set up fails the test that asked for it.
#![allow(clippy::unwrap_used)]

pub mod contract;
pub mod node;
pub mod pki;
pub mod world;
