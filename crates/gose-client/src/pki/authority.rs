//! The authority: issue, revoke, CRL.

use std::path::Path;

use gose_proto::hex;
use rcgen::{
    CertificateRevocationListParams, CertificateSigningRequestParams, Issuer, KeyIdMethod,
    RevokedCertParams, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer,
    pem::{self, PemObject},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer, public_key::PublicKey};

use super::{
    Kind, PkiError, Reason, Revocation, UnixTime,
    directory::Directory,
    profile::{self, time, validity},
    signer::ElementSigner,
    to_pem,
};
use crate::element_key::ElementKey;

const DAY: i64 = 86_400;
/// Clocks differ: a certificate is valid from a minute ago.
const EARLIER: i64 = 60;
const ROOT: &str = "ca.pem";
const CRL: &str = "crl.pem";

/// A certification authority whose key sits in an element.
pub struct Authority {
    directory: Directory,
    key: ElementKey,
    root: CertificateDer<'static>,
}

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Serial number, upper-case hexadecimal.
    pub serial: String,
    /// The certificate.
    pub der: CertificateDer<'static>,
}

impl Issued {
    /// The certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        to_pem("CERTIFICATE", &self.der)
    }
}

impl Authority {
    /// Makes a root certificate for the key of an element, valid from now for some days, and the
    /// directory's files.
    ///
    /// # Errors
    /// [`PkiError::Exists`] where the directory holds an authority, [`PkiError::Element`], files.
    pub fn init(
        directory: &Path,
        common_name: &str,
        key: ElementKey,
        now: UnixTime,
        days: u32,
    ) -> Result<Self, PkiError> {
        let directory = Directory::new(directory);
        directory.create()?;
        let _lock = directory.lock()?;
        let path = directory.file(ROOT);
        if path.exists() {
            return Err(PkiError::Exists(path));
        }
        let mut params = profile::root(common_name)?;
        params.serial_number = Some(SerialNumber::from(serial()?.to_vec()));
        validity(&mut params, now - EARLIER, now + i64::from(days) * DAY)?;
        let signer = ElementSigner::new(&key)?;
        let certificate = params
            .self_signed(&signer)
            .map_err(|error| signer.error(error))?;
        let root = certificate.der().clone();
        directory.write(ROOT, &to_pem("CERTIFICATE", &root))?;
        Ok(Self {
            directory,
            key,
            root,
        })
    }

    /// The authority of a directory, with the element that holds its key.
    ///
    /// # Errors
    /// [`PkiError::File`], [`PkiError::State`], [`PkiError::OtherKey`].
    pub fn open(directory: &Path, key: ElementKey) -> Result<Self, PkiError> {
        let directory = Directory::new(directory);
        let root = root_of(&directory)?;
        let unreadable = PkiError::State {
            path: directory.file(ROOT),
            fault: "not a certificate",
        };
        let (_, parsed) = X509Certificate::from_der(&root).map_err(|_| unreadable)?;
        if parsed.public_key().raw != key.public_key().info {
            return Err(PkiError::OtherKey);
        }
        Ok(Self {
            directory,
            key,
            root,
        })
    }

    /// The root's certificate.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Issues a certificate of a kind for the key of a request (PKCS #10, PEM or DER), whose signature
    /// proves that the asker has the private half. Names come from `kind`, never from the request.
    ///
    /// # Errors
    /// [`PkiError::Request`], [`PkiError::Name`], [`PkiError::Validity`], [`PkiError::Element`], files.
    pub fn issue(
        &self,
        request: &[u8],
        kind: &Kind,
        now: UnixTime,
        days: u32,
    ) -> Result<Issued, PkiError> {
        let request = parse_request(request)?;
        let mut params = kind.params()?;
        let serial = serial()?;
        params.serial_number = Some(SerialNumber::from(serial.to_vec()));
        self.limit(now, days)?;
        validity(&mut params, now - EARLIER, now + i64::from(days) * DAY)?;
        let _lock = self.directory.lock()?;
        let certificate = self.sign(|issuer| params.signed_by(&request.public_key, issuer))?;
        let issued = Issued {
            serial: hex::encode(&serial),
            der: certificate.der().clone(),
        };
        self.directory
            .write(&issued_name(&issued.serial), &issued.pem())?;
        Ok(issued)
    }

    /// Revokes a certificate by its serial number (hexadecimal). The CRL is made by [`Authority::crl`].
    ///
    /// # Errors
    /// [`PkiError::UnknownSerial`], [`PkiError::AlreadyRevoked`], files.
    pub fn revoke(&self, serial: &str, reason: Reason, now: UnixTime) -> Result<(), PkiError> {
        let bytes = hex::decode(serial).unwrap_or_default();
        let serial = hex::encode(&bytes);
        let _lock = self.directory.lock()?;
        if bytes.is_empty() || self.directory.read(&issued_name(&serial))?.is_none() {
            return Err(PkiError::UnknownSerial(serial));
        }
        let mut revoked = self.directory.revoked()?;
        if revoked.entries.iter().any(|entry| entry.serial == serial) {
            return Err(PkiError::AlreadyRevoked(serial));
        }
        revoked.entries.push(Revocation {
            serial,
            time: now,
            reason,
        });
        self.directory.write_revoked(&revoked)
    }

    /// What is revoked.
    ///
    /// # Errors
    /// Files.
    pub fn revocations(&self) -> Result<Vec<Revocation>, PkiError> {
        Ok(self.directory.revoked()?.entries)
    }

    /// Makes a new CRL, valid for some days, writes it to `crl.pem` and gives it as PEM.
    ///
    /// # Errors
    /// [`PkiError::Element`], files.
    pub fn crl(&self, now: UnixTime, days: u32) -> Result<String, PkiError> {
        let _lock = self.directory.lock()?;
        let mut revoked = self.directory.revoked()?;
        revoked.crl_number += 1;
        // Before the CRL: a number is never used twice, even where what follows fails.
        self.directory.write_revoked(&revoked)?;
        let params = CertificateRevocationListParams {
            this_update: time(now - EARLIER)?,
            next_update: time(now + i64::from(days.max(1)) * DAY)?,
            crl_number: SerialNumber::from(revoked.crl_number),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .entries
                .iter()
                .map(revoked_certificate)
                .collect::<Result<_, _>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = self.sign(|issuer| params.signed_by(issuer))?;
        let pem = to_pem("X509 CRL", crl.der());
        self.directory.write(CRL, &pem)?;
        Ok(pem)
    }

    fn sign<T>(
        &self,
        make: impl FnOnce(&Issuer<'_, &ElementSigner<'_>>) -> Result<T, rcgen::Error>,
    ) -> Result<T, PkiError> {
        let signer = ElementSigner::new(&self.key)?;
        Issuer::from_ca_cert_der(&self.root, &signer)
            .and_then(|issuer| make(&issuer))
            .map_err(|error| signer.error(error))
    }

    /// A certificate does not outlive its root.
    fn limit(&self, now: UnixTime, days: u32) -> Result<(), PkiError> {
        let end = X509Certificate::from_der(&self.root)
            .map_or(0, |(_, root)| root.validity().not_after.timestamp());
        let max = u32::try_from((end - now) / DAY).unwrap_or(0);
        if days == 0 || days > max {
            return Err(PkiError::Validity { max });
        }
        Ok(())
    }
}

fn root_of(directory: &Directory) -> Result<CertificateDer<'static>, PkiError> {
    let fault = |fault| PkiError::State {
        path: directory.file(ROOT),
        fault,
    };
    let pem = directory
        .read(ROOT)?
        .ok_or_else(|| fault("no such file: `gose pki init` makes an authority"))?;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| fault("not a certificate"))
}

/// Reads a request and checks its signature and the strength of its key.
fn parse_request(bytes: &[u8]) -> Result<CertificateSigningRequestParams, PkiError> {
    let der = match CertificateSigningRequestDer::from_pem_slice(bytes) {
        Ok(der) => der,
        Err(pem::Error::NoItemsFound) => CertificateSigningRequestDer::from(bytes.to_vec()),
        Err(error) => return Err(PkiError::Request(error.to_string())),
    };
    let request = CertificateSigningRequestParams::from_der(&der)
        .map_err(|error| PkiError::Request(error.to_string()))?;
    let (_, parsed) = x509_parser::certification_request::X509CertificationRequest::from_der(&der)
        .map_err(|_| PkiError::Request("it cannot be read".into()))?;
    match parsed.certification_request_info.subject_pki.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < 2048 => {
            Err(PkiError::Request("its RSA key has under 2048 bits".into()))
        }
        Ok(_) => Ok(request),
        Err(_) => Err(PkiError::Request("its public key cannot be read".into())),
    }
}

fn revoked_certificate(entry: &Revocation) -> Result<RevokedCertParams, PkiError> {
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from(hex::decode(&entry.serial).unwrap_or_default()),
        revocation_time: time(entry.time)?,
        reason_code: Some(entry.reason.code()),
        invalidity_date: None,
    })
}

/// Sixteen random bytes, positive and never zero (RFC 5280, 4.1.2.2).
fn serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| PkiError::Randomness)?;
    serial[0] = serial[0] & 0x3F | 0x40;
    Ok(serial)
}

fn issued_name(serial: &str) -> String {
    format!("issued/{serial}.pem")
}
