//! Secret keys on a token: AES-GCM, HMAC with SHA-256, AES key wrap.

use std::{fmt, sync::Arc};

use cryptoki::{
    error::{Error, RvError},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, KeyType, ObjectClass},
    session::Session,
};
use gose_card::keystore::{self, Export, KeyError, SecretAlgorithm, SecretKey};
use zeroize::Zeroizing;

use super::{HsmError, object::Object, pool::Pool, template};

const MAGIC: &[u8] = b"GoSE-P11\x02";

/// Bits of GCM's tag.
const TAG: u64 = 128;

/// What the card keeps of a secret key: `algorithm (1) ‖ CKA_ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) algorithm: SecretAlgorithm,
    pub(super) id: Vec<u8>,
}

impl Blob {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([MAGIC, &[self.algorithm.id()], &self.id].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let [algorithm, id @ ..] = bytes.strip_prefix(MAGIC)? else {
            return None;
        };
        Some(Self {
            algorithm: SecretAlgorithm::from_id(*algorithm)?,
            id: id.to_vec(),
        })
        .filter(|blob| !blob.id.is_empty())
    }
}

/// How a key is made, taken in or unwrapped: its attributes without its value.
pub(super) fn attributes(algorithm: SecretAlgorithm, export: Export, id: &[u8]) -> Vec<Attribute> {
    let kind = match algorithm {
        SecretAlgorithm::HmacSha256 => KeyType::GENERIC_SECRET,
        _ => KeyType::AES,
    };
    let mut attributes = template::named(id);
    attributes.extend([
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(export == Export::Wrapped),
        Attribute::Encrypt(algorithm.encrypts()),
        Attribute::Decrypt(algorithm.encrypts()),
        Attribute::Wrap(algorithm.wraps()),
        Attribute::Unwrap(algorithm.wraps()),
        Attribute::Sign(algorithm == SecretAlgorithm::HmacSha256),
        Attribute::Verify(algorithm == SecretAlgorithm::HmacSha256),
    ]);
    attributes
}

/// Makes a key on the token.
pub(super) fn generate(
    session: &Session,
    algorithm: SecretAlgorithm,
    mut attributes: Vec<Attribute>,
) -> Result<(), HsmError> {
    let mechanism = match algorithm {
        SecretAlgorithm::HmacSha256 => Mechanism::GenericSecretKeyGen,
        _ => Mechanism::AesKeyGen,
    };
    let len = algorithm
        .key_len()
        .try_into()
        .map_err(|_| HsmError::Input)?;
    attributes.push(Attribute::ValueLen(len));
    // Class and type follow from the mechanism, and some modules refuse to be told.
    attributes
        .retain(|attribute| !matches!(attribute, Attribute::Class(_) | Attribute::KeyType(_)));
    session.generate_key(&mechanism, &attributes)?;
    Ok(())
}

/// A secret key on a token.
pub(super) struct HsmSecret {
    algorithm: SecretAlgorithm,
    object: Object,
}

impl HsmSecret {
    pub(super) fn new(pool: Arc<Pool>, blob: &Blob) -> Self {
        Self {
            algorithm: blob.algorithm,
            object: Object::new(pool, ObjectClass::SECRET_KEY, blob.id.clone()),
        }
    }
}

impl fmt::Debug for HsmSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HsmSecret({:?})", self.algorithm)
    }
}

impl SecretKey for HsmSecret {
    fn algorithm(&self) -> SecretAlgorithm {
        self.algorithm
    }

    fn seal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        keystore::only_if(self.algorithm.encrypts())?;
        Ok(self.object.run(|session, key| {
            let mut nonce = *nonce;
            let parameters = GcmParams::new(&mut nonce, associated, TAG.into())?;
            Ok(session.encrypt(&Mechanism::AesGcm(parameters), key.handle, plaintext)?)
        })?)
    }

    fn unseal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        keystore::only_if(self.algorithm.encrypts())?;
        Ok(self.object.run(|session, key| {
            let mut nonce = *nonce;
            let parameters = GcmParams::new(&mut nonce, associated, TAG.into())?;
            session
                .decrypt(&Mechanism::AesGcm(parameters), key.handle, sealed)
                .map(Zeroizing::new)
                .map_err(|error| mismatch(session, error))
        })?)
    }

    fn mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        keystore::only_if(self.algorithm == SecretAlgorithm::HmacSha256)?;
        let tag = self
            .object
            .run(|session, key| Ok(session.sign(&Mechanism::Sha256Hmac, key.handle, message)?))?;
        tag.try_into()
            .map_err(|_| KeyError::Store("the HSM's MAC has another length".into()))
    }
}

/// What a refusal to open or unwrap means: modules say so in several ways, SoftHSM by CKR_GENERAL_ERROR, which is the
/// token's own failure only where the session is lost too.
pub(super) fn mismatch(session: &Session, error: Error) -> HsmError {
    match &error {
        Error::Pkcs11(
            RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange,
            _,
        ) => HsmError::Mismatch,
        Error::Pkcs11(RvError::GeneralError, _) if session.get_session_info().is_ok() => {
            HsmError::Mismatch
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_round_trip() {
        let blob = Blob {
            algorithm: SecretAlgorithm::HmacSha256,
            id: vec![1, 2],
        };
        assert_eq!(Blob::decode(&blob.encode()), Some(blob));
        for bad in [
            &b"GoSE-P11\x02"[..],
            b"GoSE-P11\x02\x03",
            b"GoSE-P11\x02\xFFid",
            b"GoSE-P11\x01\x03id",
        ] {
            assert_eq!(Blob::decode(bad), None, "{bad:02X?}");
        }
    }
}
