//! Algorithms of the keys that elements hold, and how they sign.

/// Algorithms of long-term keys, with PIV's identifiers (NIST SP 800-78-4, table 6-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSA with a modulus of 2,048 bits (07).
    Rsa2048,
    /// RSA with a modulus of 3,072 bits (05).
    Rsa3072,
    /// RSA with a modulus of 4,096 bits (16; not in the standard, as other cards have it).
    Rsa4096,
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
            Self::Rsa4096 => 0x16,
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
            0x16 => Some(Self::Rsa4096),
            0x11 => Some(Self::P256),
            0x14 => Some(Self::P384),
            _ => None,
        }
    }

    /// Whether it is RSA.
    #[must_use]
    pub const fn is_rsa(self) -> bool {
        self.modulus_len().is_some()
    }

    /// Bytes of an RSA modulus; `None` for elliptic curves.
    #[must_use]
    pub const fn modulus_len(self) -> Option<usize> {
        match self {
            Self::Rsa2048 => Some(256),
            Self::Rsa3072 => Some(384),
            Self::Rsa4096 => Some(512),
            Self::P256 | Self::P384 => None,
        }
    }

    /// RSA with a modulus of this many bytes.
    #[must_use]
    pub const fn rsa(modulus_len: usize) -> Option<Self> {
        match modulus_len {
            256 => Some(Self::Rsa2048),
            384 => Some(Self::Rsa3072),
            512 => Some(Self::Rsa4096),
            _ => None,
        }
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

/// Algorithms of secret (symmetric) keys: one key has one use, so that no use of a key betrays another one
/// (NIST SP 800-57 part 1, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecretAlgorithm {
    /// AES-128 in Galois/Counter Mode (NIST SP 800-38D): encrypts data.
    Aes128Gcm,
    /// AES-256 in Galois/Counter Mode: encrypts data.
    Aes256Gcm,
    /// HMAC with SHA-256 (FIPS 198-1): authenticates data.
    HmacSha256,
    /// AES-128 key wrap (RFC 3394): wraps other keys.
    Aes128Kw,
    /// AES-256 key wrap: wraps other keys.
    Aes256Kw,
}

impl SecretAlgorithm {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::HmacSha256,
        Self::Aes128Kw,
        Self::Aes256Kw,
    ];

    /// The identifier in commands and records.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Aes128Gcm => 0x01,
            Self::Aes256Gcm => 0x02,
            Self::HmacSha256 => 0x03,
            Self::Aes128Kw => 0x04,
            Self::Aes256Kw => 0x05,
        }
    }

    /// The algorithm of an identifier.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.id() == id)
    }

    /// Whether keys of this algorithm encrypt data.
    #[must_use]
    pub const fn encrypts(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm)
    }

    /// Whether keys of this algorithm wrap other keys.
    #[must_use]
    pub const fn wraps(self) -> bool {
        matches!(self, Self::Aes128Kw | Self::Aes256Kw)
    }

    /// Bytes of a key that is made.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Kw => 16,
            Self::Aes256Gcm | Self::Aes256Kw | Self::HmacSha256 => 32,
        }
    }

    /// Whether a key of so many bytes may be taken in: AES as made; HMAC 16 to 64 bytes, a multiple of eight,
    /// so that it can be wrapped.
    #[must_use]
    pub const fn takes(self, len: usize) -> bool {
        match self {
            Self::HmacSha256 => len >= 16 && len <= 64 && len.is_multiple_of(8),
            _ => len == self.key_len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_name_one_algorithm_each() {
        let known = (0..=255).filter_map(Algorithm::from_id);
        assert!(known.clone().all(|a| Algorithm::from_id(a.id()) == Some(a)));
        assert_eq!(known.count(), 5);
        let known = (0..=255).filter_map(SecretAlgorithm::from_id);
        assert_eq!(known.count(), SecretAlgorithm::ALL.len());
        for len in [256, 384, 512] {
            assert_eq!(Algorithm::rsa(len).unwrap().modulus_len(), Some(len));
        }
    }

    #[test]
    fn lengths_of_secret_keys() {
        assert!(SecretAlgorithm::ALL.iter().all(|a| a.takes(a.key_len())));
        for (algorithm, bad) in [
            (SecretAlgorithm::Aes128Gcm, 32),
            (SecretAlgorithm::Aes256Kw, 24),
            (SecretAlgorithm::HmacSha256, 8),
            (SecretAlgorithm::HmacSha256, 20),
            (SecretAlgorithm::HmacSha256, 72),
        ] {
            assert!(!algorithm.takes(bad), "{algorithm:?} {bad}");
        }
    }
}
