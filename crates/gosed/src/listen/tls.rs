//! `[tls]` read into what a listener needs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gose_client::{identity::may_be_list_of, tls::Identity};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};

use super::{
    Handlers, RACS,
    admission::{Admission, Tokens},
};
use crate::{clock::Clock, config};

/// What a listener needs; replaced as a whole at a reload.
#[derive(Debug)]
pub struct Tls {
    /// For the handshakes.
    pub server: Arc<ServerConfig>,
    /// Who is let in.
    pub admission: Arc<Admission>,
    /// For RACS to other nodes, where `node-anchor-files` says whom to trust.
    pub calls: Option<Arc<ClientConfig>>,
}

/// Why `[tls]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// A file holds nothing of what it should.
    #[error("{path} holds no {what} in PEM")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// Others may read a private key.
    #[error("{path}: {cause}")]
    Mode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// No client could ever be let in.
    #[error("[tls] needs client-anchor-files or user-anchor-files")]
    NoAnchors,
    /// Anchors or revocation lists are not usable.
    #[error("anchors or revocation lists: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// A revocation list was not signed by the anchor that it names.
    #[error("{0} holds a revocation list with a signature that is not its issuer's")]
    ListSignature(PathBuf),
    /// Certificate and key are not usable.
    #[error("certificate-file and key: {0}")]
    Certificate(#[from] rustls::Error),
    /// Certificate, key, or the anchors of other nodes are not usable.
    #[error(transparent)]
    Identity(#[from] gose_client::Error),
}

/// Loads anchors and revocation lists, for a node with this chain and key.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn load(
    tls: &config::Tls,
    identity: &Identity,
    handlers: &Handlers,
    tokens: Tokens,
) -> Result<Tls, TlsError> {
    let admission = Arc::new(admission(tls, tokens)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] = match tls.danger_tls12 {
        true => &[&TLS13, &TLS12],
        false => &[&TLS13],
    };
    let mut server = ServerConfig::builder_with_details(provider, Arc::new(Clock))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(admission.clone())
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    // A resumed session would go on with a certificate that nobody looked at again: none is resumed.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.alpn_protocols = handlers.names();
    Ok(Tls {
        server: Arc::new(server),
        admission,
        calls: calls(tls, identity)?,
    })
}

fn calls(tls: &config::Tls, identity: &Identity) -> Result<Option<Arc<ClientConfig>>, TlsError> {
    if tls.node_anchor_files.is_empty() {
        return Ok(None);
    }
    let anchors = gose_client::tls::anchors(read_files(&tls.node_anchor_files)?)?;
    Ok(Some(gose_client::tls::client_config(
        identity, anchors, RACS,
    )?))
}

/// Loads anchors and revocation lists.
///
/// # Errors
/// [`TlsError`], naming the file.
pub fn admission(tls: &config::Tls, tokens: Tokens) -> Result<Admission, TlsError> {
    let clients = read_files(&tls.client_anchor_files)?;
    let users = read_files(&tls.user_anchor_files)?;
    let mut roots = RootCertStore::empty();
    let anchors = [&clients[..], &users].concat();
    for anchor in &anchors {
        roots.add(anchor.clone())?;
    }
    if roots.is_empty() {
        return Err(TlsError::NoAnchors);
    }
    let mut crls = Vec::new();
    for file in &tls.crl_files {
        let lists = revocation_lists(file)?;
        // A list that does not verify would refuse everybody of its issuer: the one before it is better.
        if !lists.iter().all(|list| may_be_list_of(list, &anchors)) {
            return Err(TlsError::ListSignature(file.clone()));
        }
        crls.extend(lists);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).with_crls(crls);
    if !tls.crl_files.is_empty() {
        // Issuers without a list, as hv-ca with its tokens of a day, are not asked for one; a list that
        // is there and has expired refuses.
        builder = builder
            .allow_unknown_revocation_status()
            .enforce_revocation_expiration();
    }
    let trust_domain = tls.trust_domain.as_ref().map(|domain| domain.0.0.clone());
    Ok(Admission::new(
        builder.build()?,
        &clients,
        &users,
        trust_domain,
        tokens,
    ))
}

fn read_files(files: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = files.iter().map(|file| certificates(file)).collect();
    Ok(read?.concat())
}

/// The certificates in a PEM file.
///
/// # Errors
/// [`TlsError::Read`], [`TlsError::Empty`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    read_all(path, "certificate")
}

/// The revocation lists in a PEM file.
///
/// # Errors
/// [`TlsError::Read`], [`TlsError::Empty`].
pub fn revocation_lists(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    read_all(path, "revocation list")
}

/// The private key in a PEM file that nobody else may read.
///
/// # Errors
/// [`TlsError::Mode`], [`TlsError::Read`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    crate::store::private_file(path).map_err(|cause| TlsError::Mode {
        path: path.to_owned(),
        cause,
    })?;
    PrivateKeyDer::from_pem_file(path).map_err(|cause| TlsError::Read {
        path: path.to_owned(),
        cause,
    })
}

fn read_all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, TlsError> {
    let failed = |cause| TlsError::Read {
        path: path.to_owned(),
        cause,
    };
    let read: Result<Vec<T>, _> = T::pem_file_iter(path).map_err(failed)?.collect();
    let read = read.map_err(failed)?;
    if read.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            what,
        });
    }
    Ok(read)
}
