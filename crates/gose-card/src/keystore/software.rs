//! Private keys in the card's own image: PKCS#8 blobs, computed with by AWS-LC.

mod ec;
mod rsa;

use std::sync::Arc;

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::EcdsaKeyPair,
};
use zeroize::Zeroizing;

use super::{Algorithm, KeyError, KeyStore, PrivateKey, Stored};

/// The store of a card whose keys lie in its (encrypted) image: a blob is the PKCS#8 DER of the key.
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftwareKeyStore;

impl KeyStore for SoftwareKeyStore {
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
        let blob = match algorithm {
            Algorithm::P256 | Algorithm::P384 => ec::generate(algorithm)?,
            Algorithm::Rsa2048 | Algorithm::Rsa3072 => rsa::generate(algorithm)?,
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
