//! Keys and sealed data: made, loaded, used.

use std::{
    collections::{HashMap, HashSet},
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
        TpmSt, TpmsContext, TpmsEccPoint, TpmsSchemeHash, TpmsSensitiveCreate, TpmtPublic,
        TpmtRsaDecrypt, TpmtSigScheme, TpmtTkHashcheck, TpmuPublicId, TpmuSigScheme,
    },
    frame::{
        TpmContextLoadCommand, TpmContextLoadResponse, TpmContextSaveCommand,
        TpmContextSaveResponse, TpmCreateCommand, TpmCreatePrimaryCommand,
        TpmCreatePrimaryResponse, TpmCreateResponse, TpmEcdhZGenCommand, TpmEcdhZGenResponse,
        TpmLoadCommand, TpmLoadResponse, TpmReadPublicCommand, TpmReadPublicResponse,
        TpmRsaDecryptCommand, TpmRsaDecryptResponse, TpmSignCommand, TpmSignResponse,
        TpmUnsealCommand, TpmUnsealResponse,
    },
};
use zeroize::Zeroizing;

use super::{
    Settings, Tpm, TpmError,
    authorisation::{Cover, Subject},
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
    pub(super) fn new(private: Tpm2bPrivate, public: Tpm2bPublic) -> Self {
        Self { private, public }
    }

    pub(super) fn name(&self) -> Result<Vec<u8>, TpmError> {
        template::name(&self.public.inner)
    }

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
    pub(super) client: Client,
    /// The key in the TPM besides its parent's short stays: its number and handle, and the line it came by.
    resident: Option<(u64, TpmHandle, u64)>,
    /// Saved contexts by key number: faster than loading the wrapped key again.
    contexts: HashMap<u64, TpmsContext>,
    /// Names of keys whose authorisation value the TPM has refused.
    pub(super) refused: HashSet<Vec<u8>>,
}

impl State {
    /// Contexts kept: each some kilobytes.
    const CONTEXTS: usize = 64;

    const REFUSED: usize = 1024;

    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            resident: None,
            contexts: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Forgets all where there are too many: then one try of each is spent again.
    pub(super) fn refuse(&mut self, name: Vec<u8>) {
        if self.refused.len() >= Self::REFUSED {
            self.refused.clear();
        }
        self.refused.insert(name);
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

    pub(super) fn create_with(
        &mut self,
        public: Tpm2bPublic,
        data: Tpm2bSensitiveData,
    ) -> Result<Blob, TpmError> {
        let user_auth =
            Tpm2bAuth::try_from(self.settings.auth.as_slice()).map_err(TpmError::wire)?;
        self.under_parent(|client, parent| {
            let command = TpmCreateCommand {
                handles: [parent.handle],
                in_sensitive: Tpm2bSensitiveCreate {
                    inner: TpmsSensitiveCreate { user_auth, data },
                },
                in_public: public,
                outside_info: Tpm2bData::default(),
                creation_pcr: Default::default(),
            };
            let made: TpmCreateResponse =
                client.call(&command, &[parent.subject()], Cover::BOTH)?;
            Ok(Blob {
                private: made.out_private,
                public: made.out_public,
            })
        })
    }

    pub(super) fn unseal(&mut self, blob: &Blob) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let name = blob.name()?;
        let handle = self.load(blob)?;
        let subject = Subject {
            name: &name,
            auth: &self.settings.auth,
        };
        let command = TpmUnsealCommand { handles: [handle] };
        let result: Result<TpmUnsealResponse, _> =
            self.state
                .client
                .call(&command, &[subject], Cover::RESPONSE);
        self.state.client.flush(handle)?;
        Ok(Zeroizing::new(result?.out_data.to_vec()))
    }

    /// Runs `operation` on a loaded key, once more if the TPM has lost it meanwhile.
    fn with_key<T>(
        &mut self,
        number: u64,
        blob: &Blob,
        operation: impl Fn(&mut Client, TpmHandle, Subject<'_>) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let name = blob.name()?;
        let settings = self.settings;
        let subject = Subject {
            name: &name,
            auth: &settings.auth,
        };
        let first = self
            .resident(number, blob)
            .and_then(|handle| operation(&mut self.state.client, handle, subject));
        match first {
            Err(TpmError::Refused(code)) if Code(code).is_stale() => {
                self.state.resident = None;
                self.state.contexts.clear();
            }
            // The line is opened anew once: a TPM daemon may have been restarted.
            Err(TpmError::Line(_)) => {
                if let Some((_, handle, _)) = self.state.resident.take() {
                    self.state.client.abandon(handle);
                }
            }
            other => return other,
        }
        let handle = self.resident(number, blob)?;
        operation(&mut self.state.client, handle, subject)
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
                let loaded: TpmContextLoadResponse = self.state.client.ask(&command)?;
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
        let saved: TpmContextSaveResponse = self.state.client.ask(&command)?;
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
            Some((_, handle, _)) => match self.state.client.flush(handle) {
                Err(TpmError::Refused(code)) if Code(code).is_stale() => Ok(()),
                other => other,
            },
            None => Ok(()),
        }
    }

    pub(super) fn load(&mut self, blob: &Blob) -> Result<TpmHandle, TpmError> {
        self.under_parent(|client, parent| {
            let command = TpmLoadCommand {
                handles: [parent.handle],
                in_private: blob.private,
                in_public: blob.public.clone(),
            };
            let loaded: TpmLoadResponse =
                client.call(&command, &[parent.subject()], Cover::COMMAND)?;
            Ok(loaded.handles[0])
        })
    }

    pub(super) fn under_parent<T>(
        &mut self,
        f: impl FnOnce(&mut Client, &Parent) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if let Some(handle) = self.settings.parent {
            let handles = [TpmHandle::new(handle)];
            let command = TpmReadPublicCommand { handles };
            let read: TpmReadPublicResponse = self.state.client.ask(&command)?;
            let parent = Parent::new(handles[0], read.out_public.inner)?;
            return f(&mut self.state.client, &parent);
        }
        // Parent, old and new key would be the three places: keep one free for other programs.
        self.evict()?;
        let parent = self.create_primary(template::primary())?;
        let result = f(&mut self.state.client, &parent);
        self.state.client.flush(parent.handle)?;
        result
    }

    pub(super) fn create_primary(&mut self, public: Tpm2bPublic) -> Result<Parent, TpmError> {
        let owner = TpmRh::Owner.value();
        let command = TpmCreatePrimaryCommand {
            handles: [TpmHandle::new(owner)],
            in_public: public,
            ..TpmCreatePrimaryCommand::default()
        };
        let subject = Subject {
            name: &owner.to_be_bytes(),
            auth: &self.settings.owner,
        };
        let made: TpmCreatePrimaryResponse =
            self.state
                .client
                .call(&command, &[subject], Cover::COMMAND)?;
        Parent::new(made.handles[0], made.out_public.inner)
    }

    /// Leaves nothing in the TPM.
    pub(super) fn leave(&mut self) -> Result<(), TpmError> {
        let evicted = self.evict();
        self.state.client.end_session();
        evicted
    }
}

/// A key that is loaded for others' sake: a parent, or the attestation key. Its authorisation value is empty.
pub(super) struct Parent {
    pub(super) handle: TpmHandle,
    name: Vec<u8>,
    pub(super) public: TpmtPublic,
}

impl Parent {
    fn new(handle: TpmHandle, public: TpmtPublic) -> Result<Self, TpmError> {
        let name = template::name(&public)?;
        Ok(Self {
            handle,
            name,
            public,
        })
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            name: &self.name,
            auth: &[],
        }
    }
}

/// An object that is loaded for its operations, and flushed when it is dropped.
pub(super) struct Loaded {
    tpm: Arc<Tpm>,
    number: u64,
    blob: Blob,
}

impl Loaded {
    pub(super) fn new(tpm: Arc<Tpm>, blob: Blob) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { tpm, number, blob }
    }

    pub(super) fn run<T>(
        &self,
        operation: impl Fn(&mut Client, TpmHandle, Subject<'_>) -> Result<T, TpmError>,
    ) -> Result<T, KeyError> {
        self.tpm.with(|session| {
            session.guarded(&self.blob, |session| {
                session.with_key(self.number, &self.blob, operation)
            })
        })
    }
}

impl Drop for Loaded {
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

/// A key pair in a TPM.
pub(super) struct TpmKey {
    object: Loaded,
    algorithm: Algorithm,
    public: Vec<u8>,
}

impl TpmKey {
    /// `None` where the blob is of no key pair.
    pub(super) fn new(tpm: Arc<Tpm>, blob: Blob) -> Option<Self> {
        let (algorithm, public) = template::read(&blob.public.inner)?;
        Some(Self {
            object: Loaded::new(tpm, blob),
            algorithm,
            public,
        })
    }

    fn run<T>(
        &self,
        operation: impl Fn(&mut Client, TpmHandle, Subject<'_>) -> Result<T, TpmError>,
    ) -> Result<T, KeyError> {
        self.object.run(operation)
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
        self.run(|client, handle, key| {
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
            let signed: TpmSignResponse = client.call(&command, &[key], Cover::COMMAND)?;
            der_signature(&signed.signature)
        })
    }

    fn rsa_raw(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let TpmuPublicId::Rsa(modulus) = &self.object.blob.public.inner.unique else {
            return Err(KeyError::Unsupported);
        };
        // Numbers of one length compare as their bytes do. swtpm fails for good on one that is too great.
        let len = modulus.len();
        if block.len() != len || block >= &modulus[..] {
            return Err(KeyError::Input);
        }
        let cipher_text = Tpm2bPublicKeyRsa::try_from(block).map_err(|_| KeyError::Input)?;
        self.run(|client, handle, key| {
            let command = TpmRsaDecryptCommand {
                handles: [handle],
                cipher_text,
                in_scheme: TpmtRsaDecrypt::default(),
                label: Tpm2bData::default(),
            };
            let plain: TpmRsaDecryptResponse = client.call(&command, &[key], Cover::BOTH)?;
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
        self.run(|client, handle, key| {
            let command = TpmEcdhZGenCommand {
                handles: [handle],
                in_point,
            };
            let shared: TpmEcdhZGenResponse = client.call(&command, &[key], Cover::BOTH)?;
            template::pad(&shared.out_point.inner.x, len)
                .map(Zeroizing::new)
                .ok_or(TpmError::Malformed)
        })
    }
}
