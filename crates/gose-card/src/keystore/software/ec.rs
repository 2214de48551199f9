//! ECDSA and ECDH on P-256 and P-384 (FIPS 186-5, SP 800-56A).

use std::fmt;

use aws_lc_rs::{
    agreement,
    digest::{self, Digest},
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair,
    },
};
use zeroize::Zeroizing;

use super::{failed, public_key_info};
use crate::{
    keystore::{Algorithm, KeyError, PrivateKey, Scheme},
    random,
};

pub(super) struct EcKey {
    algorithm: Algorithm,
    pair: EcdsaKeyPair,
    agreement: agreement::PrivateKey,
    public: Vec<u8>,
}

impl EcKey {
    pub(super) fn new(
        algorithm: Algorithm,
        pair: EcdsaKeyPair,
        pkcs8: &[u8],
    ) -> Result<Self, KeyError> {
        let agreement = agreement::PrivateKey::from_private_key_der(curve(algorithm), pkcs8)
            .map_err(|_| KeyError::Input)?;
        Ok(Self {
            algorithm,
            public: public_key_info(pair.public_key())?,
            pair,
            agreement,
        })
    }
}

impl fmt::Debug for EcKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcKey({:?})", self.algorithm)
    }
}

impl PrivateKey for EcKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key_info(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match (self.algorithm, scheme) {
            (Algorithm::P256, Scheme::EcdsaP256Sha256)
            | (Algorithm::P384, Scheme::EcdsaP384Sha384) => {
                let signature = self.pair.sign(&random::signing(), message);
                Ok(signature.map_err(failed)?.as_ref().to_vec())
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let hash = hash(self.algorithm);
        // Zeros in front keep the number that ECDSA computes with.
        let missing = hash
            .output_len()
            .checked_sub(digest.len())
            .filter(|_| !digest.is_empty())
            .ok_or(KeyError::Input)?;
        let mut padded = vec![0; missing];
        padded.extend_from_slice(digest);
        let digest = Digest::import_less_safe(&padded, hash).map_err(failed)?;
        Ok(self
            .pair
            .sign_digest(&digest)
            .map_err(failed)?
            .as_ref()
            .to_vec())
    }

    fn rsa_raw(&self, _block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Err(KeyError::Unsupported)
    }

    fn agree(&self, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if point.first() != Some(&0x04) {
            return Err(KeyError::Input);
        }
        let peer = agreement::UnparsedPublicKey::new(curve(self.algorithm), point);
        agreement::agree(&self.agreement, peer, KeyError::Input, |shared| {
            Ok(Zeroizing::new(shared.to_vec()))
        })
    }
}

pub(super) fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let pair = EcdsaKeyPair::generate(signing(algorithm)).map_err(failed)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(failed)?;
    Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
}

/// PKCS#8 of the key with this number, big-endian.
pub(super) fn from_scalar(
    algorithm: Algorithm,
    scalar: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let private = agreement::PrivateKey::from_private_key(curve(algorithm), scalar)
        .map_err(|_| KeyError::Input)?;
    let public = private.compute_public_key().map_err(|_| KeyError::Input)?;
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(signing(algorithm), scalar, public.as_ref())
            .map_err(|_| KeyError::Input)?;
    let pkcs8 = pair.to_pkcs8v1().map_err(failed)?;
    Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
}

pub(super) fn signing(algorithm: Algorithm) -> &'static EcdsaSigningAlgorithm {
    match algorithm {
        Algorithm::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => &ECDSA_P256_SHA256_ASN1_SIGNING,
    }
}

fn curve(algorithm: Algorithm) -> &'static agreement::Algorithm {
    match algorithm {
        Algorithm::P384 => &agreement::ECDH_P384,
        _ => &agreement::ECDH_P256,
    }
}

/// The hash as long as the curve's order.
fn hash(algorithm: Algorithm) -> &'static digest::Algorithm {
    match algorithm {
        Algorithm::P384 => &digest::SHA384,
        _ => &digest::SHA256,
    }
}
