//! The daemon's own keys: in files, or in elements of this node. And its secrets.

mod kept_key;
mod leased_key;

use std::{fs, io, path::PathBuf, sync::Arc};

use gose_client::tls::Identity;
use gose_element::{
    Seid,
    drive::piv::{PivError, Slot},
};
use zeroize::Zeroizing;

pub use kept_key::KeptKey;
pub use leased_key::{LeasedKey, public_key};

use crate::{
    config::{KeyReference, Secret, Tls, TlsKey},
    grid::{Grid, Refusal},
    listen::tls::{TlsError, certificates, private_key},
    store::private_file,
};

/// Why the daemon has no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A secret cannot be read.
    #[error("{place}: {cause}")]
    Secret {
        /// Where it should be.
        place: String,
        /// What is wrong.
        cause: io::Error,
    },
    /// The configuration names a slot that PIV does not have.
    #[error("element {0}: no such key slot")]
    Slot(Seid),
    /// The element cannot be had.
    #[error("element {seid}: {cause}")]
    Lease {
        /// The element.
        seid: Seid,
        /// Why not.
        cause: Refusal,
    },
    /// A key of another kind than GoSE signs with.
    #[error("element {0}: the key is neither RSA-2048, RSA-3072, P-256 nor P-384")]
    Algorithm(Seid),
    /// The element holds no such key, or does not answer.
    #[error("element {seid}: {cause}")]
    Element {
        /// The element.
        seid: Seid,
        /// Why not.
        cause: PivError,
    },
    /// Certificate and key do not go together.
    #[error("certificate and key: {0}")]
    Identity(#[from] gose_client::Error),
}

/// Reads a secret. A line end at the end of a file does not belong to it.
///
/// # Errors
/// [`KeyError::Secret`].
pub fn secret(secret: &Secret) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let read = match secret {
        Secret::File(path) => read_private(path),
        Secret::Environment(name) => std::env::var(name)
            .map(|value| Zeroizing::new(value.into_bytes()))
            .map_err(|error| io::Error::new(io::ErrorKind::NotFound, error)),
    };
    read.map_err(|cause| KeyError::Secret {
        place: secret.to_string(),
        cause,
    })
}

fn read_private(path: &PathBuf) -> io::Result<Zeroizing<Vec<u8>>> {
    private_file(path)?;
    let mut bytes = Zeroizing::new(fs::read(path)?);
    while bytes.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        bytes.pop();
    }
    Ok(bytes)
}

/// A key in an element of this node. Blocks.
///
/// # Errors
/// [`KeyError`].
pub fn element_key(grid: &Arc<Grid>, key: &KeyReference) -> Result<LeasedKey, KeyError> {
    let seid = key.seid.0;
    let slot = Slot::try_from(key.slot.0.0).map_err(|_| KeyError::Slot(seid))?;
    let pin = key.pin.as_ref().map(|pin| secret(pin)).transpose()?;
    LeasedKey::open(grid, seid, slot, pin)
}

/// A key in an element of this node that signs often. Blocks. Called within a runtime.
///
/// # Errors
/// [`KeyError`].
pub fn kept_key(grid: &Arc<Grid>, key: &KeyReference) -> Result<Arc<KeptKey>, KeyError> {
    let seid = key.seid.0;
    let slot = Slot::try_from(key.slot.0.0).map_err(|_| KeyError::Slot(seid))?;
    let pin = key.pin.as_ref().map(|pin| secret(pin)).transpose()?;
    KeptKey::open(grid, seid, slot, pin)
}

/// The node's own chain and key. Blocks if the key is in an element.
///
/// # Errors
/// [`KeyError`].
pub fn identity(grid: &Arc<Grid>, tls: &Tls) -> Result<Identity, KeyError> {
    let chain = certificates(&tls.certificate_file)?;
    Ok(match &tls.key {
        TlsKey::File { file } => Identity::from_der(chain, private_key(file)?)?,
        TlsKey::Element(key) => Identity::new(chain, Arc::new(element_key(grid, key)?))?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_pin_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        fs::write(&path, "123456\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let named = Secret::File(path.clone());
        assert_eq!(*secret(&named).unwrap(), b"123456");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(secret(&named), Err(KeyError::Secret { .. })));
    }
}
