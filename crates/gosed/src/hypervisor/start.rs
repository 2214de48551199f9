//! A guest to start, one that runs, and why one does not.

use std::io;

use gose_client::guest::RecordError;
use gose_element::Seid;
use gose_proto::identity::VmId;

use super::{authenticator::AuthenticatorError, generations::GenerationError, token::IssueError};
use crate::{config::Name, keys::KeyError, listen::tls::TlsError};

/// Who had a guest created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creator {
    /// The configuration, or the operator.
    Operator,
    /// A user.
    User(Name),
}

/// A guest to start; whoever makes one has authorised it.
#[derive(Debug, Clone)]
pub struct Start {
    /// The domain's UUID.
    pub vm: VmId,
    /// Its elements; the first one holds its key.
    pub seids: Vec<Seid>,
    /// What it runs.
    pub command: Vec<String>,
    /// Whose it is.
    pub creator: Creator,
    /// How many of the creator's may run, this one included.
    pub quota: Option<u32>,
}

/// A guest that runs, for lists.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The domain's UUID.
    pub vm: VmId,
    /// Counts its starts.
    pub generation: u64,
    /// Its SPIFFE identifier.
    pub id: String,
    /// Its elements.
    pub seids: Vec<Seid>,
    /// Whose it is.
    pub creator: Creator,
}

/// Why the hypervisor role does not start, or a guest does not.
#[derive(Debug, thiserror::Error)]
pub enum MiddlewareError {
    /// Keys and secrets.
    #[error("[hypervisor] {0}")]
    Key(#[from] KeyError),
    /// Certificates.
    #[error("[hypervisor] {0}")]
    Tls(#[from] TlsError),
    /// The guests' authenticator.
    #[error("[hypervisor.authenticator] {0}")]
    Authenticator(#[from] AuthenticatorError),
    /// Names and anchors.
    #[error("[hypervisor] {0}")]
    Client(#[from] gose_client::Error),
    /// The token cannot be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The generations.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// TLS towards the guest.
    #[error("TLS towards guests: {0}")]
    Rustls(#[from] rustls::Error),
    /// The join record.
    #[error("join record: {0}")]
    Record(#[from] RecordError),
    /// The guest runs already.
    #[error("the virtual machine runs already")]
    Running,
    /// An element is bound to a guest that runs.
    #[error("element {0} is bound to another virtual machine")]
    Bound(Seid),
    /// As many of the creator's guests run as may.
    #[error("the creator's quota of {0} is used up")]
    Quota(u32),
    /// Its port could not be closed before it starts.
    #[error("the guest's port cannot be closed: {0}")]
    Port(io::Error),
    /// The driver could not start it.
    #[error("the guest cannot be started: {0}")]
    Driver(io::Error),
}
