//! Which certificates are let in, and which of their names count.

use std::{collections::HashSet, fmt, sync::Arc};

use gose_client::identity::{AwsLc, PeerError, peer_identity};
use gose_proto::identity::{
    Anchor, Certificate, Freshness, Generations, KeyHash, PeerIdentity, Place, TokenError,
    VmAuthToken, VmId,
};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{clock::Clock, config::Name, grid::Names};

/// Verifies clients' certificates: chain, validity, revocation, then the names.
pub struct Admission {
    chain: Arc<dyn ClientCertVerifier>,
    /// Every anchor of clients.
    anchors: Vec<CertificateDer<'static>>,
    anchor_keys: HashSet<KeyHash>,
    /// The keys of the users' authorities.
    user_keys: HashSet<KeyHash>,
    trust_domain: Option<String>,
    tokens: Tokens,
}

/// What is known about tokens of virtual machines.
#[derive(Clone)]
pub struct Tokens {
    /// Generations, and what was taken back.
    pub known: Arc<dyn Generations + Send + Sync>,
    /// Whether a token is refused whose virtual machine has no generation here.
    pub refuse_unknown: bool,
}

impl Default for Tokens {
    /// Nothing is known, and that matters to nobody.
    fn default() -> Self {
        Self {
            known: Arc::new(Sources::default()),
            refuse_unknown: false,
        }
    }
}

/// A peer that was let in.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The names that count.
    pub names: Names,
    /// The names in the certificate.
    pub identity: PeerIdentity,
}

/// Why a certificate with a good chain is not let in.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Not exactly one proper name, or it is not known who signed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// A VM-Auth-Token that does not count here.
    #[error("VM-Auth-Token: {0}")]
    Token(#[from] TokenError),
    /// Nobody told a generation of its virtual machine.
    #[error(
        "VM-Auth-Token: its generation is unknown here, and [generations] unknown = \"refuse\""
    )]
    UnknownGeneration,
    /// Tokens and SPIFFE identifiers need `trust-domain`.
    #[error("a VM-Auth-Token, but [tls] trust-domain is not configured")]
    NoTrustDomain,
}

/// What several sources know, taken together; the newest generation counts.
#[derive(Clone, Default)]
pub struct Sources(pub Vec<Arc<dyn Generations + Send + Sync>>);

impl Generations for Sources {
    fn newest(&self, hypervisor: KeyHash, vm: VmId) -> Option<u64> {
        let newest = |source: &Arc<dyn Generations + Send + Sync>| source.newest(hypervisor, vm);
        self.0.iter().filter_map(newest).max()
    }

    fn is_revoked(&self, hypervisor: KeyHash, serial: &[u8]) -> bool {
        let mut sources = self.0.iter();
        sources.any(|source| source.is_revoked(hypervisor, serial))
    }
}

impl Admission {
    /// Checks chains with `chain`, names as the anchors allow.
    #[must_use]
    pub fn new(
        chain: Arc<dyn ClientCertVerifier>,
        client_anchors: &[CertificateDer<'static>],
        user_anchors: &[CertificateDer<'static>],
        trust_domain: Option<String>,
        tokens: Tokens,
    ) -> Self {
        let anchors = [client_anchors, user_anchors].concat();
        Self {
            chain,
            anchor_keys: keys(&anchors),
            user_keys: keys(user_anchors),
            anchors,
            trust_domain,
            tokens,
        }
    }

    /// Verifies a whole chain again: for sessions that are open when a revocation list arrives.
    ///
    /// # Errors
    /// What a handshake would fail with.
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<(), Error> {
        let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_client_cert(leaf, rest, Clock::now()).map(drop)
    }

    /// The names of a peer whose chain was verified.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub fn admit(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Admitted, AdmissionError> {
        let identity = peer_identity(chain, &self.anchors)?;
        let mut names = Vec::new();
        match self.token(chain, now) {
            Err(AdmissionError::Token(TokenError::NoBinding)) => {
                if let Some(uri) = self.counted_uri(&identity) {
                    names.push(Name::Uri(uri.into()));
                }
                if self.user_keys.contains(&identity.issuer()) {
                    names.push(Name::CommonName(identity.common_name().into()));
                }
            }
            Err(error) => return Err(error),
            Ok(uri) => names.push(Name::Uri(uri.into())),
        }
        Ok(Admitted {
            names: Names::Certified(names.into()),
            identity,
        })
    }

    /// The name of a virtual machine that shows its token in form `identity`.
    fn token(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<String, AdmissionError> {
        let (leaf, rest) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        let token = VmAuthToken::parse(leaf)?;
        let trust_domain = self
            .trust_domain
            .as_deref()
            .ok_or(AdmissionError::NoTrustDomain)?;
        let anchors: Vec<_> = self
            .anchors
            .iter()
            .map(|certificate| Anchor {
                certificate,
                trust_domain,
            })
            .collect();
        let rest: Vec<&[u8]> = rest.iter().map(AsRef::as_ref).collect();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let verified = token.verify(
            &rest,
            &anchors,
            now,
            &*self.tokens.known,
            Place::Elsewhere,
            &AwsLc,
        )?;
        if self.tokens.refuse_unknown && verified.freshness() == Freshness::Unknown {
            return Err(AdmissionError::UnknownGeneration);
        }
        Ok(verified
            .peer()
            .spiffe()
            .map(ToString::to_string)
            .unwrap_or_default())
    }

    /// A SPIFFE identifier counts if an anchor itself gave it, in the trust domain, and it is not the name
    /// of a virtual machine: those need a token, so that no hypervisor names another's machines.
    fn counted_uri(&self, identity: &PeerIdentity) -> Option<String> {
        let spiffe = identity.spiffe()?;
        let counts = self.anchor_keys.contains(&identity.issuer())
            && self.trust_domain.as_deref() == Some(spiffe.trust_domain())
            && spiffe.vm().is_none();
        counts.then(|| spiffe.to_string())
    }
}

fn keys(anchors: &[CertificateDer<'_>]) -> HashSet<KeyHash> {
    anchors
        .iter()
        .filter_map(|anchor| Certificate::parse(anchor).ok())
        .map(|anchor| KeyHash::of(anchor.public_key(), &AwsLc))
        .collect()
}

impl ClientCertVerifier for Admission {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, rest, now)?;
        let chain: Vec<_> = std::iter::once(leaf).chain(rest).cloned().collect();
        match self.admit(&chain, now) {
            Ok(_) => Ok(verified),
            Err(error) => {
                tracing::info!(%error, "refused: certificate");
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission ({} anchors)", self.anchors.len())
    }
}
