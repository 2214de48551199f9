//! Secret keys of the card: a record each in non-volatile memory, opened keys in front of them.
//!
//! A record is `version (1) ‖ algorithm (1) ‖ export (1) ‖ origin (1) ‖ length of the label (1) ‖ label ‖ blob`.

use std::{collections::HashMap, sync::Arc};

use zeroize::Zeroizing;

use super::Keyring;
use crate::{
    keystore::{Export, KeyError, SecretAlgorithm, SecretKey, StoredSecret},
    nvm::Nvm,
};

const PREFIX: &str = "storage/key/";
const VERSION: u8 = 1;

/// How a secret key came into the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made in the card.
    Generated,
    /// Given by the administrator.
    Imported,
    /// Unwrapped by another key of the card.
    Unwrapped,
}

impl Origin {
    /// The identifier in commands and records.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Generated => 1,
            Self::Imported => 2,
            Self::Unwrapped => 3,
        }
    }

    fn from_id(id: u8) -> Option<Self> {
        [Self::Generated, Self::Imported, Self::Unwrapped]
            .into_iter()
            .find(|origin| origin.id() == id)
    }
}

/// What stands beside a secret key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Its algorithm, which is its use.
    pub algorithm: SecretAlgorithm,
    /// Whether it may leave wrapped.
    pub export: Export,
    /// How it came into the card.
    pub origin: Origin,
    /// What people call it.
    pub label: Vec<u8>,
}

/// A secret key that can be used, and what stands beside it.
pub type OpenedSecret = (Attributes, Arc<dyn SecretKey>);

/// Opened secret keys, and blobs whose end depends on the disk.
#[derive(Default)]
pub(super) struct Secrets {
    open: HashMap<u8, Arc<dyn SecretKey>>,
    /// Made by the running command: destroyed if it does not become durable.
    born: Vec<Zeroizing<Vec<u8>>>,
    /// Deleted by the running command: destroyed once that is durable.
    dead: Vec<Zeroizing<Vec<u8>>>,
}

impl Keyring {
    /// A secret key and what stands beside it; `None` where there is none.
    ///
    /// # Errors
    /// [`KeyError`] when the store cannot open it.
    pub fn secret(&mut self, nvm: &Nvm, reference: u8) -> Result<Option<OpenedSecret>, KeyError> {
        let Some((attributes, blob)) = record(nvm, reference)? else {
            return Ok(None);
        };
        if let Some(key) = self.secrets.open.get(&reference) {
            return Ok(Some((attributes, key.clone())));
        }
        let key = self.store.open_secret(blob)?;
        self.secrets.open.insert(reference, key.clone());
        Ok(Some((attributes, key)))
    }

    /// What stands beside a secret key; `None` where there is none.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a record of another version.
    pub fn secret_attributes(nvm: &Nvm, reference: u8) -> Result<Option<Attributes>, KeyError> {
        Ok(record(nvm, reference)?.map(|(attributes, _)| attributes))
    }

    /// References of all secret keys, in order.
    #[must_use]
    pub fn secret_references(nvm: &Nvm) -> Vec<u8> {
        nvm.names(PREFIX)
            .iter()
            .filter_map(|name| u8::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok())
            .collect()
    }

    /// Makes a secret key (staged).
    ///
    /// # Errors
    /// [`KeyError`] of the store.
    pub fn generate_secret(
        &mut self,
        nvm: &mut Nvm,
        reference: u8,
        attributes: &Attributes,
    ) -> Result<(), KeyError> {
        let stored = self
            .store
            .generate_secret(attributes.algorithm, attributes.export)?;
        self.keep_secret(nvm, reference, attributes, stored);
        Ok(())
    }

    /// Takes a secret key in (staged).
    ///
    /// # Errors
    /// [`KeyError`] of the store.
    pub fn import_secret(
        &mut self,
        nvm: &mut Nvm,
        reference: u8,
        attributes: &Attributes,
        key: &[u8],
    ) -> Result<(), KeyError> {
        let stored = self
            .store
            .import_secret(attributes.algorithm, attributes.export, key)?;
        self.keep_secret(nvm, reference, attributes, stored);
        Ok(())
    }

    /// Wraps one key by another one. A key that may not leave, and a key that wraps, are never wrapped.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for keys of another use, [`KeyError`] of the store; `None` where one of the
    /// two is not there.
    pub fn wrap_secret(
        &self,
        nvm: &Nvm,
        wrapping: u8,
        reference: u8,
    ) -> Result<Option<Vec<u8>>, KeyError> {
        let (Some((by, by_blob)), Some((what, blob))) =
            (record(nvm, wrapping)?, record(nvm, reference)?)
        else {
            return Ok(None);
        };
        let leaves = what.export == Export::Wrapped && !what.algorithm.wraps();
        if !by.algorithm.wraps() || !leaves {
            return Err(KeyError::Unsupported);
        }
        self.store.wrap_secret(by_blob, blob).map(Some)
    }

    /// Takes in a key that another one of the card wrapped (staged). What comes out never wraps: the same bytes
    /// under two uses would let one use show what the other one hides.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for keys of another use, [`KeyError`] of the store; `None` without a wrapping key.
    pub fn unwrap_secret(
        &mut self,
        nvm: &mut Nvm,
        wrapping: u8,
        reference: u8,
        attributes: &Attributes,
        wrapped: &[u8],
    ) -> Result<Option<()>, KeyError> {
        let Some((by, by_blob)) = record(nvm, wrapping)? else {
            return Ok(None);
        };
        if !by.algorithm.wraps() || attributes.algorithm.wraps() {
            return Err(KeyError::Unsupported);
        }
        let stored =
            self.store
                .unwrap_secret(by_blob, wrapped, attributes.algorithm, attributes.export)?;
        self.keep_secret(nvm, reference, attributes, stored);
        Ok(Some(()))
    }

    /// Deletes a secret key (staged).
    pub fn remove_secret(&mut self, nvm: &mut Nvm, reference: u8) {
        self.secrets.open.remove(&reference);
        if let Ok(Some((_, blob))) = record(nvm, reference) {
            self.secrets.dead.push(Zeroizing::new(blob.to_vec()));
        }
        let name = name(reference);
        if nvm.get(&name).is_some() {
            nvm.delete(name);
        }
    }

    fn keep_secret(
        &mut self,
        nvm: &mut Nvm,
        reference: u8,
        attributes: &Attributes,
        stored: StoredSecret,
    ) {
        self.remove_secret(nvm, reference);
        let label = attributes.label.get(..255).unwrap_or(&attributes.label);
        let head = [
            VERSION,
            attributes.algorithm.id(),
            u8::from(attributes.export == Export::Wrapped),
            attributes.origin.id(),
            u8::try_from(label.len()).unwrap_or(u8::MAX),
        ];
        let mut value = Vec::with_capacity(head.len() + label.len() + stored.blob.len());
        value.extend_from_slice(&head);
        value.extend_from_slice(label);
        value.extend_from_slice(&stored.blob);
        nvm.put(name(reference), value);
        self.secrets.open.insert(reference, stored.key);
        self.secrets.born.push(stored.blob);
    }
}

impl Secrets {
    /// What was staged is durable: the blobs that the store may forget now.
    pub(super) fn committed(&mut self) -> Vec<Zeroizing<Vec<u8>>> {
        self.born.clear();
        std::mem::take(&mut self.dead)
    }

    /// What was staged is gone: the blobs that the store may forget now.
    pub(super) fn rolled_back(&mut self) -> Vec<Zeroizing<Vec<u8>>> {
        self.open.clear();
        self.dead.clear();
        std::mem::take(&mut self.born)
    }
}

fn record(nvm: &Nvm, reference: u8) -> Result<Option<(Attributes, &[u8])>, KeyError> {
    let Some(value) = nvm.get(&name(reference)) else {
        return Ok(None);
    };
    parse(value).map(Some).ok_or(KeyError::Input)
}

fn parse(value: &[u8]) -> Option<(Attributes, &[u8])> {
    let [VERSION, algorithm, export, origin, length, rest @ ..] = value else {
        return None;
    };
    let (label, blob) = rest.split_at_checked(usize::from(*length))?;
    let attributes = Attributes {
        algorithm: SecretAlgorithm::from_id(*algorithm)?,
        export: match export {
            0 => Export::Never,
            1 => Export::Wrapped,
            _ => return None,
        },
        origin: Origin::from_id(*origin)?,
        label: label.to_vec(),
    };
    Some((attributes, blob))
}

fn name(reference: u8) -> String {
    format!("{PREFIX}{reference:02x}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::keystore::{Algorithm, KeyStore, PrivateKey, SoftwareKeyStore, Stored};

    /// The software store, which tells what it was asked to destroy.
    #[derive(Default)]
    struct Outside(Mutex<Vec<Vec<u8>>>);

    impl KeyStore for Outside {
        fn generate(&self, _algorithm: Algorithm) -> Result<Stored, KeyError> {
            Err(KeyError::Unsupported)
        }
        fn import(&self, _pkcs8: &[u8]) -> Result<Stored, KeyError> {
            Err(KeyError::Unsupported)
        }
        fn open(&self, _blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
            Err(KeyError::Unsupported)
        }
        fn generate_secret(
            &self,
            algorithm: SecretAlgorithm,
            export: Export,
        ) -> Result<StoredSecret, KeyError> {
            SoftwareKeyStore.generate_secret(algorithm, export)
        }
        fn open_secret(&self, blob: &[u8]) -> Result<Arc<dyn SecretKey>, KeyError> {
            SoftwareKeyStore.open_secret(blob)
        }
        fn destroy_secret(&self, blob: &[u8]) {
            self.0.lock().unwrap().push(blob.to_vec());
        }
    }

    #[test]
    fn a_store_outside_forgets_what_is_gone_for_good() {
        let store = Arc::new(Outside::default());
        let mut keys = Keyring::new(store.clone());
        let mut nvm = Nvm::default();
        let attributes = Attributes {
            algorithm: SecretAlgorithm::Aes256Gcm,
            export: Export::Never,
            origin: Origin::Generated,
            label: b"disk".to_vec(),
        };
        let destroyed = || store.0.lock().unwrap().len();
        keys.generate_secret(&mut nvm, 1, &attributes).unwrap();
        nvm.roll_back();
        keys.forget();
        assert_eq!(destroyed(), 1, "made, but not durable");

        keys.generate_secret(&mut nvm, 1, &attributes).unwrap();
        nvm.commit();
        keys.committed();
        assert_eq!(destroyed(), 1);
        assert_eq!(Keyring::secret_references(&nvm), [1]);
        assert_eq!(keys.secret(&nvm, 1).unwrap().unwrap().0, attributes);

        keys.remove_secret(&mut nvm, 1);
        nvm.roll_back();
        keys.forget();
        assert_eq!(destroyed(), 1, "deleted, but not durably");
        assert!(keys.secret(&nvm, 1).unwrap().is_some());

        keys.remove_secret(&mut nvm, 1);
        nvm.commit();
        keys.committed();
        assert_eq!(destroyed(), 2);
        assert!(keys.secret(&nvm, 1).unwrap().is_none());
    }

    #[test]
    fn records_of_others_are_refused() {
        for bad in [
            &b""[..],
            b"\x02\x01\x00\x01\x00",
            b"\x01\x09\x00\x01\x00",
            b"\x01\x01\x02\x01\x00",
            b"\x01\x01\x00\x04\x00",
            b"\x01\x01\x00\x01\x05abc",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
