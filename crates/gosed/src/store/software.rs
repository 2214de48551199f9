//! A software element on this machine: its card, its image, its slowness.

use std::{path::Path, sync::Arc};

use gose_card::{
    Host, HostError, Hosted, factory,
    image::MasterKey,
    keyring,
    keystore::KeyStore,
    nvm::{Delta, Nvm},
    timing::{Cost, Profile},
};
use gose_element::{Atr, ElementError, SecureElement, Seid};
use gose_proto::apdu::Response;

use super::{births::Birth, file::ImageFile};
use crate::{config::KeySlot, grid::Used};

/// A card whose image is a file.
struct Software(Hosted<FileHost>);

/// The card's disk and clock.
struct FileHost {
    image: ImageFile,
    /// Something of the storage application was deleted or replaced, and its record is still in the log.
    remains: bool,
    timing: Option<&'static Profile>,
    used: Arc<Used>,
}

/// What a card finds on this machine.
pub(super) struct Surroundings {
    /// The card whose slowness it imitates.
    pub(super) timing: Option<&'static Profile>,
    /// Holds its private keys.
    pub(super) keys: Arc<dyn KeyStore>,
    /// Counts what it does.
    pub(super) used: Arc<Used>,
}

/// Where a card's memory is.
pub(super) struct Image<'a> {
    pub(super) path: &'a Path,
    pub(super) seid: Seid,
    pub(super) birth: &'a Birth,
    pub(super) master: Arc<MasterKey>,
}

/// Opens the element of an image, or makes a new one. Slots of `adopt` that are empty get the keys that the
/// store has under these identifiers.
pub(super) fn open(
    image: &Image<'_>,
    surroundings: Surroundings,
    adopt: &[(KeySlot, Vec<u8>)],
) -> Result<Box<dyn SecureElement>, ElementError> {
    let Surroundings { timing, keys, used } = surroundings;
    let storage = |error: &dyn std::fmt::Display| ElementError::Storage(error.to_string());
    let opened = crate::long_step(|| {
        ImageFile::open(image.path, image.seid, image.master.clone(), image.birth)
    });
    let (mut image, mut nvm) = opened.map_err(|error| storage(&error))?;
    for (KeySlot(slot), id) in adopt {
        if keyring::is_filled(&nvm, *slot) {
            continue;
        }
        let stored = keys.adopt(id).map_err(|error| storage(&error))?;
        let delta = keyring::filled(*slot, &stored.blob);
        crate::long_step(|| image.append(&delta)).map_err(|error| storage(&error))?;
        nvm = Nvm::replay([nvm.snapshot(), delta]);
    }
    let card = factory::new_card(nvm, keys);
    Ok(Box::new(Software(Hosted::new(
        card,
        FileHost {
            image,
            remains: false,
            timing,
            used,
        },
    ))))
}

impl Host for FileHost {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        crate::long_step(|| self.image.append(delta))?;
        self.remains |= delta.changes.iter().any(|(name, value)| {
            ["storage/object/", "storage/key/"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                && value.is_none()
        });
        Ok(())
    }

    fn spend(&mut self, cost: &Cost) {
        self.used.count(cost);
        if let Some(profile) = self.timing {
            std::thread::sleep(profile.price(cost));
        }
    }
}

impl Software {
    /// Writes the image anew where its log is long, or where it still holds what was deleted.
    fn compact_if_due(&mut self) {
        let host = self.0.host();
        if !host.remains && !host.image.is_long(self.0.card().nvm()) {
            return;
        }
        let nvm = self.0.card().nvm().clone();
        let compacted = crate::long_step(|| self.0.host_mut().image.compact(&nvm));
        match compacted {
            Ok(()) => self.0.host_mut().remains = false,
            Err(error) => tracing::warn!(%error, "the image stays long"),
        }
    }
}

impl SecureElement for Software {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.0.power_on()
    }

    fn power_off(&mut self) {
        self.0.power_off();
        self.compact_if_due();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        let atr = self.0.reset(warm);
        self.compact_if_due();
        atr
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.0.transmit(apdu)
    }
}
