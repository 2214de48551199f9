//! A guest's side: from the one socket that its hypervisor gave it to its element.
//!
//! A guest holds no private key. Its TLS handshakes are signed by the hypervisor's element, over the
//! attach channel, for the token that names this guest.

mod attach;
mod channel;
mod control;
mod eap;
mod fw_cfg;
mod join;
mod key;
mod xen;

use std::{
    io,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gose_proto::identity::attach::{AttachError, Chain, Serial, TranscriptHash};
use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs::default_provider,
    version::TLS13,
};
use rustls_pki_types::CertificateDer;

pub use attach::{AttachChannel, ReadNow};
pub use channel::{ATTACH_PORT, Channel, SESSION_PORT};
pub use control::{Control, Request, send_record, serve_request};
pub use eap::{EapChannel, EapError, authenticate};
pub use join::{JoinRecord, RecordError};

use crate::{Connection, Link, tls};
use channel::{RecordFile, Way};
use fw_cfg::pick_up_from_fw_cfg;
use key::AttachKeys;
use xen::pick_up_from_xen;

/// Protocol name of RACS on TLS (ALPN).
pub const RACS: &[u8] = b"racs/0.2";

/// Protocol name of EAP on TLS (ALPN).
pub const EAP: &[u8] = b"gose-eap/1";

/// Time that a peer may take for one step of a handshake or one answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A guest that has joined its hypervisor.
pub struct Guest {
    way: Way,
    attach: Arc<Mutex<AttachChannel<Channel>>>,
    record: JoinRecord,
    roots: Arc<RootCertStore>,
}

/// Why a guest does not get to its hypervisor, by blame.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The channel broke or was too slow.
    #[error("the channel to the hypervisor: {0}")]
    Io(#[from] io::Error),
    /// The join record is malformed.
    #[error("the join record: {0}")]
    Record(#[from] RecordError),
    /// Xen's store.
    #[error("the join record: {0}")]
    Xenstore(#[from] crate::xenstore::XenstoreError),
    /// The hypervisor speaks something else.
    #[error("the hypervisor's message on the attach channel: {0}")]
    Message(#[from] gose_proto::identity::attach::MessageError),
    /// The hypervisor answers something that was not asked.
    #[error("the hypervisor gave an answer of another kind")]
    Unexpected,
    /// The hypervisor refuses.
    #[error("the hypervisor refuses: {0}")]
    Refused(#[from] AttachError),
    /// The hypervisor gives no further channel.
    #[error("the hypervisor gives no further channel; close one first")]
    NoChannel,
    /// The TLS session with the hypervisor.
    #[error("TLS with the hypervisor: {0}")]
    Session(#[from] crate::Error),
}

/// Leaves the join record that the hypervisor gave in a file: from QEMU's firmware configuration device, or from Xen's store.
/// `false` if there is none.
///
/// # Errors
/// [`GuestError`].
pub fn pick_up(path: &Path) -> Result<bool, GuestError> {
    Ok(pick_up_from_fw_cfg(path)? || pick_up_from_xen(path)?)
}

impl Guest {
    /// Joins over the socket that the hypervisor passed as standard input.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn from_stdin() -> Result<Self, GuestError> {
        let stdin = std::os::fd::AsFd::as_fd(&io::stdin()).try_clone_to_owned()?;
        Self::join(UnixStream::from(stdin))
    }

    /// Joins over the control socket.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn join(control: UnixStream) -> Result<Self, GuestError> {
        control.set_read_timeout(Some(PATIENCE))?;
        control.set_write_timeout(Some(PATIENCE))?;
        let mut control = Control::new(control);
        let record = control.record()?;
        Self::attached(Way::Control(Mutex::new(control)), record)
    }

    /// Joins with the record in a file, over the guest's own link, and leaves the secret of the next join in
    /// the file. Whoever else joins with this file at the moment is waited for. In a domain of Xen the record comes from
    /// xenstore: at the first join, and whenever the hypervisor wrote a new one there. In a guest of QEMU the first one comes
    /// from its firmware configuration device.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn from_file(path: &Path) -> Result<Self, GuestError> {
        if !path.exists() {
            pick_up(path)?;
        }
        match Self::from_record(path) {
            Err(GuestError::Refused(AttachError::Secret)) if pick_up_from_xen(path)? => {
                Self::from_record(path)
            }
            joined => joined,
        }
    }

    fn from_record(path: &Path) -> Result<Self, GuestError> {
        let (file, record) = RecordFile::open(path)?;
        let host = record.host.ok_or(RecordError::Field("host"))?;
        let guest = Self::attached(Way::Link(host), record)?;
        let mut next = guest.record.clone();
        next.set_secret(guest.attach().next_secret());
        file.replace(&next)?;
        Ok(guest)
    }

    fn attached(way: Way, record: JoinRecord) -> Result<Self, GuestError> {
        let anchors = record.anchors()?.into_iter().map(CertificateDer::from);
        let roots = tls::anchors(anchors)?;
        let attach = way.open(Request::Attach)?;
        let attach = AttachChannel::join(attach, &record.secret()?)?;
        Ok(Self {
            way,
            attach: Arc::new(Mutex::new(attach)),
            record,
            roots: Arc::new(roots),
        })
    }

    /// What the hypervisor told this guest at its start.
    #[must_use]
    pub fn record(&self) -> &JoinRecord {
        &self.record
    }

    /// The token that the next session will show.
    ///
    /// # Errors
    /// [`GuestError`] if the attach channel broke.
    pub fn token(&self) -> Result<Chain, GuestError> {
        let mut attach = self.attach();
        attach.refresh()?;
        Ok(attach.chain().clone())
    }

    /// A fresh token in form `identity`, for the key in this guest's element.
    ///
    /// # Errors
    /// [`GuestError::Refused`] if no element is bound to this guest or none of its keys answers.
    pub fn identity(&self) -> Result<Chain, GuestError> {
        self.attach().identity()
    }

    /// Opens a TLS session that speaks RACS with this guest's elements.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn open_racs(&self) -> Result<Connection, GuestError> {
        self.link().map(Connection::new)
    }

    /// Opens a TLS session that speaks RACS, for whoever speaks it without [`Connection`].
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn link(&self) -> Result<Link, GuestError> {
        self.open(RACS)
    }

    /// Opens a TLS session to the authentication server.
    ///
    /// # Errors
    /// [`GuestError`].
    pub fn open_eap(&self) -> Result<EapChannel<Link>, GuestError> {
        self.open(EAP).map(EapChannel::new)
    }

    /// The serial number of the current token.
    #[must_use]
    pub fn serial(&self) -> Serial {
        self.attach().serial().clone()
    }

    /// Has the hypervisor's element sign a handshake that presents the token with this serial, for TLS stacks
    /// other than [`Guest::open_racs`]'s.
    ///
    /// # Errors
    /// [`GuestError::Refused`] with the endpoint's reason.
    pub fn sign(
        &self,
        serial: &Serial,
        scheme: u16,
        hash: TranscriptHash,
    ) -> Result<Vec<u8>, GuestError> {
        self.attach().sign(serial, scheme, hash)
    }

    /// A further channel to this guest's listener, on which TLS is still to begin.
    ///
    /// # Errors
    /// [`GuestError::NoChannel`], [`GuestError::Io`].
    pub fn channel(&self) -> Result<Channel, GuestError> {
        self.way.open(Request::Session)
    }

    /// The anchors of the hypervisor's TLS identity.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// Opens a TLS session for a protocol, and finishes its handshake.
    fn open(&self, protocol: &[u8]) -> Result<Link, GuestError> {
        let socket = self.channel()?;
        let keys = AttachKeys::new(self.attach.clone());
        let config =
            client_config(self.roots.clone(), keys, protocol).map_err(crate::Error::from)?;
        let name = tls::server_name(&self.record.address)?;
        Ok(Link::tls(socket, name, Arc::new(config), PATIENCE)?)
    }

    fn attach(&self) -> MutexGuard<'_, AttachChannel<Channel>> {
        self.attach.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// TLS 1.3 only, and never resumed: every session needs a signature of the hypervisor's element.
fn client_config(
    roots: Arc<RootCertStore>,
    keys: AttachKeys,
    protocol: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(keys));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}
