//! What the pure code needs from a cryptographic library.

use std::{fmt, str::FromStr};

use crate::hex;

/// Digests and signature checks, supplied by whoever has a cryptographic library.
pub trait Crypto {
    /// SHA-256 (FIPS 180-4).
    fn sha256(&self, message: &[u8]) -> [u8; 32];

    /// Whether `signature` over `message` was made with the key of `spki` (DER SubjectPublicKeyInfo), by
    /// the algorithm of `algorithm` (content of a certificate's AlgorithmIdentifier, without its tag and
    /// length; RFC 5280, 4.1.1.2). Weak or unknown algorithms are `false`.
    fn verifies(&self, spki: &[u8], algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool;
}

/// SHA-256 of a DER SubjectPublicKeyInfo: how GoSE names an issuer's key. Text form: 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

/// Why text is not a key hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key hash is the SHA-256 of a SubjectPublicKeyInfo, 64 hexadecimal digits")]
pub struct KeyHashError;

impl KeyHash {
    /// The hash of a public key.
    #[must_use]
    pub fn of(spki: &[u8], crypto: &dyn Crypto) -> Self {
        Self(crypto.sha256(spki))
    }
}

impl FromStr for KeyHash {
    type Err = KeyHashError;

    fn from_str(text: &str) -> Result<Self, KeyHashError> {
        let bytes = hex::decode(text).map_err(|_| KeyHashError)?;
        bytes.try_into().map(Self).map_err(|_| KeyHashError)
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let hash = KeyHash([0xAB; 32]);
        assert_eq!(hash.to_string().parse::<KeyHash>(), Ok(hash));
        assert_eq!("AB".parse::<KeyHash>(), Err(KeyHashError));
        assert_eq!("x".repeat(64).parse::<KeyHash>(), Err(KeyHashError));
    }
}
