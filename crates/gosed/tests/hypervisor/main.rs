//! A hypervisor node, a grid node with the guests' elements, an authentication server, and guests that are
//! processes: what works, and what is refused with its reason in the log.

#![allow(clippy::unwrap_used)]

mod bad_eap;
mod generations;
mod grids;
mod guest;
mod isolation;
mod line;
mod machines;
mod memory;
mod phases;
mod private_keys;
mod processes;
mod reload;
mod upstream;
mod world;
