//! A public key infrastructure for tests: authorities, certificates good and bad, revocation lists.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};

/// An authority: its key signs certificates and revocation lists.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
    /// What it sends below its leaves: itself and those above it, without the root.
    chain: Vec<CertificateDer<'static>>,
}

/// What a certificate says; anything unusual is set by hand.
pub struct Request {
    /// The parameters as rcgen has them.
    pub params: CertificateParams,
    /// The key pair: P-256 unless replaced.
    pub key: KeyPair,
}

/// A certificate, its chain and its key.
pub struct Leaf {
    /// Leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    serial: SerialNumber,
}

impl Authority {
    /// A root.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        let params = authority_params(common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            chain: Vec::new(),
        }
    }

    /// An authority under this one.
    #[must_use]
    pub fn subordinate(&self, common_name: &str) -> Self {
        let params = authority_params(common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            chain,
        }
    }

    /// Its certificate: a trust anchor.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Writes its certificate as `NAME.pem` and returns the path.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        write(dir, &format!("{name}.pem"), &self.pem())
    }

    /// A certificate for a server of these DNS names or IP addresses.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> Leaf {
        let mut request = Request::new(names.first().copied());
        request.params.subject_alt_names = names.iter().map(|name| server_name(name)).collect();
        self.issue(request)
    }

    /// A certificate for a client with this common name.
    #[must_use]
    pub fn user(&self, common_name: &str) -> Leaf {
        self.issue(Request::new(Some(common_name)))
    }

    /// A certificate for a client with this common name and SPIFFE identifier.
    #[must_use]
    pub fn spiffe(&self, common_name: &str, uri: &str) -> Leaf {
        let mut request = Request::new(Some(common_name));
        request.params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        self.issue(request)
    }

    /// A client's certificate that ended in 2020.
    #[must_use]
    pub fn expired(&self, common_name: &str) -> Leaf {
        let mut request = Request::new(Some(common_name));
        request.params.not_after = date_time_ymd(2020, 1, 1);
        self.issue(request)
    }

    /// A client's certificate that begins in 2090.
    #[must_use]
    pub fn not_yet(&self, common_name: &str) -> Leaf {
        let mut request = Request::new(Some(common_name));
        request.params.not_before = date_time_ymd(2090, 1, 1);
        self.issue(request)
    }

    /// A client's certificate with two common names.
    #[must_use]
    pub fn two_names(&self, first: &str, second: &str) -> Leaf {
        let mut request = Request::new(Some(first));
        // rcgen keeps one entry a type: the second common name goes under the OID written out.
        let common_name = DnType::CustomDnType(vec![2, 5, 4, 3]);
        request.params.distinguished_name.push(common_name, second);
        self.issue(request)
    }

    /// A client's certificate without a common name.
    #[must_use]
    pub fn nameless(&self) -> Leaf {
        self.issue(Request::new(None))
    }

    /// Signs what was asked.
    #[must_use]
    pub fn issue(&self, request: Request) -> Leaf {
        let Request { params, key } = request;
        let serial = params.serial_number.clone().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Leaf { chain, key, serial }
    }

    /// A chain for a public key (DER SubjectPublicKeyInfo) that came without a request.
    ///
    /// # Panics
    /// On what is no public key.
    #[must_use]
    pub fn certify_info(&self, request: Request, public_key_info: &[u8]) -> Vec<Vec<u8>> {
        let public = rcgen::SubjectPublicKeyInfo::from_der(public_key_info).unwrap();
        self.certify(request, &public)
    }

    /// Certifies a public key whose private key is elsewhere, e.g. in an element; the request's own key is
    /// not used. Leaf first, without the root.
    #[must_use]
    pub fn certify(&self, request: Request, public: &impl rcgen::PublicKeyData) -> Vec<Vec<u8>> {
        let certificate = request.params.signed_by(public, &self.issuer).unwrap();
        let chain = [certificate.der()].into_iter().chain(&self.chain);
        chain.map(|der| der.to_vec()).collect()
    }

    /// A revocation list that names these, valid until 2090.
    #[must_use]
    pub fn crl(&self, revoked: &[&Leaf]) -> CertificateRevocationListDer<'static> {
        self.crl_until(revoked, 2090)
    }

    /// A revocation list that names this one behind so many that nobody has.
    #[must_use]
    pub fn long_crl(&self, revoked: &Leaf, others: u64) -> CertificateRevocationListDer<'static> {
        let strangers = (0..others).map(|number| SerialNumber::from((1 << 62) + number));
        let serials = strangers.chain([revoked.serial.clone()]);
        sign_crl(serials.collect(), &self.issuer, 2090)
            .der()
            .clone()
    }

    /// A revocation list that names these, valid until the first day of a year.
    #[must_use]
    pub fn crl_until(&self, revoked: &[&Leaf], year: i32) -> CertificateRevocationListDer<'static> {
        self.make_crl(revoked, year).der().clone()
    }

    /// Writes a revocation list as `NAME.pem` and returns the path.
    #[must_use]
    pub fn write_crl(&self, revoked: &[&Leaf], dir: &Path, name: &str) -> PathBuf {
        let pem = self.make_crl(revoked, 2090).pem().unwrap();
        write(dir, &format!("{name}.pem"), &pem)
    }

    fn make_crl(&self, revoked: &[&Leaf], year: i32) -> rcgen::CertificateRevocationList {
        let serials = revoked.iter().map(|leaf| leaf.serial.clone());
        sign_crl(serials.collect(), &self.issuer, year)
    }
}

fn sign_crl(
    serials: Vec<SerialNumber>,
    issuer: &Issuer<'static, KeyPair>,
    year: i32,
) -> rcgen::CertificateRevocationList {
    let revoke = |serial_number| RevokedCertParams {
        serial_number,
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(year, 1, 1),
        crl_number: SerialNumber::from(next()),
        issuing_distribution_point: None,
        revoked_certs: serials.into_iter().map(revoke).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(issuer)
    .unwrap()
}

impl Request {
    /// An ordinary end-entity certificate for clients and servers, with a key of its own.
    #[must_use]
    pub fn new(common_name: Option<&str>) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.serial_number = Some(SerialNumber::from(next()));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        Self {
            params,
            key: KeyPair::generate().unwrap(),
        }
    }

    /// The same request with an RSA-2048 key.
    #[must_use]
    pub fn rsa(mut self) -> Self {
        self.key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        self
    }
}

impl Leaf {
    /// The private key: PKCS#8.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The chain as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain
            .iter()
            .map(|der| pem("CERTIFICATE", der))
            .collect()
    }

    /// The private key as PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Writes `NAME.pem` and `NAME.key` (mode 0600) and returns the two paths.
    #[must_use]
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        (
            write(dir, &format!("{name}.pem"), &self.chain_pem()),
            write(dir, &format!("{name}.key"), &self.key_pem()),
        )
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.serial_number = Some(SerialNumber::from(next()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Serial numbers, unique in the process.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x0100);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn server_name(name: &str) -> SanType {
    match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }
}

/// DER as PEM.
#[must_use]
pub fn pem(label: &str, der: &[u8]) -> String {
    use std::fmt::Write;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let word = group
                .iter()
                .fold(0u32, |word, byte| word << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for place in 0..4 {
                let digit = DIGITS[(word >> (18 - 6 * place)) as usize & 63];
                out.push(if place <= group.len() {
                    char::from(digit)
                } else {
                    '='
                });
            }
        }
        out.push('\n');
    }
    writeln!(out, "-----END {label}-----").unwrap();
    out
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let path = dir.join(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let root = Authority::new("root");
        let below = root.subordinate("below");
        let lowest = below.subordinate("lowest");
        assert_eq!(root.user("a").chain.len(), 1);
        assert_eq!(below.user("a").chain.len(), 2);
        let leaf = lowest.user("a");
        assert_eq!(leaf.chain[1..], [lowest.der(), below.der()]);
        let pem = leaf.chain_pem();
        let read: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .map(Result::unwrap)
            .collect();
        assert_eq!(read, leaf.chain);
    }
}
