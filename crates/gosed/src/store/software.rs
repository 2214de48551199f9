//! A software element on this machine: its card, its image, its slowness.

use std::{path::Path, sync::Arc};

use gose_card::{
    Host, HostError, Hosted, factory,
    image::MasterKey,
    keystore::KeyStore,
    nvm::Delta,
    timing::{Cost, Profile},
};
use gose_element::{Atr, ElementError, SecureElement, Seid};
use gose_proto::apdu::Response;

use super::file::ImageFile;

/// A card whose image is a file.
struct Software(Hosted<FileHost>);

/// The card's disk and clock.
struct FileHost {
    image: ImageFile,
    timing: Option<&'static Profile>,
}

/// Opens the element of an image, or makes a new one.
pub(super) fn open(
    path: &Path,
    seid: Seid,
    master: Arc<MasterKey>,
    timing: Option<&'static Profile>,
    keys: Arc<dyn KeyStore>,
) -> Result<Box<dyn SecureElement>, ElementError> {
    let (image, nvm) = crate::long_step(|| ImageFile::open(path, seid, master))
        .map_err(|error| ElementError::Storage(error.to_string()))?;
    let card = factory::new_card(nvm, keys);
    Ok(Box::new(Software(Hosted::new(
        card,
        FileHost { image, timing },
    ))))
}

impl Host for FileHost {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        crate::long_step(|| self.image.append(delta))
    }

    fn spend(&mut self, cost: &Cost) {
        if let Some(profile) = self.timing {
            std::thread::sleep(profile.price(cost));
        }
    }
}

impl Software {
    fn compact_if_long(&mut self) {
        if !self.0.host().image.is_long(self.0.card().nvm()) {
            return;
        }
        let nvm = self.0.card().nvm().clone();
        let compacted = crate::long_step(|| self.0.host_mut().image.compact(&nvm));
        if let Err(error) = compacted {
            tracing::warn!(%error, "the image stays long");
        }
    }
}

impl SecureElement for Software {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.0.power_on()
    }

    fn power_off(&mut self) {
        self.0.power_off();
        self.compact_if_long();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        let atr = self.0.reset(warm);
        self.compact_if_long();
        atr
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.0.transmit(apdu)
    }
}
