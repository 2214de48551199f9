//! RSA (RFC 8017): signatures by AWS-LC; the raw private operation, which AWS-LC's safe interface does
//! not have, by RustCrypto's `rsa`, blinded and checked.

use std::{fmt, sync::OnceLock};

use ::rsa::{
    BigUint, RsaPrivateKey,
    hazmat::rsa_decrypt_and_check,
    pkcs8::{DecodePrivateKey, EncodePrivateKey},
    rand_core::{CryptoRng, Error, RngCore},
    traits::PublicKeyParts,
};
use aws_lc_rs::{
    digest::{self, Digest},
    encoding::AsDer,
    rsa::{KeyPair, KeySize},
    signature::{
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RsaEncoding,
    },
};
use zeroize::{Zeroize, Zeroizing};

use super::{failed, public_key_info};
use crate::keystore::{Algorithm, KeyError, PrivateKey, Scheme};

pub(super) struct RsaKey {
    algorithm: Algorithm,
    pair: KeyPair,
    public: Vec<u8>,
    pkcs8: Zeroizing<Vec<u8>>,
    /// Parsed at the first raw operation: few keys ever see one.
    raw: OnceLock<RsaPrivateKey>,
}

impl RsaKey {
    pub(super) fn open(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Input)?;
        let algorithm = Algorithm::rsa(pair.public_modulus_len()).ok_or(KeyError::Unsupported)?;
        Ok(Self {
            algorithm,
            public: public_key_info(pair.public_key())?,
            pair,
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            raw: OnceLock::new(),
        })
    }

    fn raw(&self) -> Result<&RsaPrivateKey, KeyError> {
        if let Some(key) = self.raw.get() {
            return Ok(key);
        }
        let key = RsaPrivateKey::from_pkcs8_der(&self.pkcs8).map_err(|_| KeyError::Input)?;
        Ok(self.raw.get_or_init(|| key))
    }

    /// The raw operation of any block.
    pub(super) fn raw_operation(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let key = self.raw()?;
        let mut input = BigUint::from_bytes_be(block);
        if block.len() != key.size() || &input >= key.n() {
            return Err(KeyError::Input);
        }
        let result = rsa_decrypt_and_check(key, Some(&mut SystemRng), &input);
        input.zeroize();
        let mut result =
            result.map_err(|_| KeyError::Store("the RSA operation failed its check".into()))?;
        let bytes = Zeroizing::new(result.to_bytes_be());
        result.zeroize();
        let mut out = Zeroizing::new(vec![0; block.len() - bytes.len()]);
        out.extend_from_slice(&bytes);
        Ok(out)
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaKey({:?})", self.algorithm)
    }
}

impl PrivateKey for RsaKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key_info(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let encoding: &'static dyn RsaEncoding = match scheme {
            Scheme::RsaPkcs1Sha256 => &RSA_PKCS1_SHA256,
            Scheme::RsaPssSha256 => &RSA_PSS_SHA256,
            _ => return Err(KeyError::Unsupported),
        };
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(encoding, &crate::random::signing(), message, &mut signature)
            .map_err(failed)?;
        Ok(signature)
    }

    fn sign_digest(&self, _digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unsupported)
    }

    fn rsa_raw(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        if block.len() != self.pair.public_modulus_len() {
            return Err(KeyError::Input);
        }
        // A padded digest is what TLS 1.2, X.509 and ssh send: AWS-LC signs it several times faster.
        let Some((encoding, digest)) = padded_digest(block) else {
            return self.raw_operation(block);
        };
        let mut signature = Zeroizing::new(vec![0; block.len()]);
        self.pair
            .sign_digest(encoding, &digest, &mut signature)
            .map_err(failed)?;
        Ok(signature)
    }

    fn agree(&self, _point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Err(KeyError::Unsupported)
    }
}

/// PKCS#8 of the key with these primes and the exponent 65,537.
pub(super) fn from_primes(
    algorithm: Algorithm,
    p: &[u8],
    q: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    // What is even is no prime here.
    let odd = |prime: &[u8]| prime.last().is_some_and(|byte| byte & 1 == 1);
    if !odd(p) || !odd(q) {
        return Err(KeyError::Input);
    }
    let [p, q] = [p, q].map(BigUint::from_bytes_be);
    // Each half as long as the modulus: the library computes with p - 1 before it looks at p.
    let half = |prime: &BigUint| {
        Algorithm::rsa(prime.bits() / 4) == Some(algorithm) && prime.bits().is_multiple_of(512)
    };
    if !half(&p) || !half(&q) {
        return Err(KeyError::Input);
    }
    let key =
        RsaPrivateKey::from_p_q(p, q, BigUint::from(65_537_u32)).map_err(|_| KeyError::Input)?;
    if Algorithm::rsa(key.size()) != Some(algorithm) {
        return Err(KeyError::Input);
    }
    let pkcs8 = key.to_pkcs8_der().map_err(|_| KeyError::Input)?.to_bytes();
    // AWS-LC checks what it has signed: where a number is no prime, that fails.
    let signature = RsaKey::open(&pkcs8)?.sign(Scheme::RsaPkcs1Sha256, b"a pair");
    signature.map_err(|_| KeyError::Input)?;
    Ok(pkcs8)
}

pub(super) fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let size = match algorithm {
        Algorithm::Rsa3072 => KeySize::Rsa3072,
        Algorithm::Rsa4096 => KeySize::Rsa4096,
        _ => KeySize::Rsa2048,
    };
    let pkcs8 = KeyPair::generate(size).map_err(failed)?.as_der();
    Ok(Zeroizing::new(pkcs8.map_err(failed)?.as_ref().to_vec()))
}

/// DigestInfo (RFC 8017, 9.2, note 1) up to the digest, with NULL parameters.
const DIGEST_INFOS: [(&[u8], &digest::Algorithm, &(dyn RsaEncoding + Sync)); 3] = [
    (&digest_info(1, 32), &digest::SHA256, &RSA_PKCS1_SHA256),
    (&digest_info(2, 48), &digest::SHA384, &RSA_PKCS1_SHA384),
    (&digest_info(3, 64), &digest::SHA512, &RSA_PKCS1_SHA512),
];

const fn digest_info(hash: u8, len: u8) -> [u8; 19] {
    [
        0x30,
        17 + len,
        0x30,
        13,
        0x06,
        9,
        0x60,
        0x86,
        0x48,
        0x01,
        0x65,
        0x03,
        0x04,
        0x02,
        hash,
        0x05,
        0x00,
        0x04,
        len,
    ]
}

/// Takes an EMSA-PKCS1-v1_5 block (00 01 FF.. 00 DigestInfo) apart; `None` for any other block.
fn padded_digest(block: &[u8]) -> Option<(&'static dyn RsaEncoding, Digest)> {
    let padding = block.strip_prefix(&[0x00, 0x01])?;
    let ones = padding.iter().take_while(|byte| **byte == 0xFF).count();
    let info = padding.get(ones..)?.strip_prefix(&[0x00])?;
    DIGEST_INFOS
        .iter()
        .filter(|_| ones >= 8)
        .find_map(|(prefix, hash, encoding)| {
            let digest = Digest::import_less_safe(info.strip_prefix(*prefix)?, hash).ok()?;
            Some((*encoding as &dyn RsaEncoding, digest))
        })
}

/// The system's randomness, for blinding.
struct SystemRng;

impl CryptoRng for SystemRng {}

impl RngCore for SystemRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_ne_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        // The trait has no way to fail, and blinding with constants would be no blinding.
        if self.try_fill_bytes(dest).is_err() {
            panic!("the system gives no randomness");
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        crate::random::fill(dest).map_err(|_| Error::new("the system gives no randomness"))
    }
}
