//! Digests, computed by the host.

use aws_lc_rs::digest;
use cryptoki_sys::*;

/// A digest that mechanisms name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(crate) const ALL: [Self; 5] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// The mechanism that only digests.
    pub(crate) const fn mechanism(self) -> CK_MECHANISM_TYPE {
        match self {
            Self::Sha1 => CKM_SHA_1,
            Self::Sha224 => CKM_SHA224,
            Self::Sha256 => CKM_SHA256,
            Self::Sha384 => CKM_SHA384,
            Self::Sha512 => CKM_SHA512,
        }
    }

    pub(crate) fn of_mechanism(mechanism: CK_MECHANISM_TYPE) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.mechanism() == mechanism)
    }

    /// The digest of a mask generation function.
    pub(crate) fn of_mgf(mgf: CK_RSA_PKCS_MGF_TYPE) -> Option<Self> {
        match mgf {
            CKG_MGF1_SHA1 => Some(Self::Sha1),
            CKG_MGF1_SHA224 => Some(Self::Sha224),
            CKG_MGF1_SHA256 => Some(Self::Sha256),
            CKG_MGF1_SHA384 => Some(Self::Sha384),
            CKG_MGF1_SHA512 => Some(Self::Sha512),
            _ => None,
        }
    }

    pub(crate) fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha224 => &digest::SHA224,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    /// Bytes of the digest.
    pub(crate) fn len(self) -> usize {
        self.algorithm().output_len()
    }

    pub(crate) fn digest(self, bytes: &[u8]) -> digest::Digest {
        digest::digest(self.algorithm(), bytes)
    }

    /// DigestInfo up to the digest (RFC 8017, 9.2, note 1).
    pub(crate) fn digest_info(self) -> &'static [u8] {
        const fn sha2(number: u8, len: u8) -> [u8; 19] {
            [
                0x30,
                17 + len,
                0x30,
                13,
                6,
                9,
                0x60,
                0x86,
                0x48,
                1,
                0x65,
                3,
                4,
                2,
                number,
                5,
                0,
                4,
                len,
            ]
        }
        const SHA224: [u8; 19] = sha2(4, 28);
        const SHA256: [u8; 19] = sha2(1, 32);
        const SHA384: [u8; 19] = sha2(2, 48);
        const SHA512: [u8; 19] = sha2(3, 64);
        match self {
            Self::Sha1 => &[
                0x30, 0x21, 0x30, 9, 6, 5, 0x2B, 0x0E, 3, 2, 0x1A, 5, 0, 4, 0x14,
            ],
            Self::Sha224 => &SHA224,
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }
}
