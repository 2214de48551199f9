//! The identity's own certificate chain and key, as rustls asks for them.

use std::sync::{Arc, Mutex, PoisonError};

use gose_element::Scheme;
use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, SubjectPublicKeyInfoDer},
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};

use super::meter;
use crate::keystore::{Algorithm, PrivateKey};

/// What the card shows: one chain, one key. The key may be opened anew between conversations while it
/// stays the same key; rustls ties client sessions to this object.
#[derive(Debug)]
pub(super) struct Credential {
    shown: Mutex<Arc<CertifiedKey>>,
}

impl Credential {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn PrivateKey>) -> Self {
        let key = CertifiedKey::new(chain, Arc::new(CardKey(key)));
        Self {
            shown: Mutex::new(Arc::new(key)),
        }
    }

    /// Whether the leaf certificate is for the key.
    pub(super) fn is_consistent(&self) -> bool {
        self.shown().keys_match().is_ok()
    }

    /// Puts the key, opened anew, in place of the old handle; false if it is another key.
    pub(super) fn refresh(&self, key: Arc<dyn PrivateKey>) -> bool {
        let fresh = CertifiedKey::new(self.shown().cert.clone(), Arc::new(CardKey(key)));
        let same = fresh.keys_match().is_ok();
        if same {
            *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        }
        same
    }

    pub(super) fn leaf(&self) -> Vec<u8> {
        self.shown()
            .cert
            .first()
            .map(|der| der.to_vec())
            .unwrap_or_default()
    }

    pub(super) fn shown(&self) -> Arc<CertifiedKey> {
        self.shown
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesClientCert for Credential {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Credential {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

/// A key slot as rustls's signing key.
#[derive(Debug)]
struct CardKey(Arc<dyn PrivateKey>);

/// The schemes of a key, best first.
fn schemes(algorithm: Algorithm) -> &'static [(SignatureScheme, Scheme)] {
    match algorithm {
        Algorithm::P256 => &[(
            SignatureScheme::ECDSA_NISTP256_SHA256,
            Scheme::EcdsaP256Sha256,
        )],
        Algorithm::P384 => &[(
            SignatureScheme::ECDSA_NISTP384_SHA384,
            Scheme::EcdsaP384Sha384,
        )],
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => &[
            (SignatureScheme::RSA_PSS_SHA256, Scheme::RsaPssSha256),
            (SignatureScheme::RSA_PKCS1_SHA256, Scheme::RsaPkcs1Sha256),
        ],
        _ => &[],
    }
}

impl SigningKey for CardKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (scheme, own) = *schemes(self.0.algorithm())
            .iter()
            .find(|(scheme, _)| offered.contains(scheme))?;
        Some(Box::new(CardSigner {
            key: self.0.clone(),
            scheme,
            own,
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.public_key_info().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.0.algorithm().is_rsa() {
            SignatureAlgorithm::RSA
        } else {
            SignatureAlgorithm::ECDSA
        }
    }
}

#[derive(Debug)]
struct CardSigner {
    key: Arc<dyn PrivateKey>,
    scheme: SignatureScheme,
    own: Scheme,
}

impl Signer for CardSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        meter::count_signature(self.key.algorithm(), message.len());
        let signed = self.key.sign(self.own, message);
        signed.map_err(|error| Error::General(format!("signing in the card: {error}")))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
