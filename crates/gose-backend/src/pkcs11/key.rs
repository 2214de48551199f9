//! A key on a token.

use std::{fmt, sync::Arc};

use cryptoki::{
    mechanism::{
        Mechanism,
        elliptic_curve::{EcKdf, Ecdh1DeriveParams},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass},
    session::{Session, UserType},
    types::AuthPin,
};
use gose_card::keystore::{Algorithm, KeyError, PrivateKey, Scheme};
use gose_element::drive::piv;
use zeroize::Zeroizing;

use super::{
    HsmError,
    object::{Found, Object},
    pool::Pool,
};
use crate::der;

const MAGIC: &[u8] = b"GoSE-P11\x01";

/// What the card keeps of a key: `algorithm (1) ‖ length of CKA_ID (1) ‖ CKA_ID ‖ SubjectPublicKeyInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) algorithm: Algorithm,
    pub(super) id: Vec<u8>,
    pub(super) public: Vec<u8>,
}

impl Blob {
    pub(super) fn encode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let len = u8::try_from(self.id.len()).ok()?;
        let head = [self.algorithm.id(), len];
        Some(Zeroizing::new(
            [MAGIC, &head, &self.id, &self.public].concat(),
        ))
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [algorithm, len, rest @ ..] = bytes.strip_prefix(MAGIC)? else {
            return None;
        };
        let (id, public) = rest.split_at_checked(usize::from(*len))?;
        let algorithm = Algorithm::from_id(*algorithm)?;
        Some(Self {
            algorithm,
            id: id.to_vec(),
            public: public.to_vec(),
        })
    }
}

pub(super) struct HsmKey {
    object: Object,
    blob: Blob,
}

impl HsmKey {
    pub(super) fn new(pool: Arc<Pool>, blob: Blob) -> Self {
        Self {
            object: Object::new(pool, ObjectClass::PRIVATE_KEY, blob.id.clone()),
            blob,
        }
    }

    fn run<T>(
        &self,
        operation: impl Fn(&Session, Found) -> Result<T, HsmError>,
    ) -> Result<T, KeyError> {
        Ok(self.object.run(operation)?)
    }

    fn signature(
        &self,
        session: &Session,
        key: Found,
        mechanism: &Mechanism<'_>,
        data: &[u8],
    ) -> Result<Vec<u8>, HsmError> {
        if !key.always_authenticate {
            return Ok(session.sign(mechanism, key.handle, data)?);
        }
        session.sign_init(mechanism, key.handle)?;
        if let Some(pin) = &self.object.pool.settings.pin {
            session.login(
                UserType::ContextSpecific,
                Some(&AuthPin::from(pin.as_str())),
            )?;
        }
        session.sign_update(data)?;
        Ok(session.sign_final()?)
    }

    /// Bytes of a coordinate of the curve; `None` for RSA.
    fn coordinate(&self) -> Option<usize> {
        match self.blob.algorithm {
            Algorithm::P256 => Some(32),
            Algorithm::P384 => Some(48),
            _ => None,
        }
    }
}

impl fmt::Debug for HsmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HsmKey({:?})", self.blob.algorithm)
    }
}

impl PrivateKey for HsmKey {
    fn algorithm(&self) -> Algorithm {
        self.blob.algorithm
    }

    fn public_key_info(&self) -> &[u8] {
        &self.blob.public
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let algorithm = self.blob.algorithm;
        let input = || {
            piv::input(scheme, algorithm, message)
                .map_err(|error| KeyError::Store(error.to_string()))
        };
        match (scheme, algorithm) {
            (Scheme::EcdsaP256Sha256, Algorithm::P256)
            | (Scheme::EcdsaP384Sha384, Algorithm::P384) => self.sign_digest(&input()?),
            (Scheme::RsaPkcs1Sha256 | Scheme::RsaPssSha256, algorithm) if algorithm.is_rsa() => {
                Ok(self.rsa_raw(&input()?)?.to_vec())
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let len = self.coordinate().ok_or(KeyError::Unsupported)?;
        let missing = len
            .checked_sub(digest.len())
            .filter(|_| !digest.is_empty())
            .ok_or(KeyError::Input)?;
        // Zeros in front keep the number that ECDSA computes with.
        let digest = [&vec![0; missing], digest].concat();
        let numbers =
            self.run(|session, key| self.signature(session, key, &Mechanism::Ecdsa, &digest))?;
        let (r, s) = numbers.split_at(numbers.len() / 2);
        Ok(der::ecdsa_signature(r, s))
    }

    fn rsa_raw(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if !self.blob.algorithm.is_rsa() {
            return Err(KeyError::Unsupported);
        }
        let modulus = der::modulus(&self.blob.public).ok_or(KeyError::Input)?;
        // Numbers of one length compare as their bytes do.
        if block.len() != modulus.len() || block >= modulus {
            return Err(KeyError::Input);
        }
        let result = self.run(|session, key| match pkcs1_content(block) {
            // Many HSMs allow padded signatures and forbid the bare operation.
            Some(content) => self.signature(session, key, &Mechanism::RsaPkcs, content),
            None => match self.signature(session, key, &Mechanism::RsaX509, block) {
                Err(HsmError::Unsupported) => {
                    Ok(session.decrypt(&Mechanism::RsaX509, key.handle, block)?)
                }
                other => other,
            },
        })?;
        let missing = block
            .len()
            .checked_sub(result.len())
            .ok_or(KeyError::Input)?;
        Ok(Zeroizing::new([vec![0; missing], result].concat()))
    }

    fn agree(&self, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let len = self.coordinate().ok_or(KeyError::Unsupported)?;
        if point.len() != 1 + 2 * len || point.first() != Some(&0x04) {
            return Err(KeyError::Input);
        }
        let curve = match self.blob.algorithm {
            Algorithm::P384 => &aws_lc_rs::agreement::ECDH_P384,
            _ => &aws_lc_rs::agreement::ECDH_P256,
        };
        // A token that computed with a point of another curve would tell bits of its key.
        let peer = aws_lc_rs::agreement::UnparsedPublicKey::new(curve, point);
        aws_lc_rs::agreement::ParsedPublicKey::try_from(&peer).map_err(|_| KeyError::Input)?;
        let len_attribute = len.try_into().map_err(|_| KeyError::Input)?;
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(len_attribute),
        ];
        self.run(|session, key| {
            let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), point));
            let secret = session.derive_key(&mechanism, key.handle, &template)?;
            let value = session.get_attributes(secret, &[AttributeType::Value]);
            session.destroy_object(secret)?;
            match value?.into_iter().next() {
                Some(Attribute::Value(value)) if value.len() == len => Ok(Zeroizing::new(value)),
                _ => Err(HsmError::Unsupported),
            }
        })
    }
}

/// What stands behind the padding of an EMSA-PKCS1-v1_5 block (RFC 8017, 9.2); `None` for any other block.
fn pkcs1_content(block: &[u8]) -> Option<&[u8]> {
    let padding = block.strip_prefix(&[0x00, 0x01])?;
    let ones = padding.iter().take_while(|byte| **byte == 0xFF).count();
    padding
        .get(ones..)?
        .strip_prefix(&[0x00])
        .filter(|_| ones >= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_round_trip() {
        let blob = Blob {
            algorithm: Algorithm::P384,
            id: vec![1, 2],
            public: vec![3],
        };
        assert_eq!(Blob::decode(&blob.encode().unwrap()), Some(blob));
        for bad in [
            &b"GoSE-P11"[..],
            b"GoSE-P11\x01",
            b"GoSE-P11\x01\x11\x05abc",
            b"GoSE-P11\x01\xFF\x00",
        ] {
            assert_eq!(Blob::decode(bad), None);
        }
    }

    #[test]
    fn padding_comes_off() {
        let mut block = vec![0, 1];
        block.extend([0xFF; 8]);
        block.extend([0, 7, 8]);
        assert_eq!(pkcs1_content(&block), Some(&[7, 8][..]));
        block[9] = 0;
        assert_eq!(pkcs1_content(&block), None, "seven bytes of padding");
    }
}
