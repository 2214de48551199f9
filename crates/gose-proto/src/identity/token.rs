//! The VM-Auth-Token: {ID_VM, ID_HV, validity} signed by the hypervisor, as an X.509 certificate.

use x509_parser::extensions::KeyUsage;

use super::{
    Certificate, CertificateError, Crypto, Form, KeyHash, PeerIdentity, VmBinding, VmId, VmName,
    binding::{BindingError, OID_BYTES},
};

/// Seconds that a token may be valid: 24 hours, and the minute that notBefore lies in the past.
pub const MAX_LIFETIME: i64 = 24 * 3600 + 60;

/// CAs that may stand between a token and its anchor, `hv-ca` included.
const MAX_DEPTH: usize = 4;

/// A token as it came: read, not checked.
#[derive(Clone)]
pub struct VmAuthToken<'a> {
    certificate: Certificate<'a>,
    binding: VmBinding,
}

/// A certificate whose holder may vouch for hypervisors of one trust domain: the `hv-ca` itself, or a CA
/// above it.
#[derive(Debug, Clone, Copy)]
pub struct Anchor<'a> {
    /// DER certificate.
    pub certificate: &'a [u8],
    /// The only trust domain that it may vouch for.
    pub trust_domain: &'a str,
}

/// What is known about the virtual machines' generations and about tokens taken back.
pub trait Generations {
    /// The newest generation seen of a virtual machine of the hypervisor with this `hv-ca` key.
    fn newest(&self, hypervisor: KeyHash, vm: VmId) -> Option<u64>;

    /// Whether the token with this serial number, issued by this `hv-ca` key, was taken back.
    fn is_revoked(&self, hypervisor: KeyHash, serial: &[u8]) -> bool;
}

/// Where a token is shown, which decides the form that counts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the listener of one domain at its hypervisor: only that domain's attachment token.
    Listener {
        /// The hypervisor's `hv-ca` key.
        hypervisor: KeyHash,
        /// The domain that the listener belongs to.
        vm: VmId,
    },
    /// At a grid, an authentication server or any other verifier: only identity tokens.
    Elsewhere,
}

/// Whether the generation of a token could be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Not older than the newest generation known.
    Current,
    /// No generation of this virtual machine is known: policy decides.
    Unknown,
}

/// Why a token is refused; one a check, in the order of the checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not an X.509 certificate, or its names cannot be read.
    #[error("the token is not readable: {0}")]
    Certificate(#[from] CertificateError),
    /// No VmBinding extension, or several, or a critical one.
    #[error("the certificate is no VM-Auth-Token: no single, non-critical VmBinding extension")]
    NoBinding,
    /// The extension is malformed.
    #[error("the certificate is no VM-Auth-Token: {0}")]
    Binding(#[from] BindingError),
    /// The certificate is not made as a token is.
    #[error("the token breaks its profile: {0}")]
    Profile(&'static str),
    /// The issuer does not lead to an anchor.
    #[error("no chain from the token's issuer to a trust anchor: {0}")]
    Chain(&'static str),
    /// The signature was not made with the issuer's key.
    #[error("the signature is not the hypervisor's")]
    Signature,
    /// notBefore lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// notAfter has passed.
    #[error("the token has expired")]
    Expired,
    /// ID_HV is not the hash of the issuer's key.
    #[error("the token names another hypervisor's key than the one that signed it")]
    Hypervisor,
    /// The SPIFFE identifier or the common name does not fit the issuer and ID_VM.
    #[error("the token's names do not fit its issuer and its virtual machine")]
    Name,
    /// The form does not count here.
    #[error("a token in form {0:?} does not count here")]
    Form(Form),
    /// An attachment token of another hypervisor.
    #[error("the token belongs to another hypervisor")]
    OtherHypervisor,
    /// An attachment token of another domain than the one that the listener belongs to.
    #[error("the token belongs to another virtual machine")]
    OtherVm,
    /// An attachment token with another key than `hv-ca`'s, or an identity token with that key.
    #[error("the token's public key does not fit its form")]
    Key,
    /// A newer generation of this virtual machine is known: a clone or a roll-back.
    #[error("generation {shown} is older than {newest}: a clone or a roll-back")]
    Generation {
        /// In the token.
        shown: u64,
        /// Known here.
        newest: u64,
    },
    /// Taken back by its hypervisor.
    #[error("the token was revoked")]
    Revoked,
}

/// A token that passed every check of [`VmAuthToken::verify`], which alone makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    peer: PeerIdentity,
    name: VmName,
    binding: VmBinding,
    serial: Vec<u8>,
    not_after: i64,
    freshness: Freshness,
}

impl VerifiedToken {
    /// The names for policy.
    #[must_use]
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    /// Trust domain, hypervisor and virtual machine.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// What the token binds.
    #[must_use]
    pub fn binding(&self) -> &VmBinding {
        &self.binding
    }

    /// Content octets of the serial number.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The last second in which it is valid, since 1970.
    #[must_use]
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether its generation could be compared.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }
}

impl<'a> VmAuthToken<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError::Certificate`], [`TokenError::NoBinding`] or [`TokenError::Binding`].
    pub fn parse(der: &'a [u8]) -> Result<Self, TokenError> {
        let certificate = Certificate::parse(der)?;
        let (extension, critical) = certificate
            .extension(&OID_BYTES)
            .ok_or(TokenError::NoBinding)?;
        if critical {
            return Err(TokenError::NoBinding);
        }
        let binding = VmBinding::parse(extension)?;
        Ok(Self {
            certificate,
            binding,
        })
    }

    /// What it says; nothing of it is proven before [`Self::verify`].
    #[must_use]
    pub fn binding(&self) -> &VmBinding {
        &self.binding
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate<'a> {
        &self.certificate
    }

    /// Checks the token: chain to an anchor, signature, validity, ID_HV, names, form, key, generation,
    /// revocation, in this order. `intermediates` are what the peer sent beside it; `now` is in seconds
    /// since 1970.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(
        &self,
        intermediates: &[&[u8]],
        anchors: &[Anchor<'_>],
        now: i64,
        known: &dyn Generations,
        place: Place,
        crypto: &dyn Crypto,
    ) -> Result<VerifiedToken, TokenError> {
        self.check_profile()?;
        let issuer = Issuer::of(&self.certificate, intermediates, anchors, now, crypto)?;
        if !self.certificate.is_signed_by(issuer.key(), crypto) {
            return Err(TokenError::Signature);
        }
        self.check_validity(now)?;
        let key = KeyHash::of(issuer.key(), crypto);
        if self.binding.hypervisor != key {
            return Err(TokenError::Hypervisor);
        }
        let name = self.check_names(&issuer)?;
        self.check_place(place)?;
        let own_key = self.certificate.public_key() != issuer.key();
        if own_key != (self.binding.form == Form::Identity) {
            return Err(TokenError::Key);
        }
        let freshness = self.check_generation(known)?;
        if known.is_revoked(key, self.certificate.serial()) {
            return Err(TokenError::Revoked);
        }
        Ok(VerifiedToken {
            peer: PeerIdentity::from_der(self.certificate.der(), key)?,
            name,
            binding: self.binding,
            serial: self.certificate.serial().to_vec(),
            not_after: self.certificate.validity().1,
            freshness,
        })
    }

    fn check_profile(&self) -> Result<(), TokenError> {
        let token = &self.certificate;
        let (not_before, not_after) = token.validity();
        let usage = token.key_usage();
        let fault = if token.is_ca() {
            "it is a CA"
        } else if token.has_unknown_critical() {
            "an unknown critical extension"
        } else if !usage.is_some_and(|usage| usage.digital_signature() && !usage.key_cert_sign()) {
            "keyUsage is not digitalSignature"
        } else if !token
            .extended_key_usage()
            .is_some_and(|usage| usage.client_auth)
        {
            "extKeyUsage lacks clientAuth"
        } else if token.subject() == token.issuer() {
            "its subject is its issuer"
        } else if not_after.saturating_sub(not_before) > MAX_LIFETIME {
            "it lives longer than 24 hours"
        } else {
            return Ok(());
        };
        Err(TokenError::Profile(fault))
    }

    fn check_validity(&self, now: i64) -> Result<(), TokenError> {
        match self.certificate.validity() {
            (not_before, _) if now < not_before => Err(TokenError::NotYetValid),
            (_, not_after) if now > not_after => Err(TokenError::Expired),
            _ => Ok(()),
        }
    }

    fn check_names(&self, issuer: &Issuer<'_>) -> Result<VmName, TokenError> {
        let hypervisor = issuer.certificate.spiffe().ok().flatten();
        let name = self.certificate.spiffe()?.and_then(|id| id.vm());
        let (Some(hypervisor), Some(name)) = (hypervisor, name) else {
            return Err(TokenError::Name);
        };
        let fits = hypervisor.hypervisor().as_ref() == Some(&name.hypervisor)
            && hypervisor.trust_domain() == name.trust_domain
            && issuer.trust_domain == name.trust_domain
            && name.vm == self.binding.vm
            && self.certificate.common_name()? == name.vm.common_name();
        fits.then_some(name).ok_or(TokenError::Name)
    }

    fn check_place(&self, place: Place) -> Result<(), TokenError> {
        match (place, self.binding.form) {
            (Place::Elsewhere, Form::Identity) => Ok(()),
            (Place::Listener { hypervisor, .. }, Form::Attachment)
                if hypervisor != self.binding.hypervisor =>
            {
                Err(TokenError::OtherHypervisor)
            }
            (Place::Listener { vm, .. }, Form::Attachment) if vm != self.binding.vm => {
                Err(TokenError::OtherVm)
            }
            (Place::Listener { .. }, Form::Attachment) => Ok(()),
            (_, form) => Err(TokenError::Form(form)),
        }
    }

    fn check_generation(&self, known: &dyn Generations) -> Result<Freshness, TokenError> {
        let shown = self.binding.generation;
        match known.newest(self.binding.hypervisor, self.binding.vm) {
            Some(newest) if shown < newest => Err(TokenError::Generation { shown, newest }),
            Some(_) => Ok(Freshness::Current),
            None => Ok(Freshness::Unknown),
        }
    }
}

/// The `hv-ca` certificate that a token names as its issuer, with a path to an anchor.
struct Issuer<'a> {
    certificate: Certificate<'a>,
    trust_domain: &'a str,
}

impl<'a> Issuer<'a> {
    /// Seeks the issuer among anchors and intermediates. Several certificates may bear its name: one that
    /// signed the token goes first, so that a chain padded with others changes nothing.
    fn of(
        token: &Certificate<'_>,
        intermediates: &[&'a [u8]],
        anchors: &[Anchor<'a>],
        now: i64,
        crypto: &dyn Crypto,
    ) -> Result<Self, TokenError> {
        let path = Path {
            intermediates: certificates(intermediates.iter().copied()),
            anchors: anchors
                .iter()
                .filter_map(|anchor| {
                    Some((
                        Certificate::parse(anchor.certificate).ok()?,
                        anchor.trust_domain,
                    ))
                })
                .collect(),
            now,
            crypto,
        };
        let named = |candidate: &Certificate<'_>| candidate.subject() == token.issuer();
        let mut found = Vec::new();
        let mut fault = "no certificate of that name";
        let own = path
            .anchors
            .iter()
            .map(|(certificate, domain)| (certificate, Some(*domain)));
        let sent = path
            .intermediates
            .iter()
            .map(|certificate| (certificate, None));
        for (certificate, domain) in own.chain(sent).filter(|(candidate, _)| named(candidate)) {
            match hv_ca_fault(certificate).map_or_else(|| path.lead(certificate, domain), Err) {
                Ok(trust_domain) => found.push(Self {
                    certificate: certificate.clone(),
                    trust_domain,
                }),
                Err(cause) => fault = cause,
            }
        }
        let signer = found
            .iter()
            .position(|issuer| token.is_signed_by(issuer.key(), crypto));
        if found.is_empty() {
            return Err(TokenError::Chain(fault));
        }
        Ok(found.swap_remove(signer.unwrap_or(0)))
    }

    fn key(&self) -> &'a [u8] {
        self.certificate.public_key()
    }
}

fn certificates<'a>(ders: impl Iterator<Item = &'a [u8]>) -> Vec<Certificate<'a>> {
    ders.take(MAX_DEPTH)
        .filter_map(|der| Certificate::parse(der).ok())
        .collect()
}

/// What keeps a certificate from being an `hv-ca`: a CA with path length 0 and no extended key usage.
fn hv_ca_fault(certificate: &Certificate<'_>) -> Option<&'static str> {
    if !may_sign(certificate) {
        Some("the issuer is not a CA")
    } else if certificate.path_len() != Some(0) {
        Some("the issuer's path length is not 0")
    } else if certificate.has_extended_key_usage() {
        Some("the issuer has an extended key usage")
    } else {
        None
    }
}

fn may_sign(certificate: &Certificate<'_>) -> bool {
    let usage = certificate.key_usage();
    certificate.is_ca()
        && usage.is_none_or(KeyUsage::key_cert_sign)
        && !certificate.has_unknown_critical()
}

/// What a path to an anchor may be made of.
struct Path<'a, 'c> {
    intermediates: Vec<Certificate<'a>>,
    anchors: Vec<(Certificate<'a>, &'a str)>,
    now: i64,
    crypto: &'c dyn Crypto,
}

impl<'a> Path<'a, '_> {
    /// The trust domain of the anchor that `certificate` leads to: itself if `own`, else one above it.
    fn lead(
        &self,
        certificate: &Certificate<'_>,
        own: Option<&'a str>,
    ) -> Result<&'a str, &'static str> {
        if !self.is_valid(certificate) {
            return Err("the issuer's certificate has expired or is not valid yet");
        }
        own.map_or_else(|| self.above(certificate, 1), Ok)
    }

    /// Climbs; `below` CAs stand under the one sought, and that one's path length must allow all but
    /// the last as CAs.
    fn above(&self, certificate: &Certificate<'_>, below: usize) -> Result<&'a str, &'static str> {
        let fault = "it ends before an anchor";
        if below >= MAX_DEPTH {
            return Err("it is too long");
        }
        let signs = |candidate: &Certificate<'_>| {
            candidate.subject() == certificate.issuer()
                && may_sign(candidate)
                && self.is_valid(candidate)
                && candidate
                    .path_len()
                    .is_none_or(|limit| usize::try_from(limit).is_ok_and(|limit| below <= limit))
                && certificate.is_signed_by(candidate.public_key(), self.crypto)
        };
        if let Some((_, domain)) = self.anchors.iter().find(|(anchor, _)| signs(anchor)) {
            return Ok(domain);
        }
        self.intermediates
            .iter()
            .filter(|candidate| signs(candidate))
            .find_map(|candidate| self.above(candidate, below + 1).ok())
            .ok_or(fault)
    }

    fn is_valid(&self, certificate: &Certificate<'_>) -> bool {
        let (not_before, not_after) = certificate.validity();
        (not_before..=not_after).contains(&self.now)
    }
}

#[cfg(test)]
mod tests;
