//! A guest to start, one that runs, and why one does not.

use std::io;

use gose_client::guest::RecordError;
use gose_element::Seid;
use gose_proto::identity::VmId;

use super::{
    authenticator::AuthenticatorError,
    gate::GateError,
    generations::GenerationError,
    journal::{JournalError, Record},
    measure::MeasureError,
    pool::PoolError,
    token::IssueError,
};
use crate::{
    config::{Name, Sha256},
    keys::KeyError,
    listen::tls::TlsError,
};

/// Who had a guest created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creator {
    /// The configuration, or the operator.
    Operator,
    /// A user.
    User(Name),
}

/// A virtual machine to create; whoever makes one has authorised it.
#[derive(Debug, Clone)]
pub struct Start {
    /// The domain's UUID.
    pub vm: VmId,
    /// What people call it.
    pub name: Option<String>,
    /// Its elements; the first one holds its key.
    pub seids: Vec<Seid>,
    /// The pool that an element is taken from, before those.
    pub pool: Option<String>,
    /// The image, by its name.
    pub image: String,
    /// What it runs, or the arguments of its kernel.
    pub command: Vec<String>,
    /// What it boots: a copy with this hash is there.
    pub kernel: Option<Sha256>,
    /// Its RAM disk, likewise.
    pub ramdisk: Option<Sha256>,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Processors.
    pub vcpus: u32,
    /// Whether it is kept, stopped, when it ends by itself.
    pub keep: bool,
    /// Whose it is.
    pub creator: Creator,
    /// How many of the creator's there may be, this one included.
    pub quota: Option<u32>,
}

impl Start {
    /// Memory where nobody says how much, MiB.
    pub const MEMORY: u32 = 256;

    /// A small one of the operator's, without an element.
    #[must_use]
    pub fn of(vm: VmId, image: &str, command: Vec<String>) -> Self {
        Self {
            vm,
            name: None,
            seids: Vec::new(),
            pool: None,
            image: image.to_owned(),
            command,
            kernel: None,
            ramdisk: None,
            memory_mib: Self::MEMORY,
            vcpus: 1,
            keep: false,
            creator: Creator::Operator,
            quota: None,
        }
    }
}

/// A virtual machine, for lists.
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
    /// Everything that is kept of it.
    pub record: Record,
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
    /// What is known of virtual machines.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it would boot.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// No ticket, or one that does not count.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// An element of a pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The machine is there already.
    #[error("the virtual machine is there already")]
    Running,
    /// It does not run.
    #[error("the virtual machine does not run")]
    Stopped,
    /// There is no such machine.
    #[error("no such virtual machine")]
    Unknown,
    /// It ended while it was made.
    #[error("the virtual machine ended at once")]
    Ended,
    /// Another one has the name.
    #[error("the name \"{0}\" is another virtual machine's")]
    Name(String),
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
