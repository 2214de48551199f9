//! Mechanisms with their parameters.

use cryptoki_sys::*;

use super::buffer::input;
use crate::{
    hash::Hash,
    mechanism::{HASHED, Mechanism},
    padding::Pss,
    rv::{Result, Rv},
};

/// Bytes that a label, shared data or a point may have.
const LONGEST: CK_ULONG = 4096;

/// What a mechanism asks for.
///
/// # Errors
/// CKR_ARGUMENTS_BAD, CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID
///
/// # Safety
/// `mechanism` is NULL or valid, its parameter is NULL or valid for its length, and so on for what that
/// points to.
pub(super) unsafe fn read(mechanism: *const CK_MECHANISM) -> Result<Mechanism> {
    if mechanism.is_null() {
        return Err(Rv(CKR_ARGUMENTS_BAD));
    }
    // SAFETY: not NULL, hence valid (the caller's promise).
    let asked = unsafe { mechanism.read_unaligned() };
    let kind = asked.mechanism;
    if let Some(hash) = Hash::of_mechanism(kind) {
        return Ok(Mechanism::Digest(hash));
    }
    for (pkcs1, pss, ecdsa, hash) in HASHED {
        if kind == pkcs1 {
            return Ok(Mechanism::RsaPkcs(Some(hash)));
        }
        if kind == ecdsa {
            return Ok(Mechanism::Ecdsa(Some(hash)));
        }
        if kind == pss {
            // SAFETY: the caller's promise.
            let parameters = unsafe { pss_parameters(&asked) }?;
            if parameters.hash != hash {
                return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
            }
            return Ok(Mechanism::RsaPss(Some(hash), parameters));
        }
    }
    match kind {
        CKM_RSA_PKCS_KEY_PAIR_GEN => Ok(Mechanism::RsaKeyPair),
        CKM_EC_KEY_PAIR_GEN => Ok(Mechanism::EcKeyPair),
        CKM_RSA_PKCS => Ok(Mechanism::RsaPkcs(None)),
        CKM_RSA_X_509 => Ok(Mechanism::RsaX509),
        CKM_ECDSA => Ok(Mechanism::Ecdsa(None)),
        CKM_AES_KEY_GEN => plain(&asked, Mechanism::AesKey),
        CKM_GENERIC_SECRET_KEY_GEN => plain(&asked, Mechanism::GenericSecretKey),
        CKM_SHA256_HMAC => plain(&asked, Mechanism::HmacSha256),
        // RFC 3394's own initial value, which NULL stands for, and no other one.
        CKM_AES_KEY_WRAP => plain(&asked, Mechanism::AesKeyWrap),
        // SAFETY: the caller's promise.
        CKM_AES_GCM => unsafe { gcm(&asked) },
        CKM_RSA_PKCS_PSS => {
            // SAFETY: the caller's promise.
            let parameters = unsafe { pss_parameters(&asked) }?;
            Ok(Mechanism::RsaPss(None, parameters))
        }
        // SAFETY: the caller's promise.
        CKM_RSA_PKCS_OAEP => unsafe { oaep(&asked) },
        // SAFETY: the caller's promise.
        CKM_ECDH1_DERIVE => unsafe { ecdh(&asked) },
        _ => Err(Rv(CKR_MECHANISM_INVALID)),
    }
}

/// A mechanism that takes no parameter.
fn plain(asked: &CK_MECHANISM, mechanism: Mechanism) -> Result<Mechanism> {
    if asked.ulParameterLen == 0 {
        Ok(mechanism)
    } else {
        Err(Rv(CKR_MECHANISM_PARAM_INVALID))
    }
}

/// The structure that a mechanism's parameter is.
///
/// # Safety
/// The parameter is NULL or valid for its length.
unsafe fn parameter<T: Copy>(mechanism: &CK_MECHANISM) -> Result<T> {
    let fits = mechanism.ulParameterLen == size_of::<T>() as CK_ULONG;
    if mechanism.pParameter.is_null() || !fits {
        return Err(Rv(CKR_MECHANISM_PARAM_INVALID));
    }
    // SAFETY: not NULL, and as long as the structure (the caller's promise).
    Ok(unsafe { mechanism.pParameter.cast::<T>().read_unaligned() })
}

/// # Safety
/// As [`parameter`].
unsafe fn pss_parameters(mechanism: &CK_MECHANISM) -> Result<Pss> {
    // SAFETY: the caller's promise.
    let given: CK_RSA_PKCS_PSS_PARAMS = unsafe { parameter(mechanism) }?;
    let found = || {
        Some(Pss {
            hash: Hash::of_mechanism(given.hashAlg)?,
            mgf: Hash::of_mgf(given.mgf)?,
            salt: usize::try_from(given.sLen).ok()?,
        })
    };
    found().ok_or(Rv(CKR_MECHANISM_PARAM_INVALID))
}

/// No initialization vector means that the element's own stands before the ciphertext.
///
/// # Safety
/// As [`parameter`]; vector and associated data are NULL or valid for their lengths.
unsafe fn gcm(mechanism: &CK_MECHANISM) -> Result<Mechanism> {
    // SAFETY: the caller's promise.
    let given: CK_GCM_PARAMS = unsafe { parameter(mechanism) }?;
    let invalid = Rv(CKR_MECHANISM_PARAM_INVALID);
    if given.ulTagBits != 128 || given.ulIvLen > 12 || given.ulAADLen > LONGEST {
        return Err(invalid);
    }
    // SAFETY: the caller's promise.
    let nonce = unsafe { input(given.pIv, given.ulIvLen) }.map_err(|_| invalid)?;
    // SAFETY: the caller's promise.
    let associated = unsafe { input(given.pAAD, given.ulAADLen) }.map_err(|_| invalid)?;
    let nonce = match &*nonce {
        [] => None,
        nonce => Some(nonce.try_into().map_err(|_| invalid)?),
    };
    Ok(Mechanism::AesGcm { nonce, associated })
}

/// # Safety
/// As [`parameter`]; the label is NULL or valid for its length.
unsafe fn oaep(mechanism: &CK_MECHANISM) -> Result<Mechanism> {
    // SAFETY: the caller's promise.
    let given: CK_RSA_PKCS_OAEP_PARAMS = unsafe { parameter(mechanism) }?;
    let invalid = Rv(CKR_MECHANISM_PARAM_INVALID);
    let empty = given.source == 0 && given.ulSourceDataLen == 0;
    if given.source != CKZ_DATA_SPECIFIED && !empty || given.ulSourceDataLen > LONGEST {
        return Err(invalid);
    }
    // SAFETY: the caller's promise.
    let label = unsafe { input(given.pSourceData.cast_const().cast(), given.ulSourceDataLen) };
    Ok(Mechanism::RsaOaep {
        hash: Hash::of_mechanism(given.hashAlg).ok_or(invalid)?,
        mgf: Hash::of_mgf(given.mgf).ok_or(invalid)?,
        label: label.map_err(|_| invalid)?,
    })
}

/// # Safety
/// As [`parameter`]; point and shared data are NULL or valid for their lengths.
unsafe fn ecdh(mechanism: &CK_MECHANISM) -> Result<Mechanism> {
    // SAFETY: the caller's promise.
    let given: CK_ECDH1_DERIVE_PARAMS = unsafe { parameter(mechanism) }?;
    let invalid = Rv(CKR_MECHANISM_PARAM_INVALID);
    if given.ulPublicDataLen > LONGEST || given.ulSharedDataLen > LONGEST {
        return Err(invalid);
    }
    let kdf = match given.kdf {
        CKD_NULL => None,
        CKD_SHA1_KDF => Some(Hash::Sha1),
        CKD_SHA224_KDF => Some(Hash::Sha224),
        CKD_SHA256_KDF => Some(Hash::Sha256),
        CKD_SHA384_KDF => Some(Hash::Sha384),
        CKD_SHA512_KDF => Some(Hash::Sha512),
        _ => return Err(invalid),
    };
    // SAFETY: the caller's promise.
    let shared = unsafe { input(given.pSharedData, given.ulSharedDataLen) };
    // SAFETY: the caller's promise.
    let point = unsafe { input(given.pPublicData, given.ulPublicDataLen) };
    let (shared, point) = (shared.map_err(|_| invalid)?, point.map_err(|_| invalid)?);
    if kdf.is_none() && !shared.is_empty() {
        return Err(invalid);
    }
    Ok(Mechanism::Ecdh { kdf, shared, point })
}
