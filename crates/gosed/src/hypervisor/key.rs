//! A private key that signs and is never seen.

use gose_element::{Algorithm, Scheme};

/// A private key in an element, or in a file. Calls may block for as long as an element takes.
pub trait PrivateKey: Send + Sync {
    /// DER SubjectPublicKeyInfo.
    fn public_key(&self) -> &[u8];

    /// Which kind of key.
    fn algorithm(&self) -> Algorithm;

    /// Signs a whole message; ECDSA signatures are DER.
    ///
    /// # Errors
    /// [`NoSignature`] when the element gives none.
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, NoSignature>;
}

/// No signature came; the reason is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key gives no signature: {0}")]
pub struct NoSignature(
    /// The cause.
    pub String,
);

/// The scheme by which a key signs certificates.
#[must_use]
pub fn certificate_scheme(algorithm: Algorithm) -> Option<Scheme> {
    match algorithm {
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
            Some(Scheme::RsaPkcs1Sha256)
        }
        Algorithm::P256 => Some(Scheme::EcdsaP256Sha256),
        Algorithm::P384 => Some(Scheme::EcdsaP384Sha384),
        _ => None,
    }
}

/// The scheme of a TLS 1.3 number (RFC 8446, 4.2.3), if a key of this algorithm signs by it.
#[must_use]
pub fn tls13_scheme(algorithm: Algorithm, number: u16) -> Option<Scheme> {
    match (algorithm, number) {
        (Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096, 0x0804) => {
            Some(Scheme::RsaPssSha256)
        }
        (Algorithm::P256, 0x0403) => Some(Scheme::EcdsaP256Sha256),
        (Algorithm::P384, 0x0503) => Some(Scheme::EcdsaP384Sha384),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_of_tls13() {
        let check = |algorithm, number, expected| {
            assert_eq!(tls13_scheme(algorithm, number), expected);
        };
        check(Algorithm::P256, 0x0403, Some(Scheme::EcdsaP256Sha256));
        check(Algorithm::P256, 0x0503, None);
        check(Algorithm::P384, 0x0503, Some(Scheme::EcdsaP384Sha384));
        check(Algorithm::Rsa2048, 0x0804, Some(Scheme::RsaPssSha256));
        // PKCS#1 v1.5 is for certificates only
        check(Algorithm::Rsa2048, 0x0401, None);
    }
}
