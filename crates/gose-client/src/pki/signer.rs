//! An element's key as rcgen takes keys, and certificate requests signed by it.

use gose_element::{Algorithm, Scheme};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use x509_parser::{
    certification_request::X509CertificationRequest, prelude::FromDer, x509::SubjectPublicKeyInfo,
};

use super::PkiError;
use crate::element_key::ElementKey;

/// [`ElementKey`] for rcgen.
pub(super) struct ElementSigner<'a> {
    key: &'a ElementKey,
    /// The subjectPublicKey bits.
    bits: Vec<u8>,
}

impl<'a> ElementSigner<'a> {
    pub(super) fn new(key: &'a ElementKey) -> Result<Self, PkiError> {
        let unreadable = |_| PkiError::Request("the element's public key cannot be read".into());
        let (_, info) =
            SubjectPublicKeyInfo::from_der(&key.public_key().info).map_err(unreadable)?;
        Ok(Self {
            key,
            bits: info.subject_public_key.data.to_vec(),
        })
    }

    /// What rcgen's error stands for: the element's own, if it was the element.
    pub(super) fn error(&self, error: rcgen::Error) -> PkiError {
        match self.key.take_failure() {
            Some(failure) => failure.into(),
            None => PkiError::X509(error),
        }
    }
}

impl PublicKeyData for ElementSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.key.public_key().algorithm {
            Algorithm::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => &rcgen::PKCS_RSA_SHA256,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for ElementSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = match self.key.public_key().algorithm {
            Algorithm::P384 => Scheme::EcdsaP384Sha384,
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => Scheme::RsaPkcs1Sha256,
            _ => Scheme::EcdsaP256Sha256,
        };
        self.key
            .sign(scheme, message)
            .map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A certificate request (PKCS #10, RFC 2986) for a common name, signed in the element: DER.
///
/// # Errors
/// [`PkiError::Name`], or [`PkiError::Element`] where the element did not sign.
pub fn certificate_request(key: &ElementKey, common_name: &str) -> Result<Vec<u8>, PkiError> {
    let signer = ElementSigner::new(key)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name)?;
    let request = params
        .serialize_request(&signer)
        .map_err(|error| signer.error(error))?;
    Ok(request.der().to_vec())
}

/// The one common name of a certificate request; `None` where it has none or several.
///
/// # Errors
/// [`PkiError::Request`] for bytes that are no request.
pub fn common_name(request: &[u8]) -> Result<Option<String>, PkiError> {
    let (_, request) = X509CertificationRequest::from_der(request)
        .map_err(|_| PkiError::Request("it cannot be read".into()))?;
    let subject = &request.certification_request_info.subject;
    let mut names = subject.iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    Ok(name.filter(|_| names.next().is_none()).map(str::to_owned))
}

/// A subject of one common name: 1 to 64 characters (RFC 5280, A.1), none of them a control character.
pub(super) fn distinguished_name(common_name: &str) -> Result<DistinguishedName, PkiError> {
    let fault = if !(1..=64).contains(&common_name.chars().count()) {
        Some("a common name has 1 to 64 characters")
    } else if common_name.chars().any(char::is_control) {
        Some("it has control characters")
    } else {
        None
    };
    if let Some(fault) = fault {
        return Err(PkiError::Name(common_name.to_owned(), fault));
    }
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    Ok(name)
}
