//! Mechanisms: what the module offers, and what an application asks for.

use cryptoki_sys::*;

use crate::{hash::Hash, padding::Pss};

/// What an application asks for, its parameters checked for form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mechanism {
    Digest(Hash),
    RsaKeyPair,
    EcKeyPair,
    /// PKCS#1 v1.5; for signatures over a DigestInfo of the caller's, or over a message.
    RsaPkcs(Option<Hash>),
    RsaX509,
    /// PSS over a digest of the caller's, or over a message.
    RsaPss(Option<Hash>, Pss),
    RsaOaep {
        hash: Hash,
        mgf: Hash,
        label: Vec<u8>,
    },
    /// ECDSA over a digest of the caller's, or over a message.
    Ecdsa(Option<Hash>),
    Ecdh {
        kdf: Option<Hash>,
        shared: Vec<u8>,
        point: Vec<u8>,
    },
    AesKey,
    GenericSecretKey,
    /// AES-GCM; a nonce belongs to decryption: the element draws its own for what it encrypts.
    AesGcm {
        nonce: Option<[u8; 12]>,
        associated: Vec<u8>,
    },
    HmacSha256,
    AesKeyWrap,
}

impl Mechanism {
    /// Whether secret keys of the element are used by it.
    pub(crate) fn is_secret(&self) -> bool {
        matches!(self, Self::AesGcm { .. } | Self::HmacSha256)
    }

    /// The digest that the mechanism itself makes of the message.
    pub(crate) fn hash(&self) -> Option<Hash> {
        match self {
            Self::RsaPkcs(hash) | Self::RsaPss(hash, _) | Self::Ecdsa(hash) => *hash,
            Self::Digest(hash) => Some(*hash),
            _ => None,
        }
    }
}

/// Mechanisms over PKCS#1 v1.5, PSS and ECDSA with their digests.
pub(crate) const HASHED: [(
    CK_MECHANISM_TYPE,
    CK_MECHANISM_TYPE,
    CK_MECHANISM_TYPE,
    Hash,
); 5] = [
    (
        CKM_SHA1_RSA_PKCS,
        CKM_SHA1_RSA_PKCS_PSS,
        CKM_ECDSA_SHA1,
        Hash::Sha1,
    ),
    (
        CKM_SHA224_RSA_PKCS,
        CKM_SHA224_RSA_PKCS_PSS,
        CKM_ECDSA_SHA224,
        Hash::Sha224,
    ),
    (
        CKM_SHA256_RSA_PKCS,
        CKM_SHA256_RSA_PKCS_PSS,
        CKM_ECDSA_SHA256,
        Hash::Sha256,
    ),
    (
        CKM_SHA384_RSA_PKCS,
        CKM_SHA384_RSA_PKCS_PSS,
        CKM_ECDSA_SHA384,
        Hash::Sha384,
    ),
    (
        CKM_SHA512_RSA_PKCS,
        CKM_SHA512_RSA_PKCS_PSS,
        CKM_ECDSA_SHA512,
        Hash::Sha512,
    ),
];

/// All mechanisms with sizes and flags; `stores`: the element has the storage application.
pub(crate) fn list(stores: bool) -> Vec<(CK_MECHANISM_TYPE, CK_MECHANISM_INFO)> {
    let rsa = |flags| info(2048, 4096, flags);
    let ec = |flags| {
        info(
            256,
            384,
            flags | CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS,
        )
    };
    let signs = CKF_HW | CKF_SIGN | CKF_VERIFY;
    let crypts = CKF_HW | CKF_ENCRYPT | CKF_DECRYPT;
    let mut found = vec![
        (
            CKM_RSA_PKCS_KEY_PAIR_GEN,
            rsa(CKF_HW | CKF_GENERATE_KEY_PAIR),
        ),
        (CKM_EC_KEY_PAIR_GEN, ec(CKF_HW | CKF_GENERATE_KEY_PAIR)),
        (CKM_RSA_PKCS, rsa(signs | crypts)),
        (CKM_RSA_X_509, rsa(signs | crypts)),
        (CKM_RSA_PKCS_OAEP, rsa(crypts)),
        (CKM_RSA_PKCS_PSS, rsa(signs)),
        (CKM_ECDSA, ec(signs)),
        (CKM_ECDH1_DERIVE, ec(CKF_HW | CKF_DERIVE)),
    ];
    for (pkcs1, pss, ecdsa, hash) in HASHED {
        found.push((pkcs1, rsa(signs)));
        found.push((pss, rsa(signs)));
        found.push((ecdsa, ec(signs)));
        found.push((hash.mechanism(), info(0, 0, CKF_DIGEST)));
    }
    if stores {
        found.extend(secret());
    }
    found
}

/// Mechanisms of the storage application. Sizes are bytes, of generic secrets bits (v3.0, current mechanisms).
fn secret() -> [(CK_MECHANISM_TYPE, CK_MECHANISM_INFO); 5] {
    let aes = |flags| info(16, 32, CKF_HW | flags);
    [
        (CKM_AES_KEY_GEN, aes(CKF_GENERATE)),
        (CKM_AES_GCM, aes(CKF_ENCRYPT | CKF_DECRYPT)),
        (CKM_AES_KEY_WRAP, aes(CKF_WRAP | CKF_UNWRAP)),
        (
            CKM_GENERIC_SECRET_KEY_GEN,
            info(256, 256, CKF_HW | CKF_GENERATE),
        ),
        (
            CKM_SHA256_HMAC,
            info(16, 64, CKF_HW | CKF_SIGN | CKF_VERIFY),
        ),
    ]
}

fn info(min: CK_ULONG, max: CK_ULONG, flags: CK_FLAGS) -> CK_MECHANISM_INFO {
    CK_MECHANISM_INFO {
        ulMinKeySize: min,
        ulMaxKeySize: max,
        flags,
    }
}

/// The X9.63 key derivation function (SEC 1, 3.6.1).
pub(crate) fn x963(
    hash: Hash,
    secret: &[u8],
    shared: &[u8],
    len: usize,
) -> zeroize::Zeroizing<Vec<u8>> {
    let mut out = zeroize::Zeroizing::new(Vec::with_capacity(len + hash.len()));
    for counter in 1u32.. {
        if out.len() >= len {
            break;
        }
        let input = zeroize::Zeroizing::new([secret, &counter.to_be_bytes(), shared].concat());
        out.extend_from_slice(hash.digest(&input).as_ref());
    }
    out.truncate(len);
    out
}
