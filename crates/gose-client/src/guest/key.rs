//! The guest's TLS key: there is none here, the hypervisor's element signs.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gose_element::Algorithm;
use gose_proto::identity::attach::{Serial, TranscriptHash};
use rustls::{
    Error, OtherError, SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    sign::{CertifiedKey, Signer, SigningKey},
};
use rustls_pki_types::CertificateDer;

use super::{AttachChannel, Channel as Socket};

type Channel = Arc<Mutex<AttachChannel<Socket>>>;

/// Presents the token of now.
pub(super) struct AttachKeys(Channel);

/// The key of one token.
struct AttachKey {
    channel: Channel,
    serial: Serial,
    algorithm: Algorithm,
}

/// One signature by one scheme.
struct AttachSigner {
    channel: Channel,
    serial: Serial,
    scheme: SignatureScheme,
}

impl AttachKeys {
    pub(super) fn new(channel: Channel) -> Self {
        Self(channel)
    }
}

fn lock(channel: &Channel) -> MutexGuard<'_, AttachChannel<Socket>> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResolvesClientCert for AttachKeys {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let mut attach = lock(&self.0);
        attach.refresh().ok()?;
        let chain = attach.chain().certificates();
        let chain = chain.iter().cloned().map(CertificateDer::from).collect();
        let key = AttachKey {
            channel: self.0.clone(),
            serial: attach.serial().clone(),
            algorithm: attach.algorithm(),
        };
        Some(Arc::new(CertifiedKey::new(chain, Arc::new(key))))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl SigningKey for AttachKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = match self.algorithm {
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
                SignatureScheme::RSA_PSS_SHA256
            }
            Algorithm::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Algorithm::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
            _ => return None,
        };
        offered.contains(&scheme).then(|| {
            Box::new(AttachSigner {
                channel: self.channel.clone(),
                serial: self.serial.clone(),
                scheme,
            }) as Box<dyn Signer>
        })
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        if self.algorithm.is_rsa() {
            SignatureAlgorithm::RSA
        } else {
            SignatureAlgorithm::ECDSA
        }
    }
}

impl Signer for AttachSigner {
    /// `message` is the whole content of RFC 8446, 4.4.3; the endpoint is told the hash only.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let hash = TranscriptHash::from_content(message).ok_or_else(|| {
            Error::General("not the content of a TLS 1.3 client's CertificateVerify".to_owned())
        })?;
        lock(&self.channel)
            .sign(&self.serial, self.scheme.into(), hash)
            .map_err(|error| Error::Other(OtherError(Arc::new(error))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

impl fmt::Debug for AttachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttachKeys")
    }
}

impl fmt::Debug for AttachKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttachKey {}", self.serial)
    }
}

impl fmt::Debug for AttachSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttachSigner {}", self.serial)
    }
}
