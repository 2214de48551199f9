//! Names of TLS peers, with the digests and signature checks of aws-lc.

use aws_lc_rs::digest;
use gose_element::Algorithm;
use gose_proto::identity::{
    Certificate, CertificateError, Crypto, IssuerError, PeerIdentity, issuer_key,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use webpki::{ALL_VERIFICATION_ALGS, RawPublicKeyEntity};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384},
    prelude::{CertificateRevocationList, FromDer, SubjectPublicKeyInfo},
    public_key::PublicKey,
};

/// Digests and signature checks of aws-lc, with webpki's choice of algorithms: none on SHA-1, no RSA
/// under 2,048 bits.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsLc;

impl Crypto for AwsLc {
    fn sha256(&self, message: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
        out
    }

    fn verifies(&self, spki: &[u8], algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let Ok(key) = RawPublicKeyEntity::try_from(&spki) else {
            return false;
        };
        ALL_VERIFICATION_ALGS
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == algorithm)
            .any(|known| key.verify_signature(*known, message, signature).is_ok())
    }
}

/// Why a chain gives no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The leaf does not carry the names that it must.
    #[error(transparent)]
    Leaf(#[from] CertificateError),
    /// It is not known who signed the leaf.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// The name of a peer whose `chain` (leaf first) TLS has verified up to one of `anchors`.
///
/// # Errors
/// [`PeerError`]: the connection is to be refused.
pub fn peer_identity(
    chain: &[CertificateDer<'_>],
    anchors: &[CertificateDer<'_>],
) -> Result<PeerIdentity, PeerError> {
    let (leaf, rest) = chain.split_first().ok_or(PeerError::NoCertificate)?;
    let candidates = rest.iter().chain(anchors).map(AsRef::as_ref);
    let issuer = issuer_key(leaf, candidates, &AwsLc)?;
    Ok(PeerIdentity::from_der(leaf, issuer)?)
}

/// Whether a revocation list (DER CertificateList, RFC 5280, 5.1) can be what it says: where its issuer is among
/// these certificates, the key of one of that name verifies its signature. One of another issuer is left to whoever
/// has the issuer's certificate.
#[must_use]
pub fn may_be_list_of(list: &[u8], issuers: &[CertificateDer<'_>]) -> bool {
    let Ok((rest, parsed)) = CertificateRevocationList::from_der(list) else {
        return false;
    };
    if !rest.is_empty() {
        return false;
    }
    let issuer = parsed.issuer().as_raw();
    let mut keys = issuers
        .iter()
        .filter_map(|der| Certificate::parse(der).ok())
        .filter(|certificate| certificate.subject() == issuer)
        .map(|certificate| certificate.public_key())
        .peekable();
    let (message, signature) = (
        parsed.tbs_cert_list.as_ref(),
        &parsed.signature_value.data[..],
    );
    keys.peek().is_none()
        || keys.any(|spki| {
            let spki = SubjectPublicKeyInfoDer::from(spki);
            RawPublicKeyEntity::try_from(&spki).is_ok_and(|key| {
                ALL_VERIFICATION_ALGS
                    .iter()
                    .any(|known| key.verify_signature(*known, message, signature).is_ok())
            })
        })
}

/// The algorithm of a DER SubjectPublicKeyInfo; nothing for one that elements do not have.
#[must_use]
pub fn key_algorithm(spki: &[u8]) -> Option<Algorithm> {
    let (rest, info) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    if !rest.is_empty() {
        return None;
    }
    match info.parsed().ok()? {
        PublicKey::RSA(key) => match key.key_size() {
            2048 => Some(Algorithm::Rsa2048),
            3072 => Some(Algorithm::Rsa3072),
            4096 => Some(Algorithm::Rsa4096),
            _ => None,
        },
        PublicKey::EC(_) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let known = [
                (OID_EC_P256, Algorithm::P256),
                (OID_NIST_EC_P384, Algorithm::P384),
            ];
            let found = known.into_iter().find(|(oid, _)| *oid == curve)?;
            Some(found.1)
        }
        _ => None,
    }
}
