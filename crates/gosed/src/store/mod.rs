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
    fault::Faults,
    image::MasterKey,
    keystore::{KeyStore, SoftwareKeyStore},
};

pub use attest::{About, Answer, Question, attest};
use births::Birth;
pub use calls::{Calls, Upstreams};
use file::ImageFile;
pub use hardware::{Readers, watch_readers};
pub use master_key::{Change, Form, Held, MasterKeyError, Place, change, make, show};
pub use private::private_file;

use crate::{
    config::{self, Config, Slot, SlotKind},
    grid::{Opener, Runs, Settings, Spec, Used},
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
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
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
    /// Whether faults may be chosen.
    test_grid: bool,
}

/// The slots of a configuration. Elements are opened at their first use.
///
/// # Errors
/// [`StoreError`].
pub fn specs(config: &Config, calls: &Arc<Calls>, held: &Held) -> Result<Vec<Spec>, StoreError> {
    let key = |store: &config::Store| held.key(config, store).map_err(StoreError::from);
    specs_under(config, calls, key)
}

/// Looks at everything that the slots of a configuration need, as a start would, but asks nobody for a passphrase.
///
/// # Errors
/// [`StoreError`].
pub fn check(config: &Config) -> Result<(), StoreError> {
    let key = |store: &config::Store| {
        master_key::check(config, store)?;
        // No element is opened.
        Ok(Arc::default())
    };
    specs_under(config, &Arc::default(), key).map(drop)
}

fn specs_under(
    config: &Config,
    calls: &Arc<Calls>,
    key: impl FnOnce(&config::Store) -> Result<Arc<MasterKey>, StoreError>,
) -> Result<Vec<Spec>, StoreError> {
    let images = match &config.store {
        None => None,
        Some(store) => {
            let key = key(store)?;
            make_directory(&store.directory)?;
            Some((store.directory.as_path(), key))
        }
    };
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
        test_grid: config.node.test_grid,
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
    let key = Held::default().key(config, store)?;
    Ok(Some((store.directory.as_path(), key)))
}

/// Images lie where nobody else reads; the first start makes the place.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|cause| StoreError::Directory {
        path: path.to_owned(),
        cause,
    })
}

impl Parts<'_> {
    fn spec(&self, slot: &Slot) -> Result<Option<Spec>, StoreError> {
        let seid = slot.seid.0;
        match &slot.kind {
            SlotKind::Software(_) => Ok(self.software(slot)),
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
        let seid = slot.seid.0;
        let SlotKind::Software(slot) = &slot.kind else {
            return None;
        };
        let (directory, key) = self.images.as_ref()?;
        let path = slot.image.clone();
        let path = path.unwrap_or_else(|| directory.join(format!("{seid}.image")));
        let birth = Birth::of(seid, directory);
        // Told at the start, not only when the element is first used.
        if let Err(error) = ImageFile::check_present(&path, &birth) {
            tracing::error!(%seid, %error, "the element is not served");
        }
        // Hardware may take seconds.
        let runs = if slot.timing.is_some() || slot.keys.is_some() {
            Runs::Thread
        } else {
            Runs::Inline
        };
        // Whatever changes of this makes the element anew.
        let mut place = format!("{} {} {:?}", path.display(), slot.quota_bytes, slot.storage);
        for setting in [
            slot.timing.map(|profile| profile.name),
            slot.keys.as_deref(),
        ] {
            place = format!("{place} {}", setting.unwrap_or("-"));
        }
        for fault in &slot.faults {
            place = format!("{place} {fault}");
        }
        let keys: Arc<dyn KeyStore> = match &slot.keys {
            Some(keys) => self.keys.get(keys.as_str())?.clone(),
            None => Arc::new(SoftwareKeyStore),
        };
        let used = Arc::new(Used::software(Settings {
            timing: slot.timing,
            quota: slot.quota_bytes,
            storage: slot.storage.quotas(),
            faults: self.test_grid.then(|| Arc::new(Faults::new(&slot.faults))),
        }));
        let image = software::Image {
            path,
            seid,
            birth,
            master: key.clone(),
        };
        let (counter, adopt) = (used.clone(), slot.adopt.clone());
        let open: Opener =
            Arc::new(move |_| software::open(&image, keys.clone(), &counter, &adopt));
        Some(Spec {
            seid,
            runs,
            place: place.into(),
            open,
            used,
        })
    }
}
