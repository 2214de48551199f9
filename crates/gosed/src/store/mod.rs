//! Where the elements of a configuration come from: files, keys, remote grids.

mod private;

use std::{io, path::PathBuf, sync::Arc};

use gose_card::{Hosted, Memory, factory, keystore::SoftwareKeyStore, nvm::Nvm};
use gose_element::{ElementError, SecureElement};
use rustls::sign::SigningKey;

pub use private::private_file;

use crate::{
    config::{Config, Slot, SlotKind, Tls, TlsKey},
    grid::{Grid, Opener, Runs, Spec},
};

/// Why the elements of a configuration are not there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The master key cannot be used.
    #[error("master-key-file {path}: {cause}")]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// The key of the node's certificate cannot be reached.
    #[error("[tls] key in element {seid}: {cause}")]
    TlsKey {
        /// The element.
        seid: String,
        /// What is wrong.
        cause: String,
    },
}

/// The slots of a configuration. Elements are opened at their first use.
///
/// # Errors
/// [`StoreError::MasterKey`].
pub fn specs(config: &Config) -> Result<Vec<Spec>, StoreError> {
    Ok(config.slots.iter().map(spec).collect())
}

fn spec(slot: &Slot) -> Spec {
    let (runs, place): (_, String) = match &slot.kind {
        SlotKind::Software { timing, .. } => {
            let runs = if timing.is_some() {
                Runs::Thread
            } else {
                Runs::Inline
            };
            (runs, "memory".into())
        }
        SlotKind::Remote { node, seid } => (Runs::ThreadEachLease, format!("{node} {seid}")),
    };
    let kind = slot.kind.clone();
    let open: Opener = Arc::new(move |_| open(&kind));
    Spec {
        seid: slot.seid.0,
        runs,
        place: place.into(),
        open,
    }
}

fn open(kind: &SlotKind) -> Result<Box<dyn SecureElement>, ElementError> {
    match kind {
        SlotKind::Software { .. } => {
            let nvm = Nvm::replay([factory::birth([0; 16])]);
            let card = factory::new_card(nvm, Arc::new(SoftwareKeyStore));
            Ok(Box::new(Hosted::new(card, Memory::default())))
        }
        SlotKind::Remote { .. } => Err(ElementError::Absent),
    }
}

/// The node's private key, where it is in an element.
///
/// # Errors
/// [`StoreError::TlsKey`].
pub fn tls_key(_grid: &Arc<Grid>, tls: &Tls) -> Result<Option<Arc<dyn SigningKey>>, StoreError> {
    match &tls.key {
        TlsKey::File { .. } => Ok(None),
        TlsKey::Element(key) => Err(StoreError::TlsKey {
            seid: key.seid.to_string(),
            cause: "not served by this version".into(),
        }),
    }
}
