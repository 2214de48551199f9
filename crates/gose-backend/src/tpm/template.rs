//! Public areas of the objects that are made (part 2, 12.2.4).

use gose_card::keystore::{Algorithm, KeyError, SecretAlgorithm};
use gose_element::drive::piv::public_key_info;
use gose_proto::apdu::tlv;
use tpm2_protocol::{
    basic::{TpmUint16, TpmUint32},
    data::{
        Tpm2bEccParameter, Tpm2bPublic, Tpm2bPublicKeyRsa, TpmAlgId, TpmEccCurve, TpmaObject,
        TpmsEccParms, TpmsEccPoint, TpmsKeyedhashParms, TpmsRsaParms, TpmsSchemeHash,
        TpmsSymcipherParms, TpmtEccScheme, TpmtKeyedhashScheme, TpmtPublic, TpmtSymDef,
        TpmuAsymScheme, TpmuKeyedhashScheme, TpmuPublicId, TpmuPublicParms, TpmuSymKeyBits,
        TpmuSymMode,
    },
};

use super::{TpmError, kdf};
use crate::der;

fn attributes(flags: &[TpmaObject]) -> TpmaObject {
    let bits = flags.iter().fold(0, |bits, flag| bits | flag.bits());
    TpmaObject::from_bits_truncate(bits)
}

/// What never leaves its TPM and its parent.
const BOUND: [TpmaObject; 4] = [
    TpmaObject::FIXED_TPM,
    TpmaObject::FIXED_PARENT,
    TpmaObject::SENSITIVE_DATA_ORIGIN,
    TpmaObject::USER_WITH_AUTH,
];

fn ecc(curve: TpmEccCurve, symmetric: TpmtSymDef, scheme: TpmtEccScheme) -> TpmuPublicParms {
    TpmuPublicParms::Ecc(TpmsEccParms {
        symmetric,
        scheme,
        curve_id: curve,
        kdf: Default::default(),
    })
}

fn public(object_type: TpmAlgId, flags: &[TpmaObject], parameters: TpmuPublicParms) -> Tpm2bPublic {
    let unique = match object_type {
        TpmAlgId::Rsa => TpmuPublicId::Rsa(Default::default()),
        TpmAlgId::KeyedHash => TpmuPublicId::KeyedHash(Default::default()),
        _ => TpmuPublicId::Ecc(TpmsEccPoint::default()),
    };
    Tpm2bPublic {
        inner: TpmtPublic {
            object_type,
            name_alg: TpmAlgId::Sha256,
            object_attributes: attributes(&[&BOUND[..], flags].concat()),
            auth_policy: Default::default(),
            parameters,
            unique,
        },
    }
}

/// The parent of all keys: a storage key on P-256, the same again from the owner's seed each time.
pub(super) fn primary() -> Tpm2bPublic {
    let symmetric = TpmtSymDef {
        algorithm: TpmAlgId::Aes,
        key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
        mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
    };
    let flags = [
        TpmaObject::NO_DA,
        TpmaObject::RESTRICTED,
        TpmaObject::DECRYPT,
    ];
    public(
        TpmAlgId::Ecc,
        &flags,
        ecc(TpmEccCurve::NistP256, symmetric, TpmtEccScheme::default()),
    )
}

/// The attestation key: signs only what the TPM itself says.
pub(super) fn attestation() -> Tpm2bPublic {
    let scheme = TpmtEccScheme {
        scheme: TpmAlgId::Ecdsa,
        details: TpmuAsymScheme::Hash(TpmsSchemeHash {
            hash_alg: TpmAlgId::Sha256,
        }),
    };
    let flags = [
        TpmaObject::NO_DA,
        TpmaObject::RESTRICTED,
        TpmaObject::SIGN_ENCRYPT,
    ];
    public(
        TpmAlgId::Ecc,
        &flags,
        ecc(TpmEccCurve::NistP256, no_cipher(), scheme),
    )
}

/// A key of a card: signs and agrees or decrypts, by whatever scheme the caller names. One without an authorisation
/// value has nothing to guess, and works while others' wrong guesses have locked the TPM.
pub(super) fn key(algorithm: Algorithm, has_auth: bool) -> Result<Tpm2bPublic, KeyError> {
    let rsa = |bits: u16| {
        let parameters = TpmsRsaParms {
            symmetric: no_cipher(),
            scheme: Default::default(),
            key_bits: TpmUint16::new(bits),
            exponent: TpmUint32::new(0),
        };
        (TpmAlgId::Rsa, TpmuPublicParms::Rsa(parameters))
    };
    let curve = |curve| {
        (
            TpmAlgId::Ecc,
            ecc(curve, no_cipher(), TpmtEccScheme::default()),
        )
    };
    let (object_type, parameters) = match algorithm {
        Algorithm::P256 => curve(TpmEccCurve::NistP256),
        Algorithm::P384 => curve(TpmEccCurve::NistP384),
        Algorithm::Rsa2048 => rsa(2048),
        Algorithm::Rsa3072 => rsa(3072),
        _ => return Err(KeyError::Unsupported),
    };
    let mut flags = vec![TpmaObject::SIGN_ENCRYPT, TpmaObject::DECRYPT];
    if !has_auth {
        flags.push(TpmaObject::NO_DA);
    }
    Ok(public(object_type, &flags, parameters))
}

/// The public area of a key from outside. Without an authorisation policy it cannot leave the TPM again, though it was
/// not born there.
pub(super) fn imported(algorithm: Algorithm, info: &[u8], has_auth: bool) -> Option<Tpm2bPublic> {
    let mut imported = key(algorithm, has_auth).ok()?;
    let born = attributes(&[
        TpmaObject::FIXED_TPM,
        TpmaObject::FIXED_PARENT,
        TpmaObject::SENSITIVE_DATA_ORIGIN,
    ]);
    let flags = imported.inner.object_attributes.bits() & !born.bits();
    imported.inner.object_attributes = TpmaObject::from_bits_truncate(flags);
    imported.inner.unique = if algorithm.is_rsa() {
        let modulus = der::modulus(info)?;
        TpmuPublicId::Rsa(Tpm2bPublicKeyRsa::try_from(modulus).ok()?)
    } else {
        let point = der::public_bits(info)?.strip_prefix(&[0x04])?;
        let (x, y) = point.split_at(point.len() / 2);
        TpmuPublicId::Ecc(TpmsEccPoint {
            x: Tpm2bEccParameter::try_from(x).ok()?,
            y: Tpm2bEccParameter::try_from(y).ok()?,
        })
    };
    Some(imported)
}

/// A secret key, born in the TPM or brought to it; `None` for what no TPM does.
pub(super) fn secret(
    algorithm: SecretAlgorithm,
    is_born: bool,
    has_auth: bool,
) -> Option<Tpm2bPublic> {
    let bits = match algorithm {
        SecretAlgorithm::Aes128Gcm => Some(128),
        SecretAlgorithm::Aes256Gcm => Some(256),
        SecretAlgorithm::HmacSha256 => None,
        _ => return None,
    };
    let mut flags = vec![
        TpmaObject::FIXED_TPM,
        TpmaObject::FIXED_PARENT,
        TpmaObject::USER_WITH_AUTH,
        TpmaObject::SIGN_ENCRYPT,
    ];
    if is_born {
        flags.push(TpmaObject::SENSITIVE_DATA_ORIGIN);
    }
    if !has_auth {
        flags.push(TpmaObject::NO_DA);
    }
    let (object_type, parameters, unique) = match bits {
        Some(bits) => {
            flags.push(TpmaObject::DECRYPT);
            let sym = TpmtSymDef {
                algorithm: TpmAlgId::Aes,
                key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(bits)),
                mode: TpmuSymMode::Aes(TpmAlgId::Ctr),
            };
            (
                TpmAlgId::SymCipher,
                TpmuPublicParms::SymCipher(TpmsSymcipherParms { sym }),
                TpmuPublicId::SymCipher(Default::default()),
            )
        }
        None => {
            let scheme = TpmtKeyedhashScheme {
                scheme: TpmAlgId::Hmac,
                details: TpmuKeyedhashScheme::Hmac(TpmsSchemeHash {
                    hash_alg: TpmAlgId::Sha256,
                }),
            };
            (
                TpmAlgId::KeyedHash,
                TpmuPublicParms::KeyedHash(TpmsKeyedhashParms { scheme }),
                TpmuPublicId::KeyedHash(Default::default()),
            )
        }
    };
    Some(Tpm2bPublic {
        inner: TpmtPublic {
            object_type,
            name_alg: TpmAlgId::Sha256,
            object_attributes: attributes(&flags),
            auth_policy: Default::default(),
            parameters,
            unique,
        },
    })
}

/// Data under the parent, given back to whoever knows its authorisation value.
pub(super) fn sealed() -> Tpm2bPublic {
    let parameters = TpmuPublicParms::KeyedHash(TpmsKeyedhashParms::default());
    let mut sealed = public(TpmAlgId::KeyedHash, &[], parameters);
    let flags = [
        TpmaObject::FIXED_TPM,
        TpmaObject::FIXED_PARENT,
        TpmaObject::USER_WITH_AUTH,
    ];
    sealed.inner.object_attributes = attributes(&flags);
    if let TpmuPublicParms::KeyedHash(parameters) = &mut sealed.inner.parameters {
        parameters.scheme.scheme = TpmAlgId::Null;
    }
    sealed
}

fn no_cipher() -> TpmtSymDef {
    TpmtSymDef {
        algorithm: TpmAlgId::Null,
        ..TpmtSymDef::default()
    }
}

/// The name of an object (part 1, 16): the algorithm of its digest, and the digest of its public area.
pub(super) fn name(public: &TpmtPublic) -> Result<Vec<u8>, TpmError> {
    if public.name_alg != TpmAlgId::Sha256 {
        return Err(TpmError::Malformed);
    }
    let digest = kdf::hash(&[&kdf::marshalled(public)?]);
    Ok([&TpmAlgId::Sha256.value().to_be_bytes()[..], &digest].concat())
}

/// Algorithm and SubjectPublicKeyInfo of a public area.
pub(super) fn read(public: &TpmtPublic) -> Option<(Algorithm, Vec<u8>)> {
    let (algorithm, template) = match (&public.parameters, &public.unique) {
        (TpmuPublicParms::Ecc(parameters), TpmuPublicId::Ecc(point)) => {
            let (algorithm, len) = match parameters.curve_id {
                TpmEccCurve::NistP256 => (Algorithm::P256, 32),
                TpmEccCurve::NistP384 => (Algorithm::P384, 48),
                _ => return None,
            };
            let point = [vec![0x04], pad(&point.x, len)?, pad(&point.y, len)?].concat();
            (algorithm, tlv::object(0x86, &point))
        }
        (TpmuPublicParms::Rsa(parameters), TpmuPublicId::Rsa(modulus)) => {
            let algorithm = match modulus.len() {
                256 => Algorithm::Rsa2048,
                384 => Algorithm::Rsa3072,
                _ => return None,
            };
            // Zero stands for 2^16 + 1.
            let exponent = match parameters.exponent.value() {
                0 => 65_537_u32,
                other => other,
            };
            let mut template = tlv::object(0x81, modulus);
            tlv::write(&mut template, 0x82, &exponent.to_be_bytes());
            (algorithm, template)
        }
        _ => return None,
    };
    Some((algorithm, public_key_info(algorithm, &template)?))
}

/// A number with zeros in front; `None` if it is longer.
pub(super) fn pad(number: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut padded = vec![0; len.checked_sub(number.len())?];
    padded.extend_from_slice(number);
    Some(padded)
}
