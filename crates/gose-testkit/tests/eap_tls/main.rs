//! EAP-TLS between two elements in memory, and between an element and ordinary TLS.
#![allow(clippy::unwrap_used)]

mod any_bytes;
mod bridge;
mod command;
mod foreign;
mod refusal;
mod round_trips;
mod success;
mod timing;
