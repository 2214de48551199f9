//! Certificates for one run: an authority, a server, a user.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
/// The name that the server's certificate carries.
pub(crate) const SERVER: &str = "localhost";
/// The user's common name.
pub(crate) const USER: &str = "bench";

/// Keys and certificates, P-256.
pub(crate) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    server: (Certificate, KeyPair),
    user: (Certificate, KeyPair),
}

impl Pki {
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "gose-bench");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let issue = |name: &str, sans: Vec<String>, usage| -> Result<_, rcgen::Error> {
            let mut params = CertificateParams::new(sans)?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &authority)?;
            Ok((certificate, key))
        };
        let server = issue(
            SERVER,
            vec![SERVER.into()],
            ExtendedKeyUsagePurpose::ServerAuth,
        )?;
        let user = issue(USER, vec![], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Self {
            authority,
            server,
            user,
        })
    }

    /// Writes the PEM files that a node's configuration names.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("ca.pem"), self.authority.pem())?;
        fs::write(folder.join("node.pem"), self.server.0.pem())?;
        private(
            &folder.join("node.key"),
            self.server.1.serialize_pem().as_bytes(),
        )?;
        private(
            &folder.join("user.key"),
            self.user.1.serialize_pem().as_bytes(),
        )?;
        fs::write(folder.join("user.pem"), self.user.0.pem())
    }
}

/// A file that only its owner reads.
pub(crate) fn private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}
