//! The card's key slots: blobs in non-volatile memory, opened keys in front of them.

mod secrets;

use std::{collections::HashMap, sync::Arc};

use zeroize::Zeroizing;

pub use self::secrets::{Attributes, OpenedSecret, Origin};
use crate::{
    keystore::{Algorithm, KeyError, KeyStore, PrivateKey, Stored},
    nvm::{Delta, Nvm},
};

/// Key slots, numbered by PIV's key references (9A, 9C, 9D, 9E, 82 to 95). PIV and EAP-TLS share them.
pub struct Keyring {
    store: Arc<dyn KeyStore>,
    open: HashMap<u8, Arc<dyn PrivateKey>>,
    secrets: secrets::Secrets,
    /// Made by the running command: destroyed if it does not become durable.
    born: Vec<Zeroizing<Vec<u8>>>,
    /// Replaced or deleted by the running command: destroyed once that is durable.
    dead: Vec<Zeroizing<Vec<u8>>>,
}

impl Keyring {
    /// Slots whose keys live in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn KeyStore>) -> Self {
        Self {
            store,
            open: HashMap::new(),
            secrets: secrets::Secrets::default(),
            born: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// The key of a slot; `None` where there is none.
    ///
    /// # Errors
    /// [`KeyError`] when the store cannot open it.
    pub fn get(&mut self, nvm: &Nvm, slot: u8) -> Result<Option<Arc<dyn PrivateKey>>, KeyError> {
        if let Some(key) = self.open.get(&slot) {
            return Ok(Some(key.clone()));
        }
        let Some(blob) = nvm.get(&name(slot)) else {
            return Ok(None);
        };
        let key = self.store.open(blob)?;
        self.open.insert(slot, key.clone());
        Ok(Some(key))
    }

    /// Makes a key pair in a slot (staged), in place of the one there.
    ///
    /// # Errors
    /// [`KeyError`] of the store.
    pub fn generate(
        &mut self,
        nvm: &mut Nvm,
        slot: u8,
        algorithm: Algorithm,
    ) -> Result<Arc<dyn PrivateKey>, KeyError> {
        let stored = self.store.generate(algorithm)?;
        self.bury(nvm, slot);
        nvm.put(origin(slot), [GENERATED]);
        self.born.push(stored.blob.clone());
        Ok(self.keep(nvm, slot, stored))
    }

    /// Takes a PKCS#8 private key into a slot (staged), in place of the one there.
    ///
    /// # Errors
    /// [`KeyError`] of the store.
    pub fn import(
        &mut self,
        nvm: &mut Nvm,
        slot: u8,
        pkcs8: &[u8],
    ) -> Result<Arc<dyn PrivateKey>, KeyError> {
        let stored = self.store.import(pkcs8)?;
        self.bury(nvm, slot);
        nvm.put(origin(slot), [IMPORTED]);
        self.born.push(stored.blob.clone());
        Ok(self.keep(nvm, slot, stored))
    }

    /// Whether a slot holds a key.
    #[must_use]
    pub fn contains(&self, nvm: &Nvm, slot: u8) -> bool {
        nvm.get(&name(slot)).is_some()
    }

    /// Whether the key of a slot was made by [`Keyring::generate`]: nobody outside of the store ever had it. Keys
    /// that were made before this was written down are not known to be.
    #[must_use]
    pub fn was_generated(&self, nvm: &Nvm, slot: u8) -> bool {
        self.contains(nvm, slot) && nvm.get(&origin(slot)) == Some(&[GENERATED])
    }

    /// Deletes the key of a slot (staged).
    pub fn remove(&mut self, nvm: &mut Nvm, slot: u8) {
        self.open.remove(&slot);
        self.bury(nvm, slot);
        if self.contains(nvm, slot) {
            nvm.delete(name(slot));
        }
        forget_origin(nvm, slot);
    }

    /// Forgets opened keys: what was staged is gone.
    pub fn forget(&mut self) {
        self.open.clear();
        self.dead.clear();
        for blob in std::mem::take(&mut self.born) {
            self.store.destroy(&blob);
        }
        for blob in self.secrets.rolled_back() {
            self.store.destroy_secret(&blob);
        }
    }

    /// What was staged is durable now.
    pub fn committed(&mut self) {
        self.born.clear();
        for blob in std::mem::take(&mut self.dead) {
            self.store.destroy(&blob);
        }
        for blob in self.secrets.committed() {
            self.store.destroy_secret(&blob);
        }
    }

    /// The key of a slot is about to go: a key pair that the card made or took in goes from its store, too; one that the
    /// store had before does not.
    fn bury(&mut self, nvm: &Nvm, slot: u8) {
        let is_own = matches!(nvm.get(&origin(slot)), Some(&[GENERATED | IMPORTED]));
        if let Some(blob) = nvm.get(&name(slot)).filter(|_| is_own) {
            self.dead.push(Zeroizing::new(blob.to_vec()));
        }
    }

    fn keep(&mut self, nvm: &mut Nvm, slot: u8, stored: Stored) -> Arc<dyn PrivateKey> {
        nvm.put(name(slot), stored.blob.to_vec());
        self.open.insert(slot, stored.key.clone());
        stored.key
    }
}

/// The change that puts a key, by its store's blob, into a slot: for hosts that prepare a card.
#[must_use]
pub fn filled(slot: u8, blob: &[u8]) -> Delta {
    let mut delta = Delta::default();
    let blob = Zeroizing::new(blob.to_vec());
    delta.changes.insert(name(slot), Some(blob));
    delta.changes.insert(origin(slot), None);
    delta
}

/// What the store gave for the key of a slot: for hosts that ask the store about it.
#[must_use]
pub fn blob(nvm: &Nvm, slot: u8) -> Option<&[u8]> {
    nvm.get(&name(slot))
}

/// Whether a slot holds a key.
#[must_use]
pub fn is_filled(nvm: &Nvm, slot: u8) -> bool {
    nvm.get(&name(slot)).is_some()
}

/// How a key came into its slot: it was made there.
const GENERATED: u8 = 1;
/// It came from outside, and its store keeps what the card gave it. Without either the store had the key before.
const IMPORTED: u8 = 2;

fn origin(slot: u8) -> String {
    format!("origin/{slot:02x}")
}

fn forget_origin(nvm: &mut Nvm, slot: u8) {
    if nvm.get(&origin(slot)).is_some() {
        nvm.delete(origin(slot));
    }
}

fn name(slot: u8) -> String {
    format!("key/{slot:02x}")
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::keystore::SoftwareKeyStore;

    /// The software store, which tells what it was asked to destroy.
    #[derive(Default)]
    struct Outside(Mutex<Vec<Vec<u8>>>);

    impl KeyStore for Outside {
        fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
            SoftwareKeyStore.generate(algorithm)
        }
        fn import(&self, pkcs8: &[u8]) -> Result<Stored, KeyError> {
            SoftwareKeyStore.import(pkcs8)
        }
        fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
            SoftwareKeyStore.open(blob)
        }
        fn destroy(&self, blob: &[u8]) {
            self.0.lock().unwrap().push(blob.to_vec());
        }
    }

    #[test]
    fn a_store_outside_loses_what_the_card_made_and_keeps_what_it_had() {
        let store = Arc::new(Outside::default());
        let mut keys = Keyring::new(store.clone());
        let [had, other, another] =
            [(); 3].map(|()| store.generate(Algorithm::P256).unwrap().blob.to_vec());
        let mut nvm = Nvm::replay([filled(0x9A, &had)]);
        let blob = |nvm: &Nvm| nvm.get("key/9a").unwrap().to_vec();
        let destroyed = || store.0.lock().unwrap().clone();

        keys.generate(&mut nvm, 0x9A, Algorithm::P256).unwrap();
        let unborn = blob(&nvm);
        nvm.roll_back();
        keys.forget();
        assert_eq!(destroyed(), [unborn], "made, but not durable");
        assert!(!keys.was_generated(&nvm, 0x9A));

        keys.generate(&mut nvm, 0x9A, Algorithm::P256).unwrap();
        nvm.commit();
        keys.committed();
        assert!(keys.was_generated(&nvm, 0x9A));
        assert_eq!(destroyed().len(), 1, "the store had it before");

        let made = blob(&nvm);
        keys.generate(&mut nvm, 0x9A, Algorithm::P256).unwrap();
        nvm.commit();
        keys.committed();
        assert_eq!(destroyed()[1..], [made]);

        let made = blob(&nvm);
        keys.import(&mut nvm, 0x9A, &other).unwrap();
        nvm.commit();
        keys.committed();
        assert_eq!(destroyed()[2..], [made]);
        assert!(!keys.was_generated(&nvm, 0x9A));

        keys.import(&mut nvm, 0x9A, &another).unwrap();
        nvm.roll_back();
        keys.forget();
        assert_eq!(destroyed()[3..], [another], "taken in, but not durable");
        keys.remove(&mut nvm, 0x9A);
        nvm.commit();
        keys.committed();
        assert_eq!(destroyed()[4..], [other], "what was taken in goes, too");
        assert!(!destroyed().contains(&had), "the store had it before");
    }
}
