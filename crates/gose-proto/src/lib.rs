//! Protocols as bytes, values and state machines.
//!
//! No I/O, no clock, no randomness, no threads: time, random bytes and keys are arguments. Parsing is
//! total: any bytes give a value or an error that names the place, never a panic.
#![forbid(unsafe_code)]

pub mod apdu;
pub mod eap;
pub mod hex;
pub mod identity;
pub mod pkcs11;
pub mod racs;
pub mod radius;
pub mod vpcd;
