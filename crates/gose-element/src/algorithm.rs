//! Algorithms of the keys that elements hold, and how they sign.

/// Algorithms of long-term keys, with PIV's identifiers (NIST SP 800-78-4, table 6-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSA with a modulus of 2,048 bits (07).
    Rsa2048,
    /// RSA with a modulus of 3,072 bits (05).
    Rsa3072,
    /// ECDSA and ECDH on P-256 (11).
    P256,
    /// ECDSA and ECDH on P-384 (14).
    P384,
}

impl Algorithm {
    /// PIV's identifier.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Rsa2048 => 0x07,
            Self::Rsa3072 => 0x05,
            Self::P256 => 0x11,
            Self::P384 => 0x14,
        }
    }

    /// The algorithm of PIV's identifier.
    #[must_use]
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0x07 => Some(Self::Rsa2048),
            0x05 => Some(Self::Rsa3072),
            0x11 => Some(Self::P256),
            0x14 => Some(Self::P384),
            _ => None,
        }
    }

    /// Whether it is RSA.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Rsa2048 | Self::Rsa3072)
    }
}

/// How a whole message is signed: the schemes that TLS and X.509 use (RFC 8446, 4.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// rsa_pkcs1_sha256
    RsaPkcs1Sha256,
    /// rsa_pss_rsae_sha256
    RsaPssSha256,
    /// ecdsa_secp256r1_sha256
    EcdsaP256Sha256,
    /// ecdsa_secp384r1_sha384
    EcdsaP384Sha384,
}
