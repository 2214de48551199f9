//! The parts of an X.509 certificate that GoSE decides on (RFC 5280, 4.1).

use x509_parser::{
    oid_registry::OID_X509_EXT_EXTENDED_KEY_USAGE,
    prelude::{ExtendedKeyUsage, FromDer, GeneralName, KeyUsage, ParsedExtension, X509Certificate},
};

use super::{Crypto, SpiffeId};
use crate::apdu::tlv::Reader;

/// A certificate, read as far as GoSE needs it. Nothing in it is checked but its form.
#[derive(Clone)]
pub struct Certificate<'a> {
    x509: X509Certificate<'a>,
    der: &'a [u8],
}

/// Why bytes are not a certificate that GoSE takes a name from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER of one X.509 certificate, or bytes follow it.
    #[error("not the DER of one X.509 certificate")]
    Unreadable,
    /// No common name in the subject.
    #[error("the subject has no common name; exactly one is required")]
    NoCommonName,
    /// Two or more common names.
    #[error("the subject has more than one common name; exactly one is required")]
    SeveralCommonNames,
    /// The common name is empty, longer than 64 characters, has control characters, or is no text.
    #[error("the common name must have 1 to 64 characters, none of them a control character")]
    CommonName,
    /// Two or more SPIFFE identifiers.
    #[error("the certificate has more than one SPIFFE identifier")]
    SeveralSpiffe,
    /// A URI that begins like a SPIFFE identifier and is none, or a URI that is no text.
    #[error("a URI of the certificate is malformed or a malformed SPIFFE identifier")]
    Spiffe,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`].
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        match (X509Certificate::from_der(der), algorithm_of(der)) {
            (Ok(([], x509)), Some(_)) => Ok(Self { x509, der }),
            _ => Err(CertificateError::Unreadable),
        }
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn der(&self) -> &'a [u8] {
        self.der
    }

    /// The one common name of the subject: 1 to 64 characters, no control characters.
    ///
    /// # Errors
    /// [`CertificateError`] if there is not exactly one, or it has another form.
    pub fn common_name(&self) -> Result<&str, CertificateError> {
        let mut names = self.x509.subject().iter_common_name();
        let name = names.next().ok_or(CertificateError::NoCommonName)?;
        if names.next().is_some() {
            return Err(CertificateError::SeveralCommonNames);
        }
        let name = name.as_str().map_err(|_| CertificateError::CommonName)?;
        let fits = (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        fits.then_some(name).ok_or(CertificateError::CommonName)
    }

    /// The SPIFFE identifier among the subject's alternative names, if there is one.
    ///
    /// # Errors
    /// [`CertificateError`] if there are several, or the only one is malformed.
    pub fn spiffe(&self) -> Result<Option<SpiffeId>, CertificateError> {
        let names = self
            .x509
            .subject_alternative_name()
            .map_err(|_| CertificateError::Unreadable)?;
        let mut found = None;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let uri = match name {
                GeneralName::URI(uri) => *uri,
                GeneralName::Invalid(..) => return Err(CertificateError::Spiffe),
                _ => continue,
            };
            if !uri
                .get(..7)
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
            {
                continue;
            }
            let id = uri.parse().map_err(|_| CertificateError::Spiffe)?;
            if found.replace(id).is_some() {
                return Err(CertificateError::SeveralSpiffe);
            }
        }
        Ok(found)
    }

    /// DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> &'a [u8] {
        self.x509.tbs_certificate.subject_pki.raw
    }

    /// DER of the subject's name.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        self.x509.subject().as_raw()
    }

    /// DER of the issuer's name.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        self.x509.issuer().as_raw()
    }

    /// The serial number's content octets, as they stand.
    #[must_use]
    pub fn serial(&self) -> &'a [u8] {
        self.x509.tbs_certificate.raw_serial()
    }

    /// Whether it says of itself that it is a CA (RFC 5280, 4.2.1.9).
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.x509.tbs_certificate.is_ca()
    }

    /// notBefore and notAfter, seconds since 1970.
    #[must_use]
    pub fn validity(&self) -> (i64, i64) {
        let validity = self.x509.validity();
        (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        )
    }

    /// How many CAs may follow below it, if it says so (RFC 5280, 4.2.1.9).
    #[must_use]
    pub fn path_len(&self) -> Option<u32> {
        let constraints = self.x509.basic_constraints().ok()??;
        constraints.value.path_len_constraint
    }

    /// The bits of keyUsage; nothing if the extension is absent or unreadable.
    pub(super) fn key_usage(&self) -> Option<&KeyUsage> {
        Some(self.x509.key_usage().ok()??.value)
    }

    /// The purposes of extKeyUsage; nothing if the extension is absent or unreadable.
    pub(super) fn extended_key_usage(&self) -> Option<&ExtendedKeyUsage<'_>> {
        Some(self.x509.extended_key_usage().ok()??.value)
    }

    /// Whether it has the extension at all, readable or not.
    pub(super) fn has_extended_key_usage(&self) -> bool {
        let mut extensions = self.x509.iter_extensions();
        extensions.any(|extension| extension.oid == OID_X509_EXT_EXTENDED_KEY_USAGE)
    }

    /// Whether a critical extension is one that nobody here understands, or is malformed.
    pub(super) fn has_unknown_critical(&self) -> bool {
        let known = |extension: &ParsedExtension<'_>| {
            matches!(
                extension,
                ParsedExtension::KeyUsage(_)
                    | ParsedExtension::BasicConstraints(_)
                    | ParsedExtension::ExtendedKeyUsage(_)
                    | ParsedExtension::SubjectAlternativeName(_)
            )
        };
        let mut extensions = self.x509.iter_extensions();
        extensions.any(|extension| extension.critical && !known(extension.parsed_extension()))
    }

    /// The value of the one extension with these content octets of its object identifier, and whether it
    /// is critical; nothing if there are none or several.
    pub(super) fn extension(&self, oid: &[u8]) -> Option<(&'a [u8], bool)> {
        let mut found = self
            .x509
            .iter_extensions()
            .filter(|extension| extension.oid.as_bytes() == oid);
        let extension = found.next()?;
        found
            .next()
            .is_none()
            .then_some((extension.value, extension.critical))
    }

    /// Whether `key` verifies the signature on it.
    #[must_use]
    pub fn is_signed_by(&self, key: &[u8], crypto: &dyn Crypto) -> bool {
        self.signed()
            .is_some_and(|it| crypto.verifies(key, it.algorithm, it.message, it.signature))
    }

    /// The signed part, the algorithm and the signature; nothing if the two places that name the algorithm
    /// differ (RFC 5280, 4.1.1.2).
    fn signed(&self) -> Option<Signed<'_>> {
        let named_twice = self.x509.signature_algorithm == self.x509.tbs_certificate.signature;
        named_twice.then_some(())?;
        Some(Signed {
            message: self.x509.tbs_certificate.as_ref(),
            algorithm: algorithm_of(self.der)?,
            signature: &self.x509.signature_value.data,
        })
    }
}

/// What an issuer signed.
struct Signed<'a> {
    message: &'a [u8],
    /// Content of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// The content of the outer AlgorithmIdentifier: object identifier and parameters. Nothing unless the
/// outermost tags are exactly those of RFC 5280, 4.1 (the signature does not cover them).
fn algorithm_of(der: &[u8]) -> Option<&[u8]> {
    let certificate = Reader::new(der).next()?.ok()?;
    let fields: Vec<_> = Reader::new(certificate.value)
        .collect::<Result<_, _>>()
        .ok()?;
    match fields.as_slice() {
        [tbs, algorithm, signature] => {
            let tags = [certificate.tag, tbs.tag, algorithm.tag, signature.tag];
            let whole_octets = signature.value.first() == Some(&0);
            (tags == [0x30, 0x30, 0x30, 0x03] && whole_octets).then_some(algorithm.value)
        }
        _ => None,
    }
}
