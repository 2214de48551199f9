//! A small certification authority for those who have none: its root key sits in an element, its state in
//! a directory.
//!
//! | file | holds |
//! |---|---|
//! | `ca.pem` | the root's certificate |
//! | `issued/SERIAL.pem` | each certificate, before anybody got it |
//! | `revoked` | number of the last CRL; a line `SERIAL TIME REASON` for each revoked certificate |
//! | `crl.pem` | the last CRL |
//! | `lock` | held by the process that changes something |

mod authority;
mod directory;
mod error;
mod profile;
mod signer;

pub use authority::{Authority, Issued};
pub use directory::{Reason, Revocation};
pub use error::PkiError;
pub use profile::Kind;
pub use signer::{certificate_request, common_name};

/// Seconds since 1970.
pub type UnixTime = i64;

/// PEM (RFC 7468) of DER bytes.
#[must_use]
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}

#[cfg(test)]
mod tests;
