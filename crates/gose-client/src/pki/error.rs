//! Why the authority did not do what was asked, by blame.

use std::{io, path::PathBuf};

use gose_element::drive::piv::PivError;

/// Why the authority did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The element did not sign.
    #[error(transparent)]
    Element(#[from] PivError),
    /// There is an authority already.
    #[error("{0} holds an authority already; choose another directory")]
    Exists(PathBuf),
    /// A file of the authority cannot be read or written.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file of the authority does not hold what it should.
    #[error("{path}: {fault}; restore it from a backup")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The root's certificate has another public key than the element's slot.
    #[error(
        "the key in the element is not the key of ca.pem; take the element that `gose pki init` used"
    )]
    OtherKey,
    /// The request for a certificate is not one, or its signature does not verify.
    #[error("certificate request: {0}")]
    Request(String),
    /// A name that a certificate cannot carry.
    #[error("{0:?} cannot stand in a certificate: {1}")]
    Name(String, &'static str),
    /// The validity is zero, or begins after the root's end.
    #[error("a certificate is valid for 1 to {max} days under this root")]
    Validity {
        /// Days that are possible.
        max: u32,
    },
    /// No certificate has this serial number.
    #[error("this authority issued no certificate with serial {0}")]
    UnknownSerial(String),
    /// The certificate is revoked already.
    #[error("certificate {0} is revoked already")]
    AlreadyRevoked(String),
    /// X.509 could not be written.
    #[error("X.509: {0}")]
    X509(rcgen::Error),
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
}
