//! What can go wrong between a client and a node, by blame.

use std::{io, path::PathBuf};

use gose_proto::racs::{ProtocolError, Refusal, RequestError};

use crate::guest::GuestError;

/// Why a node did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of certificates or keys cannot be used.
    #[error("{path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Identity, anchors or server name cannot be used.
    #[error("TLS configuration: {0}")]
    Config(String),
    /// The request cannot be written.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No connection came about.
    #[error("cannot connect to {address}: {cause}; is the node running there?")]
    Connect {
        /// Host and port, or the socket's path.
        address: String,
        /// What the system says.
        cause: io::Error,
    },
    /// The TLS handshake failed: one side does not accept the other.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A guest does not get to its hypervisor.
    #[error(transparent)]
    Guest(Box<GuestError>),
    /// The node closed the connection before the request was sent: nothing was done.
    #[error("the node closed the connection; connect again")]
    Closed,
    /// The node sent something although nothing was asked. The request was not sent.
    #[error("the node speaks although nothing was asked; is it a RACS node?")]
    Unsolicited,
    /// The connection broke after the request was sent: what was done of it is unknown.
    #[error("the connection broke after the request was sent, its outcome is unknown: {0}")]
    Cut(io::Error),
    /// No response in time; the request may still be running.
    #[error("no response within {0} s; the outcome of the request is unknown")]
    Timeout(u64),
    /// The peer does not speak RACS.
    #[error("the node's response cannot be read: {0}")]
    Protocol(#[from] ProtocolError),
    /// The node answered with an error status.
    #[error("the node answers {0}")]
    Refused(Refusal),
}

impl Error {
    /// Whether the cause is on this side: files, configuration, what was asked.
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Config(_) | Self::Request(_))
    }

    /// Whether it is unknown what the node did of the request.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Cut(_) | Self::Timeout(_) | Self::Protocol(_))
    }
}

impl From<GuestError> for Error {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Session(error) => error,
            error => Self::Guest(Box::new(error)),
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
