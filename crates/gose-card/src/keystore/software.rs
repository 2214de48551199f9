//! Keys in the card's own image, computed with by AWS-LC: private keys as PKCS#8, secret keys as their bytes.

mod ec;
mod rsa;
mod secret;

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::EcdsaKeyPair,
};
use zeroize::Zeroizing;

use super::{
    Algorithm, Export, KeyError, KeyStore, PrivateKey, SecretAlgorithm, SecretKey, Stored,
    StoredSecret, fitting,
};

/// The store of a card whose keys lie in its (encrypted) image: a blob is the PKCS#8 DER of the key.
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftwareKeyStore;

/// A private key from outside, as the numbers that it is made of.
pub(crate) enum Numbers<'a> {
    /// The primes of an RSA key whose exponent is 65,537.
    Primes(&'a [u8], &'a [u8]),
    /// The number of a key on a curve, as long as the curve's order.
    Scalar(&'a [u8]),
}

impl Numbers<'_> {
    /// The PKCS#8 that [`KeyStore::import`] takes.
    ///
    /// # Errors
    /// [`KeyError::Input`] for numbers that are no key of this algorithm.
    pub(crate) fn pkcs8(&self, algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        match (self, algorithm.is_rsa()) {
            (Self::Primes(p, q), true) => rsa::from_primes(algorithm, p, q),
            (Self::Scalar(scalar), false) => ec::from_scalar(algorithm, scalar),
            _ => Err(KeyError::Input),
        }
    }
}

impl KeyStore for SoftwareKeyStore {
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
        let blob = match algorithm {
            Algorithm::P256 | Algorithm::P384 => ec::generate(algorithm)?,
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
                rsa::generate(algorithm)?
            }
            _ => return Err(KeyError::Unsupported),
        };
        self.import(&blob)
    }

    fn import(&self, pkcs8: &[u8]) -> Result<Stored, KeyError> {
        Ok(Stored {
            blob: Zeroizing::new(pkcs8.to_vec()),
            key: self.open(pkcs8)?,
        })
    }

    fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
        for algorithm in [Algorithm::P256, Algorithm::P384] {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(ec::signing(algorithm), blob) {
                return Ok(Arc::new(ec::EcKey::new(algorithm, pair, blob)?));
            }
        }
        Ok(Arc::new(rsa::RsaKey::open(blob)?))
    }

    fn generate_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
    ) -> Result<StoredSecret, KeyError> {
        let mut bytes = Zeroizing::new(vec![0; algorithm.key_len()]);
        crate::random::fill(&mut bytes).map_err(|error| KeyError::Store(error.to_string()))?;
        self.import_secret(algorithm, export, &bytes)
    }

    fn import_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
        key: &[u8],
    ) -> Result<StoredSecret, KeyError> {
        fitting(algorithm, key.len())?;
        let blob = secret::encode(algorithm, export, key);
        Ok(StoredSecret {
            key: self.open_secret(&blob)?,
            blob,
        })
    }

    fn open_secret(&self, blob: &[u8]) -> Result<Arc<dyn SecretKey>, KeyError> {
        Ok(Arc::new(secret::Secret::open(blob)?))
    }

    fn wrap_secret(&self, wrapping: &[u8], key: &[u8]) -> Result<Vec<u8>, KeyError> {
        secret::wrap(wrapping, key)
    }

    fn unwrap_secret(
        &self,
        wrapping: &[u8],
        wrapped: &[u8],
        algorithm: SecretAlgorithm,
        export: Export,
    ) -> Result<StoredSecret, KeyError> {
        let key = secret::unwrap(wrapping, wrapped)?;
        self.import_secret(algorithm, export, &key)
    }
}

/// The DER SubjectPublicKeyInfo of a public key.
fn public_key_info(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>, KeyError> {
    Ok(key.as_der().map_err(failed)?.as_ref().to_vec())
}

/// AWS-LC tells no reason.
fn failed(_: aws_lc_rs::error::Unspecified) -> KeyError {
    KeyError::Store("the operation failed in AWS-LC".into())
}

#[cfg(test)]
mod tests;
