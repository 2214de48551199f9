//! What a secure element is, and how a host drives the applications on it.
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod announced;
pub mod atr;
pub mod drive;
pub mod element;
pub mod outcomes;
pub mod slot;

pub use algorithm::{Algorithm, Scheme, SecretAlgorithm};
pub use atr::Atr;
pub use element::{ElementError, SecureElement};
pub use gose_proto::racs::{
    Seid, SeidError,
    script::{self, Fetch, Outcome, Script, Step},
};
pub use outcomes::Outcomes;
pub use slot::SlotId;
