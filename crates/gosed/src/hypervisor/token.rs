//! Issuing VM-Auth-Tokens: `hv-ca` signs them inside the hypervisor's element.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use gose_client::identity::AwsLc;
use gose_element::Scheme;
use gose_proto::identity::{
    Anchor, Certificate, CertificateError, Form, Generations, HypervisorId, KeyHash, Place,
    TokenError, VmAuthToken, VmBinding, VmId, VmName,
    attach::{Chain, Serial},
    binding::OID,
    token::MAX_LIFETIME,
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Purpose, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;

use super::key::{PrivateKey, certificate_scheme};

/// Seconds by which a token begins in the past, for clocks that are behind.
const BACKDATE: i64 = 60;

/// The hypervisor's authority over its virtual machines.
pub struct TokenIssuer {
    /// `hv-ca` first, then what leads to the anchor.
    chain: Vec<Vec<u8>>,
    key: Arc<dyn PrivateKey>,
    key_hash: KeyHash,
    trust_domain: String,
    hypervisor: HypervisorId,
    lifetime: i64,
    asked: Asked,
}

/// Handshake signatures that guests asked for.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) signed: AtomicU64,
    pub(super) refused: AtomicU64,
}

/// A token and its chain.
#[derive(Debug, Clone)]
pub struct Issued {
    /// What the attach channel calls it by.
    pub serial: Serial,
    /// The token first.
    pub chain: Chain,
    /// The last second in which it is valid, since 1970.
    pub not_after: i64,
}

/// Whose key a token carries.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// `hv-ca`'s own: form `attachment`.
    Hypervisor,
    /// The virtual machine's, DER SubjectPublicKeyInfo: form `identity`.
    Own(&'a [u8]),
}

/// Why there is no token, by blame.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The certificate of `hv-ca` cannot be read.
    #[error("the certificate of hv-ca: {0}")]
    Certificate(#[from] CertificateError),
    /// The certificate of `hv-ca` is not made as one.
    #[error("the certificate of hv-ca {0}")]
    Profile(&'static str),
    /// The key is not the certificate's.
    #[error("the key in slot 9C is not the one in the certificate of hv-ca")]
    OtherKey,
    /// A lifetime over 24 hours.
    #[error("a token lives 60 s to 24 h")]
    Lifetime,
    /// The virtual machine's key cannot stand in a certificate.
    #[error("the public key of the virtual machine: {0}")]
    SubjectKey(String),
    /// The element gave no signature, or the certificate cannot be built.
    #[error("no token: {0}")]
    Build(String),
    /// What came out does not pass the checks that others will make.
    #[error("the token made does not pass its own check: {0}")]
    Unsound(#[from] TokenError),
}

impl TokenIssuer {
    /// An issuer with the chain of `hv-ca` (leaf first) and its key; tokens live for `lifetime`.
    ///
    /// # Errors
    /// [`IssueError`] if the certificate is not an `hv-ca`'s, or the key another.
    pub fn new(
        chain: Vec<Vec<u8>>,
        key: Arc<dyn PrivateKey>,
        lifetime: Duration,
    ) -> Result<Self, IssueError> {
        let der = chain.first().ok_or(IssueError::Profile("is missing"))?;
        let (trust_domain, hypervisor) = names(der)?;
        if Certificate::parse(der)?.public_key() != key.public_key() {
            return Err(IssueError::OtherKey);
        }
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        if !(60..=MAX_LIFETIME - BACKDATE).contains(&lifetime) {
            return Err(IssueError::Lifetime);
        }
        Ok(Self {
            key_hash: KeyHash::of(key.public_key(), &AwsLc),
            chain,
            key,
            trust_domain,
            hypervisor,
            lifetime,
            asked: Asked::default(),
        })
    }

    /// Checks that a certificate is made as an `hv-ca`'s must be; gives the name of its key.
    ///
    /// # Errors
    /// [`IssueError::Certificate`], [`IssueError::Profile`].
    pub fn check_certificate(der: &[u8]) -> Result<KeyHash, IssueError> {
        names(der)?;
        Ok(KeyHash::of(Certificate::parse(der)?.public_key(), &AwsLc))
    }

    /// The name of the `hv-ca` key: ID_HV.
    #[must_use]
    pub fn key_hash(&self) -> KeyHash {
        self.key_hash
    }

    /// The last part of the hypervisor's name.
    #[must_use]
    pub fn hypervisor(&self) -> &HypervisorId {
        &self.hypervisor
    }

    /// Handshake signatures that guests asked for.
    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The `hv-ca` key.
    #[must_use]
    pub fn key(&self) -> &Arc<dyn PrivateKey> {
        &self.key
    }

    /// Seconds that a token is valid from its issue on.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime.unsigned_abs())
    }

    /// The certificate of `hv-ca`, as the anchor of this hypervisor's own listeners.
    #[must_use]
    pub fn anchor(&self) -> Anchor<'_> {
        Anchor {
            certificate: self.chain.first().map_or(&[], Vec::as_slice),
            trust_domain: &self.trust_domain,
        }
    }

    /// The name of a virtual machine of this hypervisor.
    #[must_use]
    pub fn name(&self, vm: VmId) -> VmName {
        VmName {
            trust_domain: self.trust_domain.clone(),
            hypervisor: self.hypervisor.clone(),
            vm,
        }
    }

    /// Makes a token. `now` is in seconds since 1970. Blocks while the element signs.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(
        &self,
        vm: VmId,
        generation: u64,
        subject: Subject<'_>,
        now: i64,
    ) -> Result<Issued, IssueError> {
        let form = match subject {
            Subject::Hypervisor => Form::Attachment,
            Subject::Own(_) => Form::Identity,
        };
        let binding = VmBinding {
            vm,
            hypervisor: self.key_hash,
            generation,
            form,
        };
        let spki = match subject {
            Subject::Hypervisor => self.key.public_key(),
            Subject::Own(spki) => spki,
        };
        let public_key = SubjectPublicKeyInfo::from_der(spki)
            .map_err(|error| IssueError::SubjectKey(error.to_string()))?;
        let der = self.sign(&self.params(&binding, now)?, &public_key)?;
        self.check(&der, &binding, now)?;
        let build = |what: &str| IssueError::Build(what.to_owned());
        let serial = Certificate::parse(&der)?.serial().to_vec();
        let chain = std::iter::once(der).chain(self.chain.iter().cloned());
        Ok(Issued {
            serial: Serial::new(&serial).ok_or_else(|| build("serial number too long"))?,
            chain: Chain::new(chain.collect()).ok_or_else(|| build("chain too long"))?,
            not_after: now + self.lifetime,
        })
    }

    fn params(&self, binding: &VmBinding, now: i64) -> Result<CertificateParams, IssueError> {
        let build = |error: rcgen::Error| IssueError::Build(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = binding.vm.common_name();
        params.distinguished_name.push(DnType::CommonName, name);
        let uri = self.name(binding.vm).to_string();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(build)?)];
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |seconds: i64| epoch + Duration::from_secs(seconds.unsigned_abs());
        params.not_before = at(now - BACKDATE);
        params.not_after = at(now + self.lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match binding.form {
            Form::Attachment => vec![Purpose::ClientAuth],
            Form::Identity => vec![Purpose::ClientAuth, Purpose::ServerAuth],
        };
        let extension = CustomExtension::from_oid_content(&OID, binding.encode());
        params.custom_extensions.push(extension);
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        Ok(params)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public_key: &SubjectPublicKeyInfo,
    ) -> Result<Vec<u8>, IssueError> {
        let build = |error: rcgen::Error| IssueError::Build(error.to_string());
        let der = self
            .chain
            .first()
            .map(|der| CertificateDer::from(der.as_slice()));
        let der = der.ok_or(IssueError::Profile("is missing"))?;
        let signer = Signer {
            public: SubjectPublicKeyInfo::from_der(self.key.public_key()).map_err(build)?,
            scheme: certificate_scheme(self.key.algorithm())
                .ok_or(IssueError::Profile("has a key that signs no certificates"))?,
            key: &*self.key,
        };
        let issuer = Issuer::from_ca_cert_der(&der, signer).map_err(build)?;
        let certificate = params.signed_by(public_key, &issuer).map_err(build)?;
        Ok(certificate.der().to_vec())
    }

    /// What goes out has passed the check that it is made for.
    fn check(&self, der: &[u8], binding: &VmBinding, now: i64) -> Result<(), IssueError> {
        let place = match binding.form {
            Form::Attachment => Place::Listener {
                hypervisor: self.key_hash,
                vm: binding.vm,
            },
            Form::Identity => Place::Elsewhere,
        };
        let token = VmAuthToken::parse(der)?;
        token.verify(&[], &[self.anchor()], now, &Nothing, place, &AwsLc)?;
        Ok(())
    }
}

/// Trust domain and hypervisor in the certificate of an `hv-ca`.
fn names(der: &[u8]) -> Result<(String, HypervisorId), IssueError> {
    let hv_ca = Certificate::parse(der)?;
    if !hv_ca.is_ca() || hv_ca.path_len() != Some(0) {
        return Err(IssueError::Profile("is no CA with path length 0"));
    }
    let name = hv_ca.spiffe()?;
    let named = name.and_then(|id| Some((id.trust_domain().to_owned(), id.hypervisor()?)));
    named.ok_or(IssueError::Profile(
        "has no URI spiffe://<trust-domain>/hv/<hv-id>",
    ))
}

/// No generation is known, nothing is revoked: for a token that was made this instant.
struct Nothing;

impl Generations for Nothing {
    fn newest(&self, _hypervisor: KeyHash, _vm: VmId) -> Option<u64> {
        None
    }
    fn is_revoked(&self, _hypervisor: KeyHash, _serial: &[u8]) -> bool {
        false
    }
}

/// 16 random bytes, the top bit clear and the next one set, so that none is lost to DER's integers.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| IssueError::Build("no random numbers".to_owned()))?;
    bytes[0] = bytes[0] & 0x7F | 0x40;
    Ok(SerialNumber::from(bytes.to_vec()))
}

/// The `hv-ca` key as rcgen sees it.
struct Signer<'a> {
    public: SubjectPublicKeyInfo,
    scheme: Scheme,
    key: &'a dyn PrivateKey,
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(self.scheme, message).map_err(|error| {
            tracing::warn!(%error, "hv-ca signs no token");
            rcgen::Error::RemoteKeyError
        })
    }
}
