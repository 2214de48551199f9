//! The joint for whatever holds private keys: software, a TPM 2.0, a PKCS#11 HSM.

mod software;

use std::{fmt, sync::Arc};

pub use gose_element::{Algorithm, Scheme, SecretAlgorithm};
pub(crate) use software::Numbers;
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

/// A secret (symmetric) key, wherever it lives. No call gives the key itself.
pub trait SecretKey: Send + Sync + fmt::Debug {
    /// Which kind of key: it decides which of the calls below work.
    fn algorithm(&self) -> SecretAlgorithm;

    /// AES-GCM: the ciphertext with its 16-byte tag behind it. The card draws the nonce and never asks for one
    /// twice. A holder that has no GCM makes it of AES in counter mode and GHASH (NIST SP 800-38D, 7.1).
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for a key of another use.
    fn seal(
        &self,
        _nonce: &[u8; 12],
        _associated: &[u8],
        _plaintext: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Opens what [`SecretKey::seal`] gave.
    ///
    /// # Errors
    /// [`KeyError::Mismatch`] for anything else; not a byte of the plaintext is given then.
    fn unseal(
        &self,
        _nonce: &[u8; 12],
        _associated: &[u8],
        _sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// HMAC with SHA-256 over a message.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] for a key of another use.
    fn mac(&self, _message: &[u8]) -> Result<[u8; 32], KeyError> {
        Err(KeyError::Unsupported)
    }
}

/// Whether a secret key may leave its store in any form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// It never does (PKCS#11: CKA_EXTRACTABLE false).
    Never,
    /// Wrapped by a key of the same store (CKA_EXTRACTABLE and CKA_SENSITIVE true).
    Wrapped,
}

/// Lets a secret key do what it is for.
///
/// # Errors
/// [`KeyError::Unsupported`] for another use.
pub fn only_if(is_its_use: bool) -> Result<(), KeyError> {
    is_its_use.then_some(()).ok_or(KeyError::Unsupported)
}

/// Takes a key of a length that the algorithm has.
///
/// # Errors
/// [`KeyError::Input`] for another one.
pub fn fitting(algorithm: SecretAlgorithm, key_len: usize) -> Result<(), KeyError> {
    let fits = algorithm.takes(key_len);
    fits.then_some(()).ok_or(KeyError::Input)
}

/// Bytes of the key that is in wrapped bytes: two blocks of eight or more, and one more that proves them (RFC 3394, 2.2).
///
/// # Errors
/// [`KeyError::Mismatch`] for bytes that nobody wrapped.
pub fn wrapped_len(wrapped: &[u8]) -> Result<usize, KeyError> {
    let len = wrapped.len().checked_sub(8);
    len.filter(|len| *len >= 16 && len.is_multiple_of(8))
        .ok_or(KeyError::Mismatch)
}

/// A secret key that a store made or took in: the card keeps the blob in its image.
#[derive(Clone)]
pub struct StoredSecret {
    /// What [`KeyStore::open_secret`] needs to find the key again.
    pub blob: Zeroizing<Vec<u8>>,
    /// The opened key.
    pub key: Arc<dyn SecretKey>,
}

/// Makes, takes in and opens private keys and secret keys. A store that holds private keys alone leaves the
/// methods of secret keys as they are.
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

    /// The card has durably replaced or deleted a key pair that [`KeyStore::generate`] made, or never made it durable: a
    /// store that keeps keys outside of their blobs (an HSM) deletes it. What fails here is left behind.
    fn destroy(&self, _blob: &[u8]) {}

    /// Makes a secret key of [`SecretAlgorithm::key_len`] bytes.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] or the store's own failure.
    fn generate_secret(
        &self,
        _algorithm: SecretAlgorithm,
        _export: Export,
    ) -> Result<StoredSecret, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Takes in a secret key.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a length that [`SecretAlgorithm::takes`] refuses, [`KeyError::Unsupported`] where
    /// keys cannot be imported.
    fn import_secret(
        &self,
        _algorithm: SecretAlgorithm,
        _export: Export,
        _key: &[u8],
    ) -> Result<StoredSecret, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Opens a secret key by the blob that [`KeyStore::generate_secret`], [`KeyStore::import_secret`] or
    /// [`KeyStore::unwrap_secret`] gave.
    ///
    /// # Errors
    /// [`KeyError::Input`] for a blob of another store.
    fn open_secret(&self, _blob: &[u8]) -> Result<Arc<dyn SecretKey>, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Wraps the key of one blob by the key of another one, as RFC 3394 says, with the default initial value. The
    /// card has checked that the first may leave and that the second wraps; a store that knows it too checks again.
    ///
    /// # Errors
    /// [`KeyError::Unsupported`] where keys cannot leave in any form.
    fn wrap_secret(&self, _wrapping: &[u8], _key: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// Takes in a key that was wrapped by [`KeyStore::wrap_secret`], here or elsewhere.
    ///
    /// # Errors
    /// [`KeyError::Mismatch`] for bytes that this key did not wrap, [`KeyError::Input`] for a key of a length
    /// that the algorithm does not take.
    fn unwrap_secret(
        &self,
        _wrapping: &[u8],
        _wrapped: &[u8],
        _algorithm: SecretAlgorithm,
        _export: Export,
    ) -> Result<StoredSecret, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// The card has deleted the secret key of a blob durably, or never made it durable: a store that keeps keys
    /// outside of their blobs (an HSM) deletes it. What fails here is left behind.
    fn destroy_secret(&self, _blob: &[u8]) {}
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
    /// What was given is not what the key sealed or wrapped.
    #[error("not made by this key, or changed since")]
    Mismatch,
    /// The store refuses the authorisation value that it was given for the key, and counts it.
    #[error(
        "the key store refuses the authorisation value, {tries} tries are left; correct it before it is locked"
    )]
    Denied {
        /// Tries left.
        tries: u8,
    },
    /// The store takes no authorisation value any more.
    #[error("the key store is locked: {0}")]
    Locked(String),
    /// The store failed.
    #[error("key store: {0}")]
    Store(String),
}
