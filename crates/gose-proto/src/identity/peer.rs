//! Who is at the other end of TLS.

use std::fmt;

use super::{Certificate, CertificateError, Crypto, KeyHash, SpiffeId};

/// The names that policy matches: common name and issuer's key together, or the SPIFFE identifier.
///
/// A bare common name means something only under an issuer that is trusted to give it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerIdentity {
    common_name: String,
    spiffe: Option<SpiffeId>,
    issuer: KeyHash,
}

impl PeerIdentity {
    /// Takes the names from a leaf certificate whose chain was verified and whose signature was made
    /// with the key of `issuer` (see [`issuer_key`]).
    ///
    /// # Errors
    /// [`CertificateError`] if the certificate has not exactly one proper common name and at most one
    /// SPIFFE identifier.
    pub fn from_der(leaf: &[u8], issuer: KeyHash) -> Result<Self, CertificateError> {
        let certificate = Certificate::parse(leaf)?;
        Ok(Self {
            common_name: certificate.common_name()?.to_owned(),
            spiffe: certificate.spiffe()?,
            issuer,
        })
    }

    /// The subject's common name.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// The SPIFFE identifier.
    #[must_use]
    pub fn spiffe(&self) -> Option<&SpiffeId> {
        self.spiffe.as_ref()
    }

    /// The key that signed the certificate.
    #[must_use]
    pub fn issuer(&self) -> KeyHash {
        self.issuer
    }
}

/// For logs: the SPIFFE identifier if there is one, else the common name and who gave it.
impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spiffe {
            Some(spiffe) => write!(f, "{spiffe}"),
            None => {
                let issuer = self.issuer.to_string();
                write!(f, "{} of {}", self.common_name, &issuer[..16])
            }
        }
    }
}

/// Why the key that signed a certificate is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The leaf cannot be read.
    #[error(transparent)]
    Leaf(#[from] CertificateError),
    /// None of the candidates signed it.
    #[error("neither the chain nor the trust anchors hold the key that signed the certificate")]
    Unknown,
}

/// The key that signed `leaf`, sought among `candidates`: the rest of the chain that the peer sent, and
/// the trust anchors, each a DER certificate. A candidate counts only if its key verifies the
/// signature: what else a peer puts in its chain changes nothing.
///
/// # Errors
/// [`IssuerError`].
pub fn issuer_key<'a>(
    leaf: &[u8],
    candidates: impl IntoIterator<Item = &'a [u8]>,
    crypto: &dyn Crypto,
) -> Result<KeyHash, IssuerError> {
    let leaf = Certificate::parse(leaf)?;
    candidates
        .into_iter()
        .filter_map(|der| Certificate::parse(der).ok())
        .filter(|candidate| candidate.subject() == leaf.issuer())
        .map(|candidate| candidate.public_key())
        .find(|key| leaf.is_signed_by(key, crypto))
        .map(|key| KeyHash::of(key, crypto))
        .ok_or(IssuerError::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{TestCrypto, ca, leaf};

    const ISSUER: KeyHash = KeyHash([7; 32]);

    fn check(
        names: &[&str],
        uris: &[&str],
        expected: Result<(&str, Option<&str>), CertificateError>,
    ) {
        let der = leaf(&ca("CA"), names, uris);
        let got = PeerIdentity::from_der(&der, ISSUER);
        let got = got
            .as_ref()
            .map(|peer| (peer.common_name(), peer.spiffe().map(SpiffeId::as_str)));
        assert_eq!(
            got,
            expected.as_ref().map(|names| *names),
            "{names:?} {uris:?}"
        );
    }

    #[test]
    fn names() {
        let vm = "spiffe://example.org/hv/hv-7/vm/00112233-4455-6677-8899-aabbccddeeff";
        check(&["vm-42"], &[], Ok(("vm-42", None)));
        check(&["vm-42"], &[vm], Ok(("vm-42", Some(vm))));
        check(&["vm-42"], &["https://example.org/"], Ok(("vm-42", None)));
        check(
            &["é".repeat(64).as_str()],
            &[],
            Ok(("é".repeat(64).as_str(), None)),
        );
        check(&[], &[], Err(CertificateError::NoCommonName));
        check(&["a", "b"], &[], Err(CertificateError::SeveralCommonNames));
        for bad in ["", "a\nb", "a\0", "\u{85}", "x".repeat(65).as_str()] {
            check(&[bad], &[], Err(CertificateError::CommonName));
        }
        check(
            &["a"],
            &[vm, "spiffe://e.org"],
            Err(CertificateError::SeveralSpiffe),
        );
        for bad in [
            "spiffe://",
            "spiffe:x",
            "SPIFFE://e.org/a",
            "spiffe://e.org/a//b",
        ] {
            check(&["a"], &[bad], Err(CertificateError::Spiffe));
        }
    }

    #[test]
    fn unreadable() {
        let mut der = leaf(&ca("CA"), &["a"], &[]);
        der.push(0);
        let trailing = PeerIdentity::from_der(&der, ISSUER);
        assert_eq!(trailing, Err(CertificateError::Unreadable));
        assert_eq!(
            PeerIdentity::from_der(&[], ISSUER),
            Err(CertificateError::Unreadable)
        );
    }

    #[test]
    fn the_issuer_is_who_signed() {
        let (real, twin, other) = (ca("CA"), ca("CA"), ca("other"));
        let der = leaf(&real, &["a"], &[]);
        let key_of = |der| KeyHash::of(Certificate::parse(der).unwrap().public_key(), &TestCrypto);
        // A certificate that bears the issuer's name but not its key is passed over.
        let chain = [&twin.der, &other.der, &real.der].map(Vec::as_slice);
        assert_eq!(issuer_key(&der, chain, &TestCrypto), Ok(key_of(&real.der)));
        let without = [&twin.der, &other.der].map(Vec::as_slice);
        assert_eq!(
            issuer_key(&der, without, &TestCrypto),
            Err(IssuerError::Unknown)
        );
    }

    proptest::proptest! {
        #[test]
        fn damaged_certificates_never_panic(at in 0usize..600, bit in 0u8..8) {
            static LEAF: std::sync::LazyLock<Vec<u8>> =
                std::sync::LazyLock::new(|| leaf(&ca("CA"), &["a"], &["spiffe://e.org/a"]));
            let mut der = LEAF.clone();
            let at = at % der.len();
            der[at] ^= 1 << bit;
            let _ = PeerIdentity::from_der(&der, ISSUER);
            let _ = issuer_key(&der, [der.as_slice()], &TestCrypto);
        }
    }
}
