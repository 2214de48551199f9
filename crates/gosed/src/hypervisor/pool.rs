//! Elements of a pool: a virtual machine gets one with a key, a certificate and a PIN made for it, and what it leaves
//! behind is wiped before the next one has it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use gose_element::{
    Algorithm, Seid,
    drive::{
        piv::{Piv, PivError, Slot},
        provision::{ProvisionError, Secrets},
    },
};
use gose_proto::hex;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    config::{Pool, Secret},
    grid::{Grid, Names, Peer, Plane, Refusal},
    keys::{self, KeyError},
    leased::Leased,
};

/// How long an element may still be held by the sessions of its last machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// The object with the certificate of slot 9A (SP 800-73-4 part 1, table 3).
const CERTIFICATE: u32 = 0x5F_C105;

/// Why an element of a pool is not given, or not taken back.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The configuration has no such pool any more.
    #[error("no [[hypervisor.pool]] \"{0}\"")]
    Unknown(String),
    /// All are in use.
    #[error("pool \"{0}\" has no free element")]
    Empty(String),
    /// Its file of secrets cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It holds something else.
    #[error("{0}: not the file of secrets of this element")]
    Secrets(PathBuf),
    /// The element cannot be had.
    #[error("element {0}: {1}")]
    Lease(Seid, Refusal),
    /// The element refuses.
    #[error("element {0}: {1}")]
    Element(Seid, PivError),
    /// No randomness for a PIN.
    #[error(transparent)]
    Random(#[from] ProvisionError),
    /// There is no certificate for its key.
    #[error(transparent)]
    Certificate(#[from] super::token::IssueError),
}

/// What of a file of secrets is needed here.
#[derive(serde::Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
struct Stored {
    seid: String,
    piv_puk: String,
    management_key: String,
}

/// An element of a pool, and what opens it.
pub(super) struct Pooled<'a> {
    grid: &'a Arc<Grid>,
    seid: Seid,
    puk: Zeroizing<[u8; 8]>,
    management_key: Zeroizing<[u8; 32]>,
}

impl<'a> Pooled<'a> {
    pub(super) fn open(grid: &'a Arc<Grid>, pool: &Pool, seid: Seid) -> Result<Self, PoolError> {
        let path = pool.secrets_folder.join(format!("{seid}.secrets"));
        let text = keys::secret(&Secret::File(path.clone()))?;
        let wrong = || PoolError::Secrets(path.clone());
        let text = std::str::from_utf8(&text).map_err(|_| wrong())?;
        // The parser's message would quote the line.
        let stored: Stored = toml::from_str(text).map_err(|_| wrong())?;
        let puk = <[u8; 8]>::try_from(stored.piv_puk.as_bytes());
        let key = hex::decode(&stored.management_key).map(Zeroizing::new);
        let key = key
            .ok()
            .and_then(|key| <[u8; 32]>::try_from(key.as_slice()).ok());
        match (puk, key) {
            (Ok(puk), Some(key)) if stored.seid == seid.to_string() => Ok(Self {
                grid,
                seid,
                puk: Zeroizing::new(puk),
                management_key: Zeroizing::new(key),
            }),
            _ => Err(wrong()),
        }
    }

    /// Gives the element to a machine: a key, where it is to be new, a certificate for it that `certify` makes of its
    /// SubjectPublicKeyInfo, and a PIN. Blocks while the element works.
    ///
    /// # Errors
    /// [`PoolError`].
    pub(super) fn give(
        &self,
        new_key: bool,
        certify: impl FnOnce(&[u8]) -> Result<Vec<u8>, super::token::IssueError>,
    ) -> Result<Zeroizing<[u8; 8]>, PoolError> {
        let pin = Secrets::random()?.piv_pin;
        self.manage(|piv| {
            let failed = |error| PoolError::Element(self.seid, error);
            let public = match new_key {
                true => piv
                    .generate(Slot::AUTHENTICATION, Algorithm::P256)
                    .map_err(failed)?,
                false => piv.public_key(Slot::AUTHENTICATION).map_err(failed)?.info,
            };
            let certificate = certify(&public)?;
            piv.put_certificate(Slot::AUTHENTICATION, &certificate)
                .map_err(failed)?;
            piv.unblock_pin(&self.puk, pin.as_slice()).map_err(failed)
        })?;
        Ok(pin)
    }

    /// Takes the element back: its machine's key, certificate and PIN are gone.
    ///
    /// # Errors
    /// [`PoolError`]; it must not be given to another machine then.
    pub(super) fn wipe(&self) -> Result<(), PoolError> {
        let pin = Secrets::random()?.piv_pin;
        self.manage(|piv| {
            let failed = |error| PoolError::Element(self.seid, error);
            // A new key is how PIV destroys the one before.
            piv.generate(Slot::AUTHENTICATION, Algorithm::P256)
                .map_err(failed)?;
            piv.put_object(CERTIFICATE, &[]).map_err(failed)?;
            piv.unblock_pin(&self.puk, pin.as_slice()).map_err(failed)
        })
    }

    fn manage<T>(
        &self,
        work: impl FnOnce(&mut Piv<'_>) -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        let peer = Peer::new(self.grid.new_sid(), Names::Operator);
        let mut element =
            Leased::wait_for(self.grid, &peer, self.seid, Plane::Management, PATIENCE)
                .map_err(|refusal| PoolError::Lease(self.seid, refusal))?;
        let mut piv = Piv::open(&mut element);
        piv.authenticate_management(&self.management_key)
            .map_err(|error| PoolError::Element(self.seid, error))?;
        work(&mut piv)
    }
}
