//! Whether the other end's certificate is accepted: chain to the anchors held in the card, at the host's
//! time, not revoked, with an expected name (RFC 5280, 6; RFC 9190, 5.4).

use std::{sync::Arc, time::Duration};

use gose_proto::identity::binding::{Form, OID_BYTES, VmBinding};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer, prelude::X509Certificate};

use super::clock::Clock;

/// A peer's chain was accepted; only [`Verifier::accept`] makes one.
#[derive(Debug)]
pub(super) struct Accepted(());

/// Accepts certificates of the other end.
#[derive(Debug)]
pub(super) struct Verifier {
    anchors: Vec<TrustAnchor<'static>>,
    hints: Vec<DistinguishedName>,
    crls: Vec<CertRevocationList<'static>>,
    names: Vec<String>,
    other_end: OtherEnd,
    algorithms: WebPkiSupportedAlgorithms,
    clock: Arc<Clock>,
    allow_no_clock: bool,
}

/// What the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherEnd {
    Server,
    Client,
}

/// What a verifier is made of, as DER and text.
pub(super) struct Trust<'a> {
    pub(super) anchors: Vec<&'a [u8]>,
    pub(super) crls: Vec<&'a [u8]>,
    pub(super) names: Vec<String>,
    pub(super) other_end: OtherEnd,
    pub(super) allow_no_clock: bool,
}

impl Verifier {
    /// `None` where an anchor or a CRL cannot be read, or there is no anchor.
    pub(super) fn new(
        trust: Trust<'_>,
        algorithms: WebPkiSupportedAlgorithms,
        clock: Arc<Clock>,
    ) -> Option<Self> {
        let anchor = |der: &&[u8]| {
            let der = CertificateDer::from(*der);
            anchor_from_trusted_cert(&der).ok().map(|a| a.to_owned())
        };
        let anchors: Vec<_> = trust.anchors.iter().map(anchor).collect::<Option<_>>()?;
        let crl = |der: &&[u8]| OwnedCertRevocationList::from_der(der).ok().map(Into::into);
        let crls = trust.crls.iter().map(crl).collect::<Option<_>>()?;
        let hint = |a: &TrustAnchor<'_>| DistinguishedName::in_sequence(&a.subject);
        (!anchors.is_empty()).then(|| Self {
            hints: anchors.iter().map(hint).collect(),
            anchors,
            crls,
            names: trust.names,
            other_end: trust.other_end,
            algorithms,
            clock,
            allow_no_clock: trust.allow_no_clock,
        })
    }

    /// The chain of a resumed session, once more: time has passed, CRLs may have changed.
    pub(super) fn accept_again(&self, chain: &[CertificateDer<'_>]) -> Result<Accepted, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.accept(leaf, intermediates)
    }

    fn accept(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<Accepted, Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(refusal)?;
        let usage = match self.other_end {
            OtherEnd::Server => KeyUsage::server_auth(),
            OtherEnd::Client => KeyUsage::client_auth(),
        };
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                // An issuer without a CRL in the card has short-lived certificates.
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(match self.clock.now() {
                    Some(_) => ExpirationPolicy::Enforce,
                    None => ExpirationPolicy::Ignore,
                })
                .build()
        });
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                self.time(leaf, intermediates)?,
                usage,
                revocation,
                None,
            )
            .map_err(refusal)?;
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        is_no_attachment(&parsed)?;
        self.has_expected_name(&parsed)?;
        Ok(Accepted(()))
    }

    /// The host's time. Without one, where the policy allows it, the latest notBefore of the chain: then
    /// everything but the validity is checked.
    fn time(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<UnixTime, Error> {
        let unix = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        if let Some(now) = self.clock.now() {
            return Ok(unix(now));
        }
        if !self.allow_no_clock {
            return Err(Error::FailedToGetCurrentTime);
        }
        let not_before = |der: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            u64::try_from(certificate.validity().not_before.timestamp()).ok()
        };
        let latest = std::iter::once(leaf)
            .chain(intermediates)
            .filter_map(not_before)
            .max();
        Ok(unix(latest.unwrap_or_default()))
    }

    fn has_expected_name(&self, certificate: &X509Certificate<'_>) -> Result<(), Error> {
        if self.names.is_empty() {
            return Ok(());
        }
        let is_expected = |name: &str| self.names.iter().any(|n| n.eq_ignore_ascii_case(name));
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let by_alternative = alternative.iter().flat_map(|e| &e.value.general_names).any(|name| {
            matches!(name, GeneralName::DNSName(name) | GeneralName::URI(name) if is_expected(name))
        });
        let mut common_names = certificate.subject().iter_common_name();
        let by_common_name = common_names.any(|cn| cn.as_str().is_ok_and(is_expected));
        if by_alternative || by_common_name {
            Ok(())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }
}

/// A VM-Auth-Token in attachment form has its hypervisor's key, which signs for every guest: it counts at
/// that hypervisor alone, and there no element asks.
fn is_no_attachment(certificate: &X509Certificate<'_>) -> Result<(), Error> {
    let mut extensions = certificate.extensions().iter();
    let Some(extension) = extensions.find(|e| e.oid.as_bytes() == OID_BYTES) else {
        return Ok(());
    };
    match VmBinding::parse(extension.value) {
        Ok(binding) if binding.form == Form::Identity => Ok(()),
        Ok(_) => Err(CertificateError::InvalidPurpose.into()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// rustls chooses the alert by its own error.
fn refusal(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let error = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        _ => CertificateError::ApplicationVerificationFailure,
    };
    error.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.accept(end_entity, intermediates)
            .map(|Accepted(())| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.accept(end_entity, intermediates)
            .map(|Accepted(())| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
