//! Where the elements of a configuration come from: files, keys, remote grids.

mod attest;
mod births;
mod calls;
pub(crate) mod durable;
mod file;
mod hardware;
mod master_key;
mod private;
mod software;

use std::{
    collections::HashMap,
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use gose_card::{
    image::MasterKey,
    keystore::{KeyStore, SoftwareKeyStore},
};

pub use attest::{About, Answer, Question, attest};
use births::Birth;
pub use calls::{Calls, Upstreams};
use file::ImageFile;
pub use hardware::{Readers, watch_readers};
pub use master_key::master_key;
pub use private::private_file;

use crate::{
    config::{Config, Slot, SlotKind},
    grid::{Opener, Runs, Spec, Used},
};

/// Why the elements of a configuration are not there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory of the images cannot be made.
    #[error("[store] directory {path}: {cause}; make it, owned by the daemon's user, mode 0700")]
    Directory {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The master key cannot be used.
    #[error("master-key-file {path}: {cause}")]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// A reader, a TPM or an HSM cannot be what the configuration says.
    #[error("{place}: {cause}")]
    Hardware {
        /// The slot or key store.
        place: String,
        /// What is wrong.
        cause: String,
    },
}

/// What slots are made of.
struct Parts<'a> {
    /// Directory of images and their key.
    images: Option<(&'a Path, Arc<MasterKey>)>,
    /// Hardware that holds keys, by name.
    keys: HashMap<&'a str, Arc<dyn KeyStore>>,
    calls: &'a Arc<Calls>,
}

/// The slots of a configuration. Elements are opened at their first use.
///
/// # Errors
/// [`StoreError`].
pub fn specs(config: &Config, calls: &Arc<Calls>) -> Result<Vec<Spec>, StoreError> {
    let images = store_key(config)?;
    if let Some((directory, _)) = &images {
        make_directory(directory)?;
    }
    let mut keys = HashMap::new();
    for store in &config.key_stores {
        let made = hardware::key_store(store).map_err(|cause| StoreError::Hardware {
            place: format!("[[key-store]] {}", store.name()),
            cause,
        })?;
        keys.insert(store.name(), made);
    }
    let parts = Parts {
        images,
        keys,
        calls,
    };
    let specs = config.slots.iter().map(|slot| parts.spec(slot));
    Ok(specs
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// The directory of the images, and the key that opens them.
fn store_key(config: &Config) -> Result<Option<(&Path, Arc<MasterKey>)>, StoreError> {
    let Some(store) = &config.store else {
        return Ok(None);
    };
    let key = match sealing(config) {
        None => master_key(&store.master_key_file),
        Some(tpm) => master_key::sealed(&store.master_key_file, tpm),
    };
    let key = key.map_err(|cause| StoreError::MasterKey {
        path: store.master_key_file.clone(),
        cause,
    })?;
    Ok(Some((store.directory.as_path(), Arc::new(key))))
}

/// Images lie where nobody else reads; the first start makes the place.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| StoreError::Directory {
        path: path.to_owned(),
        cause,
    })
}

/// The TPM that opens the master key's file.
fn sealing(config: &Config) -> Option<&crate::config::KeyStore> {
    let name = config.store.as_ref()?.sealed_by.as_ref()?;
    config.key_stores.iter().find(|store| store.name() == name)
}

/// Makes a random master key and leaves it, sealed by the TPM that `[store] sealed-by` names, in a new
/// `master-key-file`.
///
/// # Errors
/// [`StoreError::MasterKey`]; an existing file stays as it is.
pub fn seal_master_key(config: &Config) -> Result<(), StoreError> {
    let (Some(store), Some(tpm)) = (&config.store, sealing(config)) else {
        return Err(StoreError::Hardware {
            place: "[store]".into(),
            cause: "sealed-by names the TPM to seal with; it is not there".into(),
        });
    };
    master_key::make_sealed(&store.master_key_file, tpm).map_err(|cause| StoreError::MasterKey {
        path: store.master_key_file.clone(),
        cause,
    })
}

impl Parts<'_> {
    fn spec(&self, slot: &Slot) -> Result<Option<Spec>, StoreError> {
        let seid = slot.seid.0;
        match &slot.kind {
            SlotKind::Software { .. } => Ok(self.software(slot)),
            SlotKind::Pcsc { reader } => {
                let reach = hardware::reader(reader).map_err(|cause| StoreError::Hardware {
                    place: format!("[[slot]] {seid}"),
                    cause,
                })?;
                Ok(Some(Spec {
                    seid,
                    runs: Runs::Thread,
                    place: format!("{reader:?}").into(),
                    open: Arc::new(move |_| Ok(reach())),
                    used: Arc::default(),
                }))
            }
            SlotKind::Remote { node, seid: there } => {
                let (node, there, calls) = (node.clone(), *there, self.calls.clone());
                let place = format!("{node} {there}").into();
                let open: Opener = Arc::new(move |peer| calls.open(&node, there, peer));
                Ok(Some(Spec {
                    seid,
                    runs: Runs::ThreadEachLease,
                    place,
                    open,
                    used: Arc::default(),
                }))
            }
        }
    }

    /// `None` for a software element without a store, which no configuration has that was read.
    fn software(&self, slot: &Slot) -> Option<Spec> {
        let SlotKind::Software {
            image,
            timing,
            keys,
            adopt,
        } = &slot.kind
        else {
            return None;
        };
        let seid = slot.seid.0;
        let (directory, key) = self.images.as_ref()?;
        let path = image
            .clone()
            .unwrap_or_else(|| directory.join(format!("{seid}.image")));
        let (timing, key) = (*timing, key.clone());
        let birth = Birth::of(seid, directory);
        // Told at the start, not only when the element is first used.
        if let Err(error) = ImageFile::check_present(&path, &birth) {
            tracing::error!(%seid, %error, "the element is not served");
        }
        // Hardware may take seconds.
        let runs = if timing.is_some() || keys.is_some() {
            Runs::Thread
        } else {
            Runs::Inline
        };
        let place = match keys {
            Some(keys) => format!("{} {keys}", path.display()).into(),
            None => path.to_string_lossy().into(),
        };
        let keys: Arc<dyn KeyStore> = match keys {
            Some(keys) => self.keys.get(keys.as_str())?.clone(),
            None => Arc::new(SoftwareKeyStore),
        };
        let adopt = adopt.clone();
        let used = Arc::new(Used::default());
        let counter = used.clone();
        let open: Opener = Arc::new(move |_| {
            let image = software::Image {
                path: &path,
                seid,
                birth: &birth,
                master: key.clone(),
            };
            let surroundings = software::Surroundings {
                timing,
                keys: keys.clone(),
                used: counter.clone(),
            };
            software::open(&image, surroundings, &adopt)
        });
        Some(Spec {
            seid,
            runs,
            place,
            open,
            used,
        })
    }
}
