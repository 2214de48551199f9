//! Who is at the other end: names in certificates, the VM-Auth-Token, the attach channel.
//!
//! Everything here reads and decides; digests and signature checks come in through [`Crypto`], time as
//! an argument.

pub mod attach;
pub mod binding;
mod certificate;
mod crypto;
pub mod eap_frames;
mod peer;
mod revocation;
mod spiffe;
#[cfg(test)]
mod testing;
mod ticket;
pub mod token;
mod vm;

pub use binding::{Form, VmBinding};
pub use certificate::{Certificate, CertificateError};
pub use crypto::{Crypto, KeyHash, KeyHashError};
pub use peer::{IssuerError, PeerIdentity, issuer_key};
pub use revocation::RevokedCertificates;
pub use spiffe::{SpiffeError, SpiffeId, VmName, is_trust_domain};
pub use ticket::{CreationTicket, TicketError};
pub use token::{Anchor, Freshness, Generations, Place, TokenError, VerifiedToken, VmAuthToken};
pub use vm::{HypervisorId, HypervisorIdError, VmId, VmIdError};
