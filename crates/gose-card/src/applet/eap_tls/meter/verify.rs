//! Signature verification, counted with the hash of the message.

use rustls::{
    SignatureScheme,
    crypto::{WebPkiSupportedAlgorithms, aws_lc_rs::default_provider},
};
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

use super::{count, hash, leak};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// Schemes in order of preference (protocols: ECDSA P-256, P-384, Ed25519, RSA-PSS; PKCS#1 for TLS 1.2).
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

pub(super) fn algorithms() -> WebPkiSupportedAlgorithms {
    let inner = default_provider().signature_verification_algorithms;
    let wrap = |list: &[Algorithm]| -> Vec<Algorithm> {
        list.iter()
            .map(|one| leak(Metered(*one)) as Algorithm)
            .collect()
    };
    let mapping: Vec<(SignatureScheme, &'static [Algorithm])> = SCHEMES
        .iter()
        .filter_map(|scheme| inner.mapping.iter().find(|(s, _)| s == scheme))
        .map(|(scheme, list)| (*scheme, &*wrap(list).leak()))
        .collect();
    WebPkiSupportedAlgorithms {
        all: wrap(inner.all).leak(),
        mapping: mapping.leak(),
    }
}

#[derive(Debug)]
struct Metered(Algorithm);

impl SignatureVerificationAlgorithm for Metered {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let id = self.0.signature_alg_id();
        let wide = id == alg_id::ECDSA_SHA384 || id == alg_id::RSA_PKCS1_SHA384;
        hash::count_message(message.len(), wide);
        let key = self.0.public_key_alg_id();
        count(|cost| {
            if key == alg_id::RSA_ENCRYPTION {
                cost.rsa_public += 1;
            } else {
                cost.ecdsa_verify += 1;
                cost.of_these.verify_p384 += u64::from(key == alg_id::ECDSA_P384);
            }
        });
        self.0.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}
