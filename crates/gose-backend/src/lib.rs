//! Elements and keys in hardware, each under a feature: `pcsc` (cards in the readers of pcscd), `tpm`
//! (keys in a TPM 2.0), `pkcs11` (keys in an HSM); and `vpcd`, elements as cards in virtual readers of pcscd.
//!
//! Calls block, some of them for seconds, and a reader's driver may never return: an element runs on a thread of
//! its own, under its caller's time limit.
#![deny(unsafe_code)]

#[cfg(any(feature = "tpm", feature = "pkcs11"))]
mod der;
#[cfg(feature = "pcsc")]
pub mod pcsc;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
#[cfg(feature = "tpm")]
pub mod tpm;
#[cfg(feature = "vpcd")]
pub mod vpcd;
