//! A software element on this machine: its card, its image, its slowness, its faults.

use std::{path::PathBuf, sync::Arc, time::Duration};

use gose_card::{
    Host, HostError, Hosted, factory,
    fault::{Faulty, Slowness},
    image::MasterKey,
    keyring,
    keystore::KeyStore,
    nvm::{Delta, Nvm},
    timing::{Cost, Profile},
};
use gose_element::{Atr, ElementError, SecureElement, Seid};
use gose_proto::apdu::Response;

use super::{births::Birth, file::ImageFile};
use crate::{
    config::KeySlot,
    grid::{Memory, Used},
};

/// A card whose image is a file.
struct Software(Hosted<FileHost>);

/// The card's disk and clock.
struct FileHost {
    image: ImageFile,
    /// Something of the storage application was deleted or replaced, and its record is still in the log.
    remains: bool,
    timing: Option<&'static Profile>,
    used: Arc<Used>,
    /// How many times as long the next command takes.
    factor: u16,
    /// Something was written that nobody was told of yet.
    changed: bool,
}

/// Where a card's memory is.
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) seid: Seid,
    pub(super) birth: Birth,
    pub(super) master: Arc<MasterKey>,
}

/// Opens the element of an image, or makes a new one. Slots of `adopt` that are empty get the keys that the
/// store has under these identifiers.
pub(super) fn open(
    image: &Image,
    keys: Arc<dyn KeyStore>,
    used: &Arc<Used>,
    adopt: &[(KeySlot, Vec<u8>)],
) -> Result<Box<dyn SecureElement>, ElementError> {
    let storage = |error: &dyn std::fmt::Display| ElementError::Storage(error.to_string());
    let opened = crate::long_step(|| {
        ImageFile::open(&image.path, image.seid, image.master.clone(), &image.birth)
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
    let settings = used.settings();
    let quota = usize::try_from(settings.quota).unwrap_or(usize::MAX);
    let card = factory::new_card_within(settings.storage, nvm, keys).with_quota(quota);
    let host = FileHost {
        image,
        remains: false,
        timing: settings.timing,
        used: used.clone(),
        factor: 1,
        changed: true,
    };
    let mut software = Software(Hosted::new(card, host));
    software.tell();
    Ok(match &settings.faults {
        Some(faults) => Box::new(Faulty::new(software, faults.clone())),
        None => Box::new(software),
    })
}

impl Host for FileHost {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        self.changed = true;
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
        let factor = std::mem::replace(&mut self.factor, 1);
        if let Some(profile) = self.timing {
            let price = profile.price(cost).saturating_mul(factor.into());
            std::thread::sleep(price.min(LONGEST));
        }
    }
}

/// No command takes longer, however slow its card is made.
const LONGEST: Duration = Duration::from_secs(600);

impl Slowness for Software {
    fn set_factor(&mut self, factor: u16) {
        self.0.host_mut().factor = factor;
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
        self.0.host_mut().changed = true;
        self.tell();
    }

    /// How memory and image stand, for whoever administers the element.
    fn tell(&mut self) {
        let bytes = self.0.card().nvm().size() as u64;
        let host = self.0.host_mut();
        if !std::mem::take(&mut host.changed) {
            return;
        }
        let (image_version, image_bytes, image_records) = host.image.state();
        host.used.tell(Memory {
            bytes,
            image_version,
            image_bytes,
            image_records,
        });
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
        let answer = self.0.transmit(apdu);
        self.tell();
        answer
    }
}
