//! A secure element in software.
//!
//! A [`Card`] does no I/O of its own and never waits: [`Card::receive`] takes a command APDU and yields
//! [`Progress::Persist`] or [`Progress::Answer`]; the host writes the delta or waits the cost and goes on
//! with [`Card::complete`]. [`Hosted`] drives a card for a host that can do both.
#![forbid(unsafe_code)]

pub mod applet;
mod card;
pub mod factory;
pub mod fault;
mod hosted;
pub mod image;
pub mod keyring;
pub mod keystore;
pub mod nvm;
pub mod pin;
pub mod random;
pub mod timing;

pub use card::{Card, Env, Progress};
pub use hosted::{Host, HostError, Hosted, Memory};
