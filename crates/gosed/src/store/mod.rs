//! Where the elements of a configuration come from: files, keys, remote grids.

mod calls;
mod file;
mod master_key;
mod private;
mod software;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gose_card::image::MasterKey;

pub use calls::Calls;
pub use master_key::master_key;
pub use private::private_file;

use crate::{
    config::{Config, Slot, SlotKind},
    grid::{Opener, Runs, Spec},
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
}

/// The slots of a configuration. Elements are opened at their first use.
///
/// # Errors
/// [`StoreError::MasterKey`].
pub fn specs(config: &Config, calls: &Arc<Calls>) -> Result<Vec<Spec>, StoreError> {
    let master = match &config.store {
        None => None,
        Some(store) => {
            let key = master_key(&store.master_key_file);
            let key = key.map_err(|cause| StoreError::MasterKey {
                path: store.master_key_file.clone(),
                cause,
            })?;
            Some((store.directory.as_path(), Arc::new(key)))
        }
    };
    Ok(config
        .slots
        .iter()
        .filter_map(|slot| spec(slot, master.as_ref(), calls))
        .collect())
}

/// `None` for a software element without a store, which no configuration has that was read.
fn spec(slot: &Slot, master: Option<&(&Path, Arc<MasterKey>)>, calls: &Arc<Calls>) -> Option<Spec> {
    let seid = slot.seid.0;
    match &slot.kind {
        SlotKind::Software { image, timing } => {
            let (directory, key) = master?;
            let path = image
                .clone()
                .unwrap_or_else(|| directory.join(format!("{seid}.image")));
            let (timing, key) = (*timing, key.clone());
            let runs = if timing.is_some() {
                Runs::Thread
            } else {
                Runs::Inline
            };
            let place = path.to_string_lossy().into();
            let open: Opener = Arc::new(move |_| software::open(&path, seid, key.clone(), timing));
            Some(Spec {
                seid,
                runs,
                place,
                open,
            })
        }
        SlotKind::Remote { node, seid: there } => {
            let (node, there, calls) = (node.clone(), *there, calls.clone());
            let place = format!("{node} {there}").into();
            let open: Opener = Arc::new(move |peer| calls.open(&node, there, peer));
            Some(Spec {
                seid,
                runs: Runs::ThreadEachLease,
                place,
                open,
            })
        }
    }
}
