//! Certificates of one run: an authority, the peer, servers with keys in files and in elements.

use std::{fs, path::Path};

use gose_client::pki::to_pem;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::{child::Outcome, pki::private};

/// Which keys both ends have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    P256,
    Rsa2048,
}

impl Keys {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::Rsa2048 => "RSA-2048",
        }
    }

    fn generate(self) -> Outcome<KeyPair> {
        Ok(match self {
            Self::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            Self::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
        })
    }
}

/// Certificates of one kind of keys.
pub(crate) struct Credentials {
    authority: CertifiedIssuer<'static, KeyPair>,
    peer: (Vec<u8>, Vec<u8>),
}

impl Credentials {
    pub(crate) fn new(keys: Keys) -> Outcome<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "gose-bench");
        let authority = CertifiedIssuer::self_signed(params, keys.generate()?)?;
        let key = keys.generate()?;
        let peer = certify(
            &authority,
            "peer",
            ExtendedKeyUsagePurpose::ClientAuth,
            &key,
        )?;
        Ok(Self {
            authority,
            peer: (peer, key.serialize_der()),
        })
    }

    /// The files that foreign servers read: `ca.pem`, `server.pem`, `server.key`.
    pub(crate) fn write(&self, keys: Keys, folder: &Path) -> Outcome<()> {
        let key = keys.generate()?;
        let server = self.server(&key)?;
        fs::write(folder.join("ca.pem"), self.authority.pem())?;
        fs::write(folder.join("server.pem"), to_pem("CERTIFICATE", &server))?;
        private(&folder.join("server.key"), key.serialize_pem().as_bytes())?;
        Ok(())
    }

    /// A server's certificate for a key, wherever it is.
    pub(crate) fn server(&self, public: &impl PublicKeyData) -> Outcome<Vec<u8>> {
        let usage = ExtendedKeyUsagePurpose::ServerAuth;
        certify(&self.authority, super::SERVER_NAME, usage, public)
    }

    pub(crate) fn authority(&self) -> Vec<u8> {
        self.authority.der().to_vec()
    }

    pub(crate) fn roots(&self) -> Outcome<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone())?;
        Ok(roots)
    }

    pub(crate) fn peer(&self) -> Outcome<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let (certificate, key) = &self.peer;
        let key = PrivatePkcs8KeyDer::from(key.clone());
        Ok((vec![certificate.clone().into()], key.into()))
    }
}

fn certify(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
    public: &impl PublicKeyData,
) -> Outcome<Vec<u8>> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    Ok(params.signed_by(public, authority)?.der().to_vec())
}
