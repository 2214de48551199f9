//! What a certificate says, by kind.

use gose_proto::identity::SpiffeId;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};

use super::{PkiError, UnixTime, signer::distinguished_name};

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A TLS server with these DNS names and IP addresses; the first is its common name.
    Server {
        /// At least one.
        names: Vec<String>,
    },
    /// A TLS client: a user, by common name.
    Client {
        /// The common name.
        name: String,
    },
    /// A hypervisor's own TLS identity (`hv-tls`), client and server.
    Hypervisor {
        /// `spiffe://DOMAIN/hv/ID`.
        id: SpiffeId,
        /// DNS names and IP addresses under which guests and grids call it.
        names: Vec<String>,
    },
    /// The CA of a hypervisor that signs tokens (`hv-ca`): path length 0, no extended key usage.
    HypervisorCa {
        /// `spiffe://DOMAIN/hv/ID`.
        id: SpiffeId,
    },
    /// An EAP-TLS authentication server with these names.
    EapServer {
        /// At least one.
        names: Vec<String>,
    },
    /// An EAP-TLS peer.
    EapClient {
        /// The common name.
        name: String,
    },
}

/// id-kp-eapOverLAN (RFC 4334, 2).
const EAP_OVER_LAN: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 14];

impl Kind {
    /// The certificate's content, all but the public key and the issuer.
    pub(super) fn params(&self) -> Result<CertificateParams, PkiError> {
        use ExtendedKeyUsagePurpose::{ClientAuth, Other, ServerAuth};
        let eap = || Other(EAP_OVER_LAN.to_vec());
        match self {
            Self::Server { names } => of_names(names, vec![ServerAuth]),
            Self::EapServer { names } => of_names(names, vec![ServerAuth, eap()]),
            Self::Client { name } => leaf(name, Vec::new(), vec![ClientAuth]),
            Self::EapClient { name } => leaf(name, Vec::new(), vec![ClientAuth, eap()]),
            Self::Hypervisor { id, names } => {
                let mut names = alternative_names(names)?;
                names.push(uri(id)?);
                leaf(&hypervisor(id)?, names, vec![ClientAuth, ServerAuth])
            }
            Self::HypervisorCa { id } => {
                // Two certificates of one hypervisor, told apart by their subjects.
                let mut params = leaf(&format!("{} ca", hypervisor(id)?), vec![uri(id)?], vec![])?;
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
                params.key_usages = vec![
                    KeyUsagePurpose::DigitalSignature,
                    KeyUsagePurpose::KeyCertSign,
                    KeyUsagePurpose::CrlSign,
                ];
                Ok(params)
            }
        }
    }
}

/// The root's certificate: a CA that may have `hv-ca` certificates below it.
pub(super) fn root(common_name: &str) -> Result<CertificateParams, PkiError> {
    let mut params = leaf(common_name, Vec::new(), Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = false;
    Ok(params)
}

/// Sets when a certificate is valid.
pub(super) fn validity(
    params: &mut CertificateParams,
    not_before: UnixTime,
    not_after: UnixTime,
) -> Result<(), PkiError> {
    params.not_before = time(not_before)?;
    params.not_after = time(not_after)?;
    Ok(())
}

/// A time as rcgen takes it.
pub(super) fn time(seconds: UnixTime) -> Result<time::OffsetDateTime, PkiError> {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| PkiError::Validity { max: 0 })
}

fn of_names(
    names: &[String],
    purposes: Vec<ExtendedKeyUsagePurpose>,
) -> Result<CertificateParams, PkiError> {
    let first = names.first().ok_or_else(|| {
        PkiError::Name(
            String::new(),
            "a server's certificate has at least one name",
        )
    })?;
    leaf(first, alternative_names(names)?, purposes)
}

fn leaf(
    common_name: &str,
    names: Vec<SanType>,
    purposes: Vec<ExtendedKeyUsagePurpose>,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name)?;
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = purposes;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// DNS names and IP addresses, checked as rustls will check them.
fn alternative_names(names: &[String]) -> Result<Vec<SanType>, PkiError> {
    names
        .iter()
        .map(|name| {
            let bad = |fault| PkiError::Name(name.clone(), fault);
            if let Ok(address) = name.parse() {
                return Ok(SanType::IpAddress(address));
            }
            rustls_pki_types::DnsName::try_from(name.as_str())
                .map_err(|_| bad("it is neither a DNS name nor an IP address"))?;
            let text = name.as_str().try_into();
            Ok(SanType::DnsName(text.map_err(|_| bad("not ASCII"))?))
        })
        .collect()
}

fn uri(id: &SpiffeId) -> Result<SanType, PkiError> {
    let text = id.as_str().try_into();
    let text = text.map_err(|_| PkiError::Name(id.to_string(), "not ASCII"))?;
    Ok(SanType::URI(text))
}

fn hypervisor(id: &SpiffeId) -> Result<String, PkiError> {
    match id.hypervisor() {
        Some(hypervisor) => Ok(hypervisor.to_string()),
        None => Err(PkiError::Name(
            id.to_string(),
            "a hypervisor is named spiffe://DOMAIN/hv/ID",
        )),
    }
}
