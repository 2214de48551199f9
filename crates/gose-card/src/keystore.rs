//! The joint for whatever holds private keys: software, a TPM 2.0, a PKCS#11 HSM.

mod software;

use std::{fmt, sync::Arc};

pub use gose_element::{Algorithm, Scheme};
pub use software::SoftwareKeyStore;
use zeroize::Zeroizing;

/// A private key, wherever it lives. Calls are synchronous; a store that may block runs its card on a
/// thread of its own.
pub trait PrivateKey: Send + Sync + fmt::Debug {
    /// Which kind of key.
    fn algorithm(&self) -> Algorithm;

    /// The public key: DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
    fn public_key_info(&self) -> &[u8];

    /// Signs a whole message; ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] if the key has another algorithm.
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// ECDSA over a digest that the host made (PIV GENERAL AUTHENTICATE): DER signature.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a digest longer than the curve's order.
    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, KeyError>;

    /// The raw RSA private operation on a block as long as the modulus.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a block of another length or not below the modulus.
    fn rsa_raw(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError>;

    /// ECDH with an uncompressed point (04 X Y): the shared X coordinate.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a point that is not on the curve.
    fn agree(&self, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError>;
}

/// A key pair that a store made or took in: the card keeps the blob in its image.
#[derive(Clone)]
pub struct Stored {
    /// What [`KeyStore::open`] needs to find the key again: the key itself only where the store is the
    /// (encrypted) image; a wrapped blob or a handle elsewhere.
    pub blob: Zeroizing<Vec<u8>>,
    /// The opened key.
    pub key: Arc<dyn PrivateKey>,
}

/// Makes, takes in and opens private keys.
pub trait KeyStore: Send + Sync {
    /// Makes a key pair.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] or the store's own failure.
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError>;

    /// Takes in a PKCS#8 DER private key.
    ///
    /// # Errors
    /// [`KeyError::Input`] for anything else, [`KeyError::Unsupported`] where keys cannot be imported.
    fn import(&self, pkcs8: &[u8]) -> Result<Stored, KeyError>;

    /// Takes up a key pair that the store has already, by the store's own identifier for it.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] where keys have no identifiers, [`KeyError::Store`] where there is none.
    fn adopt(&self, _id: &[u8]) -> Result<Stored, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Opens a key by the blob that [`KeyStore::generate`] or [`KeyStore::import`] gave.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a blob of another store.
    fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError>;
}

/// Why a key operation gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key or the store cannot do this.
    #[error("this key cannot do that")]
    Unsupported,
    /// The input has a wrong length or value.
    #[error("input of a wrong length or value")]
    Input,
    /// The store failed.
    #[error("key store: {0}")]
    Store(String),
}
