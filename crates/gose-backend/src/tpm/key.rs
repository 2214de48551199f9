//! Keys and sealed data: made, loaded, used.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gose_card::keystore::{Algorithm, KeyError, PrivateKey, Scheme};
use gose_element::drive::piv;
use tpm2_protocol::{
    TpmMarshal, TpmUnmarshal, TpmWriter,
    basic::TpmHandle,
    data::{
        Tpm2bAuth, Tpm2bData, Tpm2bDigest, Tpm2bEccParameter, Tpm2bEccPoint, Tpm2bPrivate,
        Tpm2bPublic, Tpm2bPublicKeyRsa, Tpm2bSensitiveCreate, Tpm2bSensitiveData, TpmAlgId, TpmRh,
        TpmSt, TpmsContext, TpmsEccPoint, TpmsSchemeHash, TpmsSensitiveCreate, TpmtRsaDecrypt,
        TpmtSigScheme, TpmtTkHashcheck, TpmuPublicId, TpmuSigScheme,
    },
    frame::{
        TpmCertifyCommand, TpmCertifyResponse, TpmContextLoadCommand, TpmContextLoadResponse,
        TpmContextSaveCommand, TpmContextSaveResponse, TpmCreateCommand, TpmCreatePrimaryCommand,
        TpmCreatePrimaryResponse, TpmCreateResponse, TpmEcdhZGenCommand, TpmEcdhZGenResponse,
        TpmFlushContextCommand, TpmFlushContextResponse, TpmLoadCommand, TpmLoadResponse,
        TpmRsaDecryptCommand, TpmRsaDecryptResponse, TpmSignCommand, TpmSignResponse,
        TpmUnsealCommand, TpmUnsealResponse,
    },
};
use zeroize::Zeroizing;

use super::{
    Certified, Settings, Tpm, TpmError,
    client::{Client, Code},
    der_signature, template,
};

const MAGIC: &[u8] = b"GoSE-TPM\x01";

/// A wrapped private part and its public part.
#[derive(Clone)]
pub(super) struct Blob {
    private: Tpm2bPrivate,
    public: Tpm2bPublic,
}

impl Blob {
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut buffer = vec![0; super::transport::MAX_SIZE];
        let mut writer = TpmWriter::new(&mut buffer);
        // Both came from the TPM: together they fit.
        let written = self
            .private
            .marshal(&mut writer)
            .and_then(|()| self.public.marshal(&mut writer));
        let len = if written.is_ok() { writer.len() } else { 0 };
        Zeroizing::new([MAGIC, &buffer[..len]].concat())
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (private, rest) = Tpm2bPrivate::unmarshal(bytes.strip_prefix(MAGIC)?).ok()?;
        let (public, rest) = Tpm2bPublic::unmarshal(rest).ok()?;
        rest.is_empty().then_some(Self { private, public })
    }
}

/// What is loaded.
pub(super) struct State {
    client: Client,
    /// The key in the TPM besides its parent's short stays: its number and handle, and the line it came by.
    resident: Option<(u64, TpmHandle, u64)>,
    /// Saved contexts by key number: faster than loading the wrapped key again.
    contexts: std::collections::HashMap<u64, TpmsContext>,
}

impl State {
    /// Contexts kept: each some kilobytes.
    const CONTEXTS: usize = 64;

    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            resident: None,
            contexts: std::collections::HashMap::new(),
        }
    }
}

/// The TPM, while nobody else uses it.
pub(super) struct Session<'a> {
    pub(super) settings: &'a Settings,
    pub(super) state: &'a mut State,
}

impl Session<'_> {
    pub(super) fn create(&mut self, public: Tpm2bPublic) -> Result<Blob, TpmError> {
        self.create_with(public, Tpm2bSensitiveData::default())
    }

    pub(super) fn seal(&mut self, secret: &[u8]) -> Result<Blob, TpmError> {
        self.create_with(
            template::sealed(),
            Tpm2bSensitiveData::try_from(secret).map_err(TpmError::wire)?,
        )
    }

    fn create_with(
        &mut self,
        public: Tpm2bPublic,
        data: Tpm2bSensitiveData,
    ) -> Result<Blob, TpmError> {
        let user_auth =
            Tpm2bAuth::try_from(self.settings.auth.as_slice()).map_err(TpmError::wire)?;
        self.under_parent(|client, parent| {
            let command = TpmCreateCommand {
                handles: [parent],
                in_sensitive: Tpm2bSensitiveCreate {
                    inner: TpmsSensitiveCreate { user_auth, data },
                },
                in_public: public,
                outside_info: Tpm2bData::default(),
                creation_pcr: Default::default(),
            };
            let made: TpmCreateResponse = client.call(&command, &[&[]])?;
            Ok(Blob {
                private: made.out_private,
                public: made.out_public,
            })
        })
    }

    pub(super) fn unseal(&mut self, blob: &Blob) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let handle = self.load(blob)?;
        let command = TpmUnsealCommand { handles: [handle] };
        let result: Result<TpmUnsealResponse, _> =
            self.state.client.call(&command, &[&self.settings.auth]);
        self.flush(handle)?;
        Ok(Zeroizing::new(result?.out_data.to_vec()))
    }

    pub(super) fn certify(&mut self, blob: &Blob, nonce: &[u8]) -> Result<Certified, TpmError> {
        let qualifying_data = Tpm2bData::try_from(nonce).map_err(TpmError::wire)?;
        let handle = self.load(blob)?;
        let result = self
            .create_primary(template::attestation())
            .and_then(|(signer, public)| {
                let command = TpmCertifyCommand {
                    handles: [handle, signer],
                    qualifying_data,
                    in_scheme: TpmtSigScheme::default(),
                };
                let auths: [&[u8]; 2] = [&self.settings.auth, &[]];
                let said: Result<TpmCertifyResponse, _> = self.state.client.call(&command, &auths);
                self.flush(signer)?;
                Ok((said?, public))
            });
        self.flush(handle)?;
        let (said, public) = result?;
        let mut buffer = vec![0; super::transport::MAX_SIZE];
        let mut writer = TpmWriter::new(&mut buffer);
        said.certify_info
            .inner
            .marshal(&mut writer)
            .map_err(TpmError::wire)?;
        let (_, attestation_key) = template::read(&public.inner).ok_or(TpmError::Malformed)?;
        Ok(Certified {
            statement: writer.as_bytes().to_vec(),
            signature: der_signature(&said.signature)?,
            attestation_key,
        })
    }

    /// Runs `operation` on a loaded key, once more if the TPM has lost it meanwhile.
    fn with_key<T>(
        &mut self,
        number: u64,
        blob: &Blob,
        operation: impl Fn(&mut Client, TpmHandle, &[u8]) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let first = self
            .resident(number, blob)
            .and_then(|handle| operation(&mut self.state.client, handle, &self.settings.auth));
        match first {
            Err(TpmError::Refused(code)) if Code(code).is_stale() => {
                self.state.resident = None;
                self.state.contexts.clear();
            }
            // The line is opened anew once: a TPM daemon may have been restarted.
            Err(TpmError::Line(_)) => self.state.resident = None,
            other => return other,
        }
        let handle = self.resident(number, blob)?;
        operation(&mut self.state.client, handle, &self.settings.auth)
    }

    /// The handle of a key, loaded if it is not.
    fn resident(&mut self, number: u64, blob: &Blob) -> Result<TpmHandle, TpmError> {
        if let Some((resident, handle, epoch)) = self.state.resident
            && resident == number
            && epoch == self.state.client.epoch
        {
            return Ok(handle);
        }
        self.evict()?;
        let handle = match self.state.contexts.get(&number).cloned() {
            Some(context) => {
                let command = TpmContextLoadCommand {
                    handles: [],
                    context,
                };
                let loaded: TpmContextLoadResponse = self.state.client.call(&command, &[])?;
                loaded.handles[0]
            }
            None => {
                let handle = self.load(blob)?;
                self.save(number, handle)?;
                handle
            }
        };
        self.state.resident = Some((number, handle, self.state.client.epoch));
        Ok(handle)
    }

    fn save(&mut self, number: u64, handle: TpmHandle) -> Result<(), TpmError> {
        let command = TpmContextSaveCommand { handles: [handle] };
        let saved: TpmContextSaveResponse = self.state.client.call(&command, &[])?;
        if self.state.contexts.len() >= State::CONTEXTS {
            self.state.contexts.clear();
        }
        self.state.contexts.insert(number, saved.context);
        Ok(())
    }

    /// Pushes the resident key out.
    pub(super) fn evict(&mut self) -> Result<(), TpmError> {
        match self.state.resident.take() {
            // A resource manager drops what came by a line that is closed; a TPM keeps it.
            Some((_, handle, _)) => match self.flush(handle) {
                Err(TpmError::Refused(code)) if Code(code).is_stale() => Ok(()),
                other => other,
            },
            None => Ok(()),
        }
    }

    fn load(&mut self, blob: &Blob) -> Result<TpmHandle, TpmError> {
        self.under_parent(|client, parent| {
            let command = TpmLoadCommand {
                handles: [parent],
                in_private: blob.private,
                in_public: blob.public.clone(),
            };
            let loaded: TpmLoadResponse = client.call(&command, &[&[]])?;
            Ok(loaded.handles[0])
        })
    }

    fn under_parent<T>(
        &mut self,
        f: impl FnOnce(&mut Client, TpmHandle) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if let Some(parent) = self.settings.parent {
            return f(&mut self.state.client, TpmHandle::new(parent));
        }
        // Parent, old and new key would be the three places: keep one free for other programs.
        self.evict()?;
        let (parent, _) = self.create_primary(template::primary())?;
        let result = f(&mut self.state.client, parent);
        self.flush(parent)?;
        result
    }

    fn create_primary(
        &mut self,
        public: Tpm2bPublic,
    ) -> Result<(TpmHandle, Tpm2bPublic), TpmError> {
        let command = TpmCreatePrimaryCommand {
            handles: [TpmHandle::new(TpmRh::Owner.value())],
            in_public: public,
            ..TpmCreatePrimaryCommand::default()
        };
        let made: TpmCreatePrimaryResponse =
            self.state.client.call(&command, &[&self.settings.owner])?;
        Ok((made.handles[0], made.out_public))
    }

    fn flush(&mut self, handle: TpmHandle) -> Result<(), TpmError> {
        let command = TpmFlushContextCommand {
            handles: [],
            flush_handle: handle,
        };
        self.state
            .client
            .call(&command, &[])
            .map(|_: TpmFlushContextResponse| ())
    }
}

/// A key in a TPM.
pub(super) struct TpmKey {
    tpm: Arc<Tpm>,
    number: u64,
    blob: Blob,
    algorithm: Algorithm,
    public: Vec<u8>,
}

impl TpmKey {
    /// `None` where the blob is of no key.
    pub(super) fn new(tpm: Arc<Tpm>, blob: Blob) -> Option<Self> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let (algorithm, public) = template::read(&blob.public.inner)?;
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Some(Self {
            tpm,
            number,
            blob,
            algorithm,
            public,
        })
    }

    fn run<T>(
        &self,
        operation: impl Fn(&mut Client, TpmHandle, &[u8]) -> Result<T, TpmError>,
    ) -> Result<T, KeyError> {
        Ok(self
            .tpm
            .with(|session| session.with_key(self.number, &self.blob, operation))?)
    }

    /// Bytes of a coordinate, and the hash of that length; `None` for RSA.
    fn curve(&self) -> Option<(usize, TpmAlgId)> {
        match self.algorithm {
            Algorithm::P256 => Some((32, TpmAlgId::Sha256)),
            Algorithm::P384 => Some((48, TpmAlgId::Sha384)),
            _ => None,
        }
    }
}

impl Drop for TpmKey {
    fn drop(&mut self) {
        let _ = self.tpm.with(|session| {
            session.state.contexts.remove(&self.number);
            match session.state.resident {
                Some((number, ..)) if number == self.number => session.evict(),
                _ => Ok(()),
            }
        });
    }
}

impl fmt::Debug for TpmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TpmKey({:?})", self.algorithm)
    }
}

impl PrivateKey for TpmKey {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn public_key_info(&self) -> &[u8] {
        &self.public
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let input = || {
            piv::input(scheme, self.algorithm, message)
                .map_err(|error| KeyError::Store(error.to_string()))
        };
        match (scheme, self.algorithm) {
            (Scheme::EcdsaP256Sha256, Algorithm::P256)
            | (Scheme::EcdsaP384Sha384, Algorithm::P384) => self.sign_digest(&input()?),
            // The padding is the host's: a TPM's PSS salts with as many bytes as fit, TLS wants 32.
            (Scheme::RsaPkcs1Sha256 | Scheme::RsaPssSha256, algorithm) if algorithm.is_rsa() => {
                Ok(self.rsa_raw(&input()?)?.to_vec())
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        let (len, hash_alg) = self.curve().ok_or(KeyError::Unsupported)?;
        if digest.is_empty() {
            return Err(KeyError::Input);
        }
        let digest = template::pad(digest, len).ok_or(KeyError::Input)?;
        let digest = Tpm2bDigest::try_from(digest.as_slice()).map_err(|_| KeyError::Input)?;
        let in_scheme = TpmtSigScheme {
            scheme: TpmAlgId::Ecdsa,
            details: TpmuSigScheme::Hash(TpmsSchemeHash { hash_alg }),
        };
        self.run(|client, handle, auth| {
            // An unrestricted key signs digests that the TPM did not make itself.
            let validation = TpmtTkHashcheck {
                tag: TpmSt::HashCheck,
                hierarchy: TpmRh::Null,
                digest: Default::default(),
            };
            let command = TpmSignCommand {
                handles: [handle],
                digest,
                in_scheme,
                validation,
            };
            let signed: TpmSignResponse = client.call(&command, &[auth])?;
            der_signature(&signed.signature)
        })
    }

    fn rsa_raw(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let TpmuPublicId::Rsa(modulus) = &self.blob.public.inner.unique else {
            return Err(KeyError::Unsupported);
        };
        // Numbers of one length compare as their bytes do. swtpm fails for good on one that is too great.
        let len = modulus.len();
        if block.len() != len || block >= &modulus[..] {
            return Err(KeyError::Input);
        }
        let cipher_text = Tpm2bPublicKeyRsa::try_from(block).map_err(|_| KeyError::Input)?;
        self.run(|client, handle, auth| {
            let command = TpmRsaDecryptCommand {
                handles: [handle],
                cipher_text,
                in_scheme: TpmtRsaDecrypt::default(),
                label: Tpm2bData::default(),
            };
            let plain: TpmRsaDecryptResponse = client.call(&command, &[auth])?;
            template::pad(&plain.message, len)
                .map(Zeroizing::new)
                .ok_or(TpmError::Malformed)
        })
    }

    fn agree(&self, point: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let (len, _) = self.curve().ok_or(KeyError::Unsupported)?;
        let [0x04, coordinates @ ..] = point else {
            return Err(KeyError::Input);
        };
        let (x, y) = coordinates.split_at_checked(len).ok_or(KeyError::Input)?;
        let coordinate =
            |bytes: &[u8]| Tpm2bEccParameter::try_from(bytes).map_err(|_| KeyError::Input);
        if y.len() != len {
            return Err(KeyError::Input);
        }
        let in_point = Tpm2bEccPoint {
            inner: TpmsEccPoint {
                x: coordinate(x)?,
                y: coordinate(y)?,
            },
        };
        self.run(|client, handle, auth| {
            let command = TpmEcdhZGenCommand {
                handles: [handle],
                in_point,
            };
            let shared: TpmEcdhZGenResponse = client.call(&command, &[auth])?;
            template::pad(&shared.out_point.inner.x, len)
                .map(Zeroizing::new)
                .ok_or(TpmError::Malformed)
        })
    }
}
