//! Keys in a TPM 2.0 (TCG TPM 2.0 Library, parts 2 and 3).
//!
//! Keys are made under a storage key and kept by the card as wrapped blobs: the TPM holds at most one of them at
//! a time besides their parent, since it has three places. What was pushed out comes back by its saved context.

mod attest;
mod authorisation;
mod client;
mod gcm;
mod import;
mod kdf;
mod key;
mod protection;
mod secret;
mod template;
mod transport;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use gose_card::keystore::{
    Algorithm, Export, KeyError, KeyStore, PrivateKey, SecretAlgorithm, SecretKey,
    SoftwareKeyStore, Stored, StoredSecret, fitting,
};
use tpm2_protocol::{
    TpmError as WireError,
    data::{Tpm2bSensitiveData, TpmtSignature},
};
use zeroize::Zeroizing;

pub use self::transport::Address;
use self::{
    client::{Client, Code},
    key::{Blob, TpmKey},
    secret::TpmSecret,
};
use crate::der::PrivateParts;

/// How a TPM is used.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// A persistent storage key to be the parent of all keys, e.g. 8100_0001; without one a primary key is
    /// derived from the owner's seed. Keys open only under the parent that they were made under.
    pub parent: Option<u32>,
    /// The owner hierarchy's authorisation value, for the derived primary key. Empty on most machines.
    pub owner: Zeroizing<Vec<u8>>,
    /// The authorisation value of the keys: wrong tries count against the TPM's dictionary-attack protection.
    pub auth: Zeroizing<Vec<u8>>,
}

impl Settings {
    /// A TPM with an empty owner authorisation and keys without one.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            parent: None,
            owner: Zeroizing::default(),
            auth: Zeroizing::default(),
        }
    }
}

/// Keys in one TPM.
#[derive(Clone)]
pub struct TpmKeyStore {
    tpm: Arc<Tpm>,
}

/// What a TPM says, signed by its attestation key: a restricted key on P-256 that the owner's seed gives again each
/// time, so that it can be known beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// TPMS_ATTEST: of a key its name, of the machine the digest of its PCRs; with the caller's nonce.
    pub statement: Vec<u8>,
    /// ECDSA with SHA-256 over the statement, DER.
    pub signature: Vec<u8>,
    /// SubjectPublicKeyInfo of the attestation key.
    pub attestation_key: Vec<u8>,
}

/// Why a TPM did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The line to the TPM failed.
    #[error("the TPM cannot be reached: {0}; look at its device or at swtpm")]
    Line(String),
    /// The TPM answered with a response code.
    #[error("the TPM refuses with code {0:#05X}{hint}", hint = hint(*.0))]
    Refused(u32),
    /// The TPM asked to try again too often.
    #[error("the TPM stays busy")]
    Busy,
    /// Its answer does not prove that it comes from the TPM.
    #[error("the TPM's answer is not authentic; something changes what crosses its bus")]
    NotAuthentic,
    /// A computation of the host's failed, or the system gives no randomness.
    #[error("a computation for the TPM failed")]
    Crypto,
    /// Its answer is not what the standard says.
    #[error("the TPM's answer is malformed")]
    Malformed,
    /// A value does not fit into the TPM's structures.
    #[error("a value does not fit into the TPM's structures: {0}")]
    Wire(String),
}

fn hint(code: u32) -> &'static str {
    match Code(code) {
        Code::OBJECT_MEMORY => {
            ": no free place for a key; use /dev/tpmrm0, or flush other programs' keys"
        }
        Code::SESSION_MEMORY | Code::SESSION_HANDLES => {
            ": no free place for a session; use /dev/tpmrm0, or flush other programs' sessions"
        }
        Code::LOCKOUT => {
            ": too many wrong authorisation values, it is locked; `tpm2_getcap properties-variable` tells how long, \
             `tpm2_dictionarylockout --clear-lockout` lifts it"
        }
        code if code.is_wrong_auth() => {
            ": wrong authorisation value; correct auth-file before more wrong ones lock the TPM"
        }
        _ => "",
    }
}

impl TpmError {
    fn wire(error: WireError) -> Self {
        Self::Wire(format!("{error:?}"))
    }

    fn line(error: &io::Error) -> Self {
        Self::Line(error.to_string())
    }
}

impl From<TpmError> for KeyError {
    fn from(error: TpmError) -> Self {
        // TPM_RC_VALUE, _SIZE, _ECC_POINT: about what the caller gave.
        match &error {
            TpmError::Refused(code) if [0x084, 0x095, 0x0A7].contains(&Code(*code).base()) => {
                Self::Input
            }
            // TPM_RC_COMMAND_CODE: many TPMs have no TPM2_EncryptDecrypt2.
            TpmError::Refused(0x143) => Self::Unsupported,
            _ => Self::Store(error.to_string()),
        }
    }
}

/// The TPM and what is loaded into it.
struct Tpm {
    settings: Settings,
    state: Mutex<key::State>,
}

impl Tpm {
    fn with<T>(&self, f: impl FnOnce(&mut key::Session<'_>) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut key::Session {
            settings: &self.settings,
            state: &mut state,
        })
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // Without a resource manager the places would stay taken.
        let _ = self.with(|session| session.leave());
    }
}

impl TpmKeyStore {
    /// Keys in the TPM of `settings`. Nothing is sent before the first use.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let client = Client::new(settings.address.clone());
        Self {
            tpm: Arc::new(Tpm {
                settings,
                state: Mutex::new(key::State::new(client)),
            }),
        }
    }

    /// Seals up to 128 bytes, e.g. the key of a card's image: only this TPM opens them.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn seal(&self, secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.tpm
            .with(|session| session.seal(secret))
            .map(|blob| blob.encode().to_vec())
    }

    /// Opens what [`TpmKeyStore::seal`] sealed.
    ///
    /// # Errors
    /// [`TpmError::Malformed`] for anything else, [`TpmError::Refused`] by another TPM or a wrong
    /// authorisation value.
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let blob = Blob::decode(sealed).ok_or(TpmError::Malformed)?;
        self.tpm.with(|session| session.unseal(&blob))
    }

    /// The TPM's statement that the key of `blob` lives in it and never left it, over the caller's nonce of up
    /// to 32 bytes.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certify(&self, blob: &[u8], nonce: &[u8]) -> Result<Attested, TpmError> {
        let blob = Blob::decode(blob).ok_or(TpmError::Malformed)?;
        self.tpm.with(|session| session.certify(&blob, nonce))
    }

    /// The TPM's statement of what its platform configuration registers (0 to 23, bank of SHA-256) hold, over the
    /// caller's nonce of up to 32 bytes.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(&self, pcrs: &[u8], nonce: &[u8]) -> Result<Attested, TpmError> {
        self.tpm.with(|session| session.quote(pcrs, nonce))
    }

    /// Makes a secret key, or takes this one in. What a TPM wraps is for other TPMs alone: keys that may leave wrapped by
    /// RFC 3394, and keys that wrap so, are not its own.
    fn secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
        data: Tpm2bSensitiveData,
    ) -> Result<StoredSecret, KeyError> {
        let has_auth = !self.tpm.settings.auth.is_empty();
        let template = template::secret(algorithm, data.is_empty(), has_auth)
            .filter(|_| export == Export::Never)
            .ok_or(KeyError::Unsupported)?;
        let made = self.tpm.with(|session| session.create_with(template, data));
        let blob = secret::encode(algorithm, &made.map_err(unmade)?);
        Ok(StoredSecret {
            key: self.open_secret(&blob)?,
            blob,
        })
    }

    fn stored(&self, made: Result<Blob, TpmError>) -> Result<Stored, KeyError> {
        let blob = made.map_err(unmade)?;
        Ok(Stored {
            blob: blob.encode(),
            key: self.key(blob)?,
        })
    }

    fn key(&self, blob: Blob) -> Result<Arc<dyn PrivateKey>, KeyError> {
        Ok(Arc::new(
            TpmKey::new(self.tpm.clone(), blob).ok_or(KeyError::Input)?,
        ))
    }
}

/// Why there is no key.
fn unmade(error: TpmError) -> KeyError {
    match error {
        // An algorithm or a size of key that this TPM has not.
        TpmError::Refused(code) if [0x084, 0x087, 0x0A6].contains(&Code(code).base()) => {
            KeyError::Unsupported
        }
        error => error.into(),
    }
}

impl KeyStore for TpmKeyStore {
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
        let template = template::key(algorithm, !self.tpm.settings.auth.is_empty())?;
        self.stored(self.tpm.with(|session| session.create(template)))
    }

    /// By TPM2_Import, wrapped for its parent. The TPM certifies such a key as one that was not born in it.
    fn import(&self, pkcs8: &[u8]) -> Result<Stored, KeyError> {
        let key = SoftwareKeyStore.open(pkcs8)?;
        let parts = PrivateParts::read(pkcs8).ok_or(KeyError::Input)?;
        let blob = self
            .tpm
            .with(|session| session.import(key.algorithm(), key.public_key_info(), &parts));
        self.stored(blob)
    }

    fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
        self.key(Blob::decode(blob).ok_or(KeyError::Input)?)
    }

    fn generate_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
    ) -> Result<StoredSecret, KeyError> {
        self.secret(algorithm, export, Tpm2bSensitiveData::default())
    }

    fn import_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
        key: &[u8],
    ) -> Result<StoredSecret, KeyError> {
        fitting(algorithm, key.len())?;
        let data = Tpm2bSensitiveData::try_from(key).map_err(|_| KeyError::Input)?;
        self.secret(algorithm, export, data)
    }

    fn open_secret(&self, blob: &[u8]) -> Result<Arc<dyn SecretKey>, KeyError> {
        let key = TpmSecret::open(self.tpm.clone(), blob).ok_or(KeyError::Input)?;
        Ok(Arc::new(key))
    }
}

/// A DER ECDSA-Sig-Value (RFC 3279, 2.2.3).
fn der_signature(signature: &TpmtSignature) -> Result<Vec<u8>, TpmError> {
    use tpm2_protocol::data::TpmuSignature::Ecdsa;
    match &signature.signature {
        Ecdsa(numbers) => Ok(crate::der::ecdsa_signature(
            &numbers.signature_r,
            &numbers.signature_s,
        )),
        _ => Err(TpmError::Malformed),
    }
}
