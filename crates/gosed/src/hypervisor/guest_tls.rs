//! TLS towards a guest: its certificate is the attachment token of its domain, and nothing else.

use std::{fmt, sync::Arc, time::Instant};

use gose_client::identity::AwsLc;
use gose_proto::identity::{
    Generations, Place, TokenError, VmAuthToken,
    attach::{AttachError, Serial},
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use super::domain::Domain;
use crate::clock::Clock;

/// Why a guest's certificate is refused.
#[derive(Debug, thiserror::Error)]
pub enum GuestRefused {
    /// A check of the token failed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A token of this domain that was replaced.
    #[error("an earlier token of this domain")]
    Replaced(#[from] AttachError),
}

/// Checks what a guest shows on the listener of its domain.
pub struct GuestVerifier {
    domain: Arc<Domain>,
    known: Arc<dyn Generations + Send + Sync>,
    provider: Arc<CryptoProvider>,
}

impl GuestVerifier {
    /// For the listener of this domain.
    #[must_use]
    pub fn new(domain: Arc<Domain>, known: Arc<dyn Generations + Send + Sync>) -> Self {
        Self {
            domain,
            known,
            provider: Arc::new(aws_lc_rs::default_provider()),
        }
    }

    /// Checks the certificate that a guest shows; `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`GuestRefused`].
    pub fn check(&self, leaf: &[u8], now: i64) -> Result<(), GuestRefused> {
        let issuer = self.domain.issuer();
        let place = Place::Listener {
            hypervisor: issuer.key_hash(),
            vm: self.domain.vm(),
        };
        // The anchor is hv-ca itself: whatever chain the guest sends has no say.
        let anchors = [issuer.anchor()];
        let token = VmAuthToken::parse(leaf)?;
        let token = token.verify(&[], &anchors, now, &*self.known, place, &AwsLc)?;
        let serial = Serial::new(token.serial()).ok_or(AttachError::NotCurrent)?;
        Ok(self.domain.check_serial(&serial, Instant::now())?)
    }
}

impl ClientCertVerifier for GuestVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        match self.check(leaf, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(reason) => {
                tracing::warn!(vm = %self.domain.vm(), %reason, "refused: the guest's certificate");
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms).inspect_err(|error| {
            tracing::warn!(vm = %self.domain.vm(), %error, "refused: the handshake's signature");
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl fmt::Debug for GuestVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestVerifier {}", self.domain.vm())
    }
}

/// TLS of a domain's listener: 1.3 only, no tickets and no resumption, so that every session needs a
/// signature of the hypervisor's element.
///
/// # Errors
/// When the library refuses, which it does for no input known.
pub fn server_config(
    verifier: GuestVerifier,
    own: Arc<dyn ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_details(verifier.provider.clone(), Arc::new(Clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
