//! Certificates and checks for the tests of this module.

use aws_lc_rs::digest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use webpki::{ALL_VERIFICATION_ALGS, RawPublicKeyEntity};

use super::Crypto;

pub(super) struct TestCrypto;

impl Crypto for TestCrypto {
    fn sha256(&self, message: &[u8]) -> [u8; 32] {
        let digest = digest::digest(&digest::SHA256, message);
        digest.as_ref().try_into().unwrap()
    }

    fn verifies(&self, spki: &[u8], algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let key = RawPublicKeyEntity::try_from(&spki).unwrap();
        ALL_VERIFICATION_ALGS
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == algorithm)
            .any(|known| key.verify_signature(*known, message, signature).is_ok())
    }
}

/// A CA: its certificate and what rcgen issues with.
pub(super) struct Ca {
    pub(super) der: Vec<u8>,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

pub(super) fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let der = params.self_signed(&key).unwrap().der().to_vec();
    Ca {
        der,
        issuer: Issuer::new(params, key),
    }
}

pub(super) fn leaf(ca: &Ca, names: &[&str], uris: &[&str]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // rcgen keeps one name a type, so a second common name comes under the type's number.
    let types = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
    for (kind, name) in types.into_iter().zip(names) {
        params.distinguished_name.push(kind, *name);
    }
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().to_vec()
}
