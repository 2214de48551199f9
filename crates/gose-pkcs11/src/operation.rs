//! Operations that a session has begun: what is gathered, and what the element or the host then computes.

use aws_lc_rs::digest;
use cryptoki_sys::*;
use gose_element::drive::piv::{Piv, PivError};
use zeroize::Zeroizing;

use crate::{
    hash::Hash,
    mechanism::Mechanism,
    object::Private,
    padding,
    public::{self, Public, Rsa},
    rv::{Result, Rv},
};

/// Bytes that an operation without digest gathers: more than any block has.
const MOST: usize = 4096;

/// What the parts of a message add up to.
pub(crate) enum Gather {
    Bytes(Zeroizing<Vec<u8>>),
    Digest(digest::Context),
}

impl Gather {
    pub(crate) fn new(hash: Option<Hash>) -> Self {
        match hash {
            Some(hash) => Self::Digest(digest::Context::new(hash.algorithm())),
            None => Self::Bytes(Zeroizing::default()),
        }
    }

    pub(crate) fn add(&mut self, part: &[u8]) -> Result<()> {
        match self {
            Self::Digest(context) => context.update(part),
            Self::Bytes(bytes) if bytes.len() + part.len() > MOST => {
                return Err(Rv(CKR_DATA_LEN_RANGE));
            }
            Self::Bytes(bytes) => bytes.extend_from_slice(part),
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Digest(context) => Zeroizing::new(context.finish().as_ref().to_vec()),
        }
    }
}

/// A use of a private key that C_SignInit or C_DecryptInit began.
pub(crate) struct Use {
    pub(crate) key: Private,
    pub(crate) mechanism: Mechanism,
    pub(crate) gather: Gather,
    /// CKA_ALWAYS_AUTHENTICATE, and C_Login has not shown the PIN for this operation yet.
    pub(crate) unauthenticated: bool,
    /// A result that did not fit the application's buffer.
    pub(crate) result: Option<Zeroizing<Vec<u8>>>,
}

/// What an element is to compute.
pub(crate) enum Command {
    RsaRaw(Zeroizing<Vec<u8>>),
    Ecdsa(Zeroizing<Vec<u8>>),
    Agree(Vec<u8>),
}

impl Command {
    /// Has the element compute it.
    pub(crate) fn run(
        &self,
        key: &Private,
        piv: &mut Piv<'_>,
    ) -> std::result::Result<Zeroizing<Vec<u8>>, PivError> {
        match self {
            Self::RsaRaw(block) => piv.rsa_raw(key.slot, block),
            Self::Ecdsa(digest) => piv.ecdsa(key.slot, key.algorithm, digest),
            Self::Agree(point) => piv.agree(key.slot, point),
        }
    }
}

/// What C_SignInit takes.
pub(crate) fn can_sign(mechanism: &Mechanism, public: &Public) -> Result<()> {
    let fits = match (mechanism, public) {
        (Mechanism::RsaPss(_, pss), Public::Rsa(key)) => {
            pss.fits(key.modulus.len())?;
            true
        }
        (Mechanism::RsaPkcs(_) | Mechanism::RsaX509, Public::Rsa(_))
        | (Mechanism::Ecdsa(_), Public::Ec(..)) => true,
        (
            Mechanism::RsaPss(..)
            | Mechanism::RsaPkcs(_)
            | Mechanism::RsaX509
            | Mechanism::Ecdsa(_),
            _,
        ) => false,
        _ => return Err(Rv(CKR_MECHANISM_INVALID)),
    };
    if fits {
        Ok(())
    } else {
        Err(Rv(CKR_KEY_TYPE_INCONSISTENT))
    }
}

/// What C_EncryptInit and C_DecryptInit take.
pub(crate) fn can_crypt(mechanism: &Mechanism, public: &Public) -> Result<()> {
    match (mechanism, public) {
        (
            Mechanism::RsaPkcs(None) | Mechanism::RsaX509 | Mechanism::RsaOaep { .. },
            Public::Rsa(_),
        ) => Ok(()),
        (Mechanism::RsaPkcs(None) | Mechanism::RsaX509 | Mechanism::RsaOaep { .. }, _) => {
            Err(Rv(CKR_KEY_TYPE_INCONSISTENT))
        }
        _ => Err(Rv(CKR_MECHANISM_INVALID)),
    }
}

/// The block or digest that a signature is computed over.
///
/// # Errors
/// CKR_DATA_LEN_RANGE, CKR_DATA_INVALID
pub(crate) fn signature(mechanism: &Mechanism, public: &Public, data: &[u8]) -> Result<Command> {
    let command = match (mechanism, public) {
        (Mechanism::Ecdsa(_), Public::Ec(curve, _)) => {
            if data.is_empty() {
                return Err(Rv(CKR_DATA_LEN_RANGE));
            }
            // The leftmost bits (FIPS 186-5, 6.4.1): the orders of these curves have full bytes.
            return Ok(Command::Ecdsa(Zeroizing::new(
                data[..data.len().min(curve.len())].to_vec(),
            )));
        }
        (_, Public::Rsa(key)) => rsa_block(mechanism, key, data)?,
        _ => return Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
    };
    Ok(Command::RsaRaw(Zeroizing::new(command)))
}

fn rsa_block(mechanism: &Mechanism, key: &Rsa, data: &[u8]) -> Result<Vec<u8>> {
    let k = key.modulus.len();
    match mechanism {
        Mechanism::RsaPkcs(None) => padding::pkcs1_sign(k, data),
        Mechanism::RsaPkcs(Some(hash)) => {
            padding::pkcs1_sign(k, &[hash.digest_info(), data].concat())
        }
        Mechanism::RsaPss(_, pss) if data.len() != pss.hash.len() => Err(Rv(CKR_DATA_LEN_RANGE)),
        Mechanism::RsaPss(_, pss) => padding::pss_sign(k, *pss, data),
        Mechanism::RsaX509 => raw_block(key, data).map(|block| block.to_vec()),
        _ => Err(Rv(CKR_MECHANISM_INVALID)),
    }
}

/// A block of raw RSA: zeros in front, below the modulus.
fn raw_block(key: &Rsa, data: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let k = key.modulus.len();
    let missing = k.checked_sub(data.len()).ok_or(Rv(CKR_DATA_LEN_RANGE))?;
    let mut block = Zeroizing::new(vec![0; missing]);
    block.extend_from_slice(data);
    if *block >= key.modulus {
        return Err(Rv(CKR_DATA_INVALID));
    }
    Ok(block)
}

/// A signature as PKCS#11 has it: ECDSA as r ‖ s.
pub(crate) fn signature_form(public: &Public, result: &[u8]) -> Result<Vec<u8>> {
    match public {
        Public::Ec(curve, _) => {
            public::fixed_signature(result, curve.len()).ok_or(Rv(CKR_DEVICE_ERROR))
        }
        Public::Rsa(_) => Ok(result.to_vec()),
    }
}

/// Checks a signature; the host can.
///
/// # Errors
/// CKR_SIGNATURE_LEN_RANGE, CKR_SIGNATURE_INVALID, CKR_DATA_LEN_RANGE
pub(crate) fn verify(
    mechanism: &Mechanism,
    public: &Public,
    data: &[u8],
    signature: &[u8],
) -> Result<()> {
    if signature.len() != public.signature_len() {
        return Err(Rv(CKR_SIGNATURE_LEN_RANGE));
    }
    let good = match (mechanism, public) {
        (Mechanism::Ecdsa(_), Public::Ec(curve, point)) => {
            public::ecdsa_verify(*curve, point, data, signature)
        }
        (Mechanism::RsaPss(_, pss), Public::Rsa(key)) => {
            if data.len() != pss.hash.len() {
                return Err(Rv(CKR_DATA_LEN_RANGE));
            }
            opened(key, signature).is_some_and(|block| padding::pss_verify(*pss, data, &block))
        }
        (_, Public::Rsa(key)) => {
            let block = rsa_block(mechanism, key, data)?;
            opened(key, signature).is_some_and(|opened| opened == block)
        }
        _ => return Err(Rv(CKR_KEY_TYPE_INCONSISTENT)),
    };
    if good {
        Ok(())
    } else {
        Err(Rv(CKR_SIGNATURE_INVALID))
    }
}

fn opened(key: &Rsa, signature: &[u8]) -> Option<Vec<u8>> {
    key.raw(signature).ok()
}

/// Encrypts; the host can.
pub(crate) fn encrypt(mechanism: &Mechanism, public: &Public, data: &[u8]) -> Result<Vec<u8>> {
    let Public::Rsa(key) = public else {
        return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
    };
    let k = key.modulus.len();
    let block = match mechanism {
        Mechanism::RsaPkcs(_) => padding::pkcs1_encrypt(k, data)?,
        Mechanism::RsaOaep { hash, mgf, label } => {
            padding::oaep_encrypt(k, *hash, *mgf, label, data)?
        }
        _ => raw_block(key, data)?,
    };
    key.raw(&block)
}

/// The block that a private key decrypts.
///
/// # Errors
/// CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID
pub(crate) fn ciphertext(mechanism: &Mechanism, public: &Public, data: &[u8]) -> Result<Command> {
    let Public::Rsa(key) = public else {
        return Err(Rv(CKR_KEY_TYPE_INCONSISTENT));
    };
    let short_is_raw = matches!(mechanism, Mechanism::RsaX509) && data.len() < key.modulus.len();
    if data.len() != key.modulus.len() && !short_is_raw {
        return Err(Rv(CKR_ENCRYPTED_DATA_LEN_RANGE));
    }
    raw_block(key, data)
        .map(Command::RsaRaw)
        .map_err(|_| Rv(CKR_ENCRYPTED_DATA_INVALID))
}

/// Bytes that a decryption may give at most.
pub(crate) fn plaintext_len(mechanism: &Mechanism, public: &Public) -> usize {
    let k = public.signature_len();
    match mechanism {
        Mechanism::RsaPkcs(_) => k.saturating_sub(padding::PKCS1),
        Mechanism::RsaOaep { hash, .. } => k.saturating_sub(2 * hash.len() + 2),
        _ => k,
    }
}

/// The message in what a private key decrypted.
pub(crate) fn plaintext(mechanism: &Mechanism, block: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    match mechanism {
        Mechanism::RsaPkcs(_) => padding::pkcs1_decrypt(block),
        Mechanism::RsaOaep { hash, mgf, label } => padding::oaep_decrypt(*hash, *mgf, label, block),
        _ => Ok(Zeroizing::new(block.to_vec())),
    }
}

#[cfg(test)]
mod tests;
