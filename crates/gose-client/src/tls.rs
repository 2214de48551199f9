//! Who the client is, whom it trusts: TLS 1.3 with certificates on both sides (protocols of RACS, 1.9).

use std::{fmt, fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    sign::{CertifiedKey, SigningKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use zeroize::Zeroizing;

use crate::Error;

/// ALPN of RACS.
pub const RACS: &[u8] = b"racs/0.2";
/// ALPN of EAP conversations with an authentication server.
pub const EAP: &[u8] = b"gose-eap/1";
/// ALPN of the management plane.
pub const ADMIN: &[u8] = b"gose-admin/1";

/// A certificate chain and its key, which may sit in an element.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// A chain, the own certificate first, and whatever signs for it.
    ///
    /// # Errors
    /// [`Error::Config`] when the chain is empty or the key is another one.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
    ) -> Result<Self, Error> {
        if chain.is_empty() {
            return Err(Error::Config("no certificate for the key".into()));
        }
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A key in an element need not tell its public half.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self {
                    certified: Arc::new(certified),
                })
            }
            Err(_) => Err(Error::Config(
                "the key does not belong to the certificate".into(),
            )),
        }
    }

    /// A chain and a key of PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// [`Error::Config`] when the key cannot be used or is another certificate's.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, Error> {
        let key = aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| Error::Config(error.to_string()))?;
        Self::new(chain, key)
    }

    /// A chain and a key from files of PEM or DER.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Config`]
    pub fn load(chain: &Path, key: &Path) -> Result<Self, Error> {
        Self::from_der(certificates(chain)?, private_key(key)?)
    }

    /// The own certificate, then those above it.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// For a server's configuration.
    #[must_use]
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity of {} certificates", self.chain().len())
    }
}

/// Trust anchors from a file; never the system's.
///
/// # Errors
/// [`Error::File`] when it holds no usable certificate.
pub fn load_anchors(path: &Path) -> Result<RootCertStore, Error> {
    anchors(certificates(path)?).map_err(|error| match error {
        Error::Config(cause) => Error::File {
            path: path.to_owned(),
            cause,
        },
        error => error,
    })
}

/// Trust anchors.
///
/// # Errors
/// [`Error::Config`] when a certificate cannot be one.
pub fn anchors(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(certificate)
            .map_err(|error| Error::Config(format!("unusable trust anchor: {error}")))?;
    }
    if store.is_empty() {
        return Err(Error::Config("no trust anchor".into()));
    }
    Ok(store)
}

/// TLS 1.3, the client's certificate, the server's chain and name checked, no early data.
///
/// # Errors
/// [`Error::Config`] when the library refuses, which it does for no input known.
pub fn client_config(
    identity: &Identity,
    anchors: RootCertStore,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(anchors)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// A DNS name or an IP address that the server's certificate must carry.
///
/// # Errors
/// [`Error::Config`] when the text is neither.
pub fn server_name(text: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| Error::Config(format!("{text:?} is neither a DNS name nor an IP address")))
}

/// All certificates of a file of PEM, or the one of a file of DER.
///
/// # Errors
/// [`Error::File`]
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) if bytes.first() == Some(&0x30) => Ok(vec![bytes.to_vec().into()]),
        Ok(_) => Err(file(path, "holds no certificate")),
        Err(error) => Err(file(path, &error.to_string())),
    }
}

/// The private key of a file of PEM or DER.
///
/// # Errors
/// [`Error::File`]
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = read(path)?;
    if bytes.first() == Some(&0x30) {
        return PrivateKeyDer::try_from(bytes.to_vec()).map_err(|cause| file(path, cause));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| file(path, "holds no private key"))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| file(path, &error.to_string()))
}

fn file(path: &Path, cause: &str) -> Error {
    Error::File {
        path: path.to_owned(),
        cause: cause.to_owned(),
    }
}
