//! What a TPM of the configuration says of its machine, or of an element's key in it.

use std::path::PathBuf;

use gose_card::{image::Image, keyring};
use gose_element::Seid;

use super::{StoreError, hardware, store_key};
use crate::config::{Config, KeySlot, KeyStore, Slot, SlotKind, SoftwareSlot};

/// What is asked of a TPM.
#[derive(Debug)]
pub struct Question {
    /// Up to 32 bytes of the asker's: the answer is not an older one.
    pub nonce: Vec<u8>,
    /// About what.
    pub about: About,
}

/// What a TPM is asked about.
#[derive(Debug)]
pub enum About {
    /// Platform configuration registers, by numbers of 0 to 23, of the TPM of a `[[key-store]]`.
    Machine(String, Vec<u8>),
    /// The key in this slot of this element.
    Key(Seid, KeySlot),
}

/// A statement and its proof.
#[derive(Debug)]
pub struct Answer {
    /// TPMS_ATTEST.
    pub statement: Vec<u8>,
    /// ECDSA with SHA-256, DER.
    pub signature: Vec<u8>,
    /// SubjectPublicKeyInfo of the attestation key.
    pub attestation_key: Vec<u8>,
}

/// Asks a TPM. The node may run meanwhile; where it holds swtpm, which serves one caller, it is waited for.
///
/// # Errors
/// [`StoreError`].
pub fn attest(config: &Config, question: &Question) -> Result<Answer, StoreError> {
    let wrong = |place: String, cause: String| StoreError::Hardware { place, cause };
    match &question.about {
        About::Machine(name, pcrs) => {
            let place = || format!("[[key-store]] {name}");
            let store = named(config, name).map_err(|cause| wrong(place(), cause))?;
            hardware::quote(store, pcrs, &question.nonce).map_err(|cause| wrong(place(), cause))
        }
        About::Key(seid, KeySlot(slot)) => {
            let place = || format!("[[slot]] {seid}");
            let (store, path) = element(config, *seid).map_err(|cause| wrong(place(), cause))?;
            let failed = |cause: String| wrong(place(), cause);
            let (_, master) = store_key(config)?.ok_or_else(|| failed("no [store]".into()))?;
            let bytes = std::fs::read(&path)
                .map_err(|error| failed(format!("{}: {error}", path.display())))?;
            // Every prefix of an image loads, also of one that is being written.
            let opened = Image::open(&master, seid.as_str(), &bytes)
                .map_err(|error| failed(format!("{}: {error}", path.display())))?;
            let blob = keyring::blob(&opened.nvm, *slot)
                .ok_or_else(|| failed(format!("slot {slot:02X} holds no key")))?;
            hardware::certify(store, blob, &question.nonce).map_err(failed)
        }
    }
}

fn named<'a>(config: &'a Config, name: &str) -> Result<&'a KeyStore, String> {
    let mut stores = config.key_stores.iter();
    stores
        .find(|store| store.name() == name)
        .ok_or_else(|| "there is none of this name".into())
}

/// The key store and the image of an element.
fn element(config: &Config, seid: Seid) -> Result<(&KeyStore, PathBuf), String> {
    let is_wanted = |slot: &&Slot| slot.seid.0 == seid;
    let kind = config.slots.iter().find(is_wanted).map(|slot| &slot.kind);
    let (
        Some(SlotKind::Software(SoftwareSlot {
            image,
            keys: Some(keys),
            ..
        })),
        Some(store),
    ) = (kind, &config.store)
    else {
        return Err("no element of this name has its keys in a TPM".into());
    };
    let path = image.clone();
    let path = path.unwrap_or_else(|| store.directory.join(format!("{seid}.image")));
    Ok((named(config, keys)?, path))
}
