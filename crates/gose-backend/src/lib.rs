//! Elements and keys in hardware, each under a feature: `pcsc` (cards in the readers of pcscd), `tpm`
//! (keys in a TPM 2.0), `pkcs11` (keys in an HSM). Calls block for seconds: each element runs on a thread of
//! its own, under [`Supervised`] where its driver has no time limit.
#![deny(unsafe_code)]

#[cfg(any(feature = "tpm", feature = "pkcs11"))]
mod der;
#[cfg(feature = "pcsc")]
pub mod pcsc;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod supervised;
#[cfg(feature = "tpm")]
pub mod tpm;

pub use supervised::{Limits, Supervised};
