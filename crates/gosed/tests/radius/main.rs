//! RADIUS in front of server elements, asked by elements over real sockets.
#![allow(clippy::unwrap_used)]

mod authentications;
mod bad_input;
mod disconnect;
mod on_host;
mod pool;
mod section;
mod world;
