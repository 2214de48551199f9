//! Keys in an HSM, by its PKCS#11 module (OASIS PKCS#11 v2.40 and later).
//!
//! Keys are made on the token, never extractable; the card keeps their CKA_ID and public key. Sessions are kept
//! in a pool; when the token was removed, or its module forgot the sessions, everything is found anew.

mod key;
mod module;
mod object;
mod pool;
mod secret;
mod template;

use std::{path::PathBuf, sync::Arc};

use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, ObjectClass},
};
use gose_card::keystore::{
    Algorithm, Export, KeyError, KeyStore, PrivateKey, SecretAlgorithm, SecretKey,
    SoftwareKeyStore, Stored, StoredSecret, fitting, wrapped_len,
};
use gose_proto::pkcs11::Uri;
use zeroize::Zeroizing;

use self::{
    key::{Blob, HsmKey},
    pool::Pool,
    secret::HsmSecret,
};
use crate::der::PrivateParts;

/// How an HSM is used.
#[derive(Clone)]
pub struct Settings {
    /// The module's file.
    pub module: PathBuf,
    /// Which token.
    pub token: Uri,
    /// The user's PIN; `None` for tokens that need no login.
    pub pin: Option<Zeroizing<String>>,
    /// Sessions open at the same time, at least 1.
    pub sessions: usize,
    /// Whether the PIN is shown to a token that says that one wrong try more locks it.
    pub danger_spend_last_try: bool,
}

impl Settings {
    /// Four sessions; the last try of a PIN is never spent.
    #[must_use]
    pub fn new(module: PathBuf, token: Uri, pin: Option<Zeroizing<String>>) -> Self {
        Self {
            module,
            token,
            pin,
            sessions: 4,
            danger_spend_last_try: false,
        }
    }
}

/// Keys in one token.
#[derive(Clone)]
pub struct Pkcs11KeyStore {
    pool: Arc<Pool>,
}

/// Why an HSM did nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The module's file cannot be used.
    #[error("PKCS#11 module {0}")]
    Module(String),
    /// No token is what the URI says.
    #[error("no token matches the URI; insert it, or look at `pkcs11-tool -L`")]
    NoToken,
    /// The token refused the PIN. It is not shown again.
    #[error("the token refused the PIN, which will not be tried again; correct it and restart")]
    PinRefused,
    /// One wrong try more would lock the token.
    #[error("the token has one try left for its PIN; log in by hand, or set danger-spend-last-try")]
    LastTry,
    /// The PIN is locked.
    #[error("the token's PIN is locked; unlock it with the SO's PIN")]
    PinLocked,
    /// All sessions stayed in use.
    #[error("no session of the HSM became free within {0} s")]
    Busy(u64),
    /// The key is not on the token.
    #[error("the key is not on the token")]
    NoKey,
    /// The HSM's own code.
    #[error("the HSM answers {0}")]
    Refused(String),
    /// What the caller gave was not made by this key.
    #[error("not made by this key, or changed since")]
    Mismatch,
    /// What the caller gave is of a wrong length or value.
    #[error("input of a wrong length or value")]
    Input,
    /// The token has not this mechanism or key size.
    #[error("the token cannot do that")]
    Unsupported,
}

impl From<Error> for HsmError {
    fn from(error: Error) -> Self {
        match &error {
            Error::Pkcs11(code, _) => match code {
                RvError::PinLocked => Self::PinLocked,
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => {
                    Self::PinRefused
                }
                RvError::DataInvalid
                | RvError::DataLenRange
                | RvError::EncryptedDataInvalid
                | RvError::EncryptedDataLenRange
                | RvError::MechanismParamInvalid
                | RvError::PublicKeyInvalid => Self::Input,
                RvError::MechanismInvalid
                | RvError::KeySizeRange
                | RvError::CurveNotSupported
                | RvError::KeyFunctionNotPermitted
                | RvError::KeyTypeInconsistent
                | RvError::KeyUnextractable
                | RvError::KeyNotWrappable
                | RvError::FunctionNotSupported
                | RvError::TemplateInconsistent
                | RvError::AttributeValueInvalid
                | RvError::DomainParamsInvalid => Self::Unsupported,
                code => Self::Refused(format!("{code:?}")),
            },
            other => Self::Module(other.to_string()),
        }
    }
}

impl From<HsmError> for KeyError {
    fn from(error: HsmError) -> Self {
        match error {
            HsmError::Input => Self::Input,
            HsmError::Unsupported => Self::Unsupported,
            HsmError::Mismatch => Self::Mismatch,
            locked @ HsmError::PinLocked => Self::Locked(locked.to_string()),
            other => Self::Store(other.to_string()),
        }
    }
}

impl Pkcs11KeyStore {
    /// Keys in the token of `settings`. Nothing is opened before the first use.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            pool: Arc::new(Pool::new(settings)),
        }
    }

    fn take_up(&self, id: &[u8]) -> Result<Stored, HsmError> {
        let (algorithm, public) = self.pool.run(|session, _| {
            let handle = object::handle(session, ObjectClass::PUBLIC_KEY, id)?;
            template::public_key(session, handle)
        })?;
        self.stored(algorithm, id.to_vec(), public)
    }

    fn stored_secret(&self, algorithm: SecretAlgorithm, id: Vec<u8>) -> StoredSecret {
        let blob = secret::Blob { algorithm, id };
        StoredSecret {
            blob: blob.encode(),
            key: Arc::new(HsmSecret::new(self.pool.clone(), &blob)),
        }
    }

    fn stored(
        &self,
        algorithm: Algorithm,
        id: Vec<u8>,
        public: Vec<u8>,
    ) -> Result<Stored, HsmError> {
        let blob = Blob {
            algorithm,
            id,
            public,
        };
        let encoded = blob.encode().ok_or(HsmError::Input)?;
        Ok(Stored {
            blob: encoded,
            key: Arc::new(HsmKey::new(self.pool.clone(), blob)),
        })
    }
}

/// A CKA_ID that no other key has.
fn fresh_id() -> Result<Vec<u8>, KeyError> {
    let mut id = vec![0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| KeyError::Store("no randomness".into()))?;
    Ok(id)
}

impl KeyStore for Pkcs11KeyStore {
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
        let id = fresh_id()?;
        let (mechanism, public, private) =
            template::pair(algorithm, &id).ok_or(KeyError::Unsupported)?;
        let info = self.pool.run(|session, _| {
            let (handle, _) = session.generate_key_pair(&mechanism, &public, &private)?;
            template::public_key(session, handle)
        })?;
        Ok(self.stored(algorithm, id, info.1)?)
    }

    /// As sensitive objects that cannot be extracted; many HSMs allow keys of their own only.
    fn import(&self, pkcs8: &[u8]) -> Result<Stored, KeyError> {
        let key = SoftwareKeyStore.open(pkcs8)?;
        let parts = PrivateParts::read(pkcs8).ok_or(KeyError::Input)?;
        let (id, info) = (fresh_id()?, key.public_key_info());
        let objects = template::imported(key.algorithm(), &id, info, &parts);
        let [public, private] = objects.ok_or(KeyError::Input)?;
        self.pool.run(|session, _| {
            session.create_object(&private)?;
            session.create_object(&public)?;
            Ok(())
        })?;
        Ok(self.stored(key.algorithm(), id, info.to_vec())?)
    }

    /// By its CKA_ID: for instance the key of a card that OpenSC knows.
    fn adopt(&self, id: &[u8]) -> Result<Stored, KeyError> {
        Ok(self.take_up(id)?)
    }

    fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
        let blob = Blob::decode(blob).ok_or(KeyError::Input)?;
        Ok(Arc::new(HsmKey::new(self.pool.clone(), blob)))
    }

    fn generate_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
    ) -> Result<StoredSecret, KeyError> {
        let id = fresh_id()?;
        let attributes = secret::attributes(algorithm, export, &id);
        self.pool
            .run(|session, _| secret::generate(session, algorithm, attributes.clone()))?;
        Ok(self.stored_secret(algorithm, id))
    }

    fn import_secret(
        &self,
        algorithm: SecretAlgorithm,
        export: Export,
        key: &[u8],
    ) -> Result<StoredSecret, KeyError> {
        fitting(algorithm, key.len())?;
        let id = fresh_id()?;
        let mut attributes = secret::attributes(algorithm, export, &id);
        attributes.push(Attribute::Value(key.to_vec()));
        self.pool
            .run(|session, _| Ok(session.create_object(&attributes).map(drop)?))?;
        Ok(self.stored_secret(algorithm, id))
    }

    fn open_secret(&self, blob: &[u8]) -> Result<Arc<dyn SecretKey>, KeyError> {
        let blob = secret::Blob::decode(blob).ok_or(KeyError::Input)?;
        Ok(Arc::new(HsmSecret::new(self.pool.clone(), &blob)))
    }

    fn wrap_secret(&self, wrapping: &[u8], key: &[u8]) -> Result<Vec<u8>, KeyError> {
        let wrapping = secret::Blob::decode(wrapping).ok_or(KeyError::Input)?;
        let key = secret::Blob::decode(key).ok_or(KeyError::Input)?;
        if !wrapping.algorithm.wraps() {
            return Err(KeyError::Unsupported);
        }
        Ok(self.pool.run(|session, _| {
            let wrapping = object::handle(session, ObjectClass::SECRET_KEY, &wrapping.id)?;
            let key = object::handle(session, ObjectClass::SECRET_KEY, &key.id)?;
            Ok(session.wrap_key(&Mechanism::AesKeyWrap, wrapping, key)?)
        })?)
    }

    fn unwrap_secret(
        &self,
        wrapping: &[u8],
        wrapped: &[u8],
        algorithm: SecretAlgorithm,
        export: Export,
    ) -> Result<StoredSecret, KeyError> {
        let wrapping = secret::Blob::decode(wrapping).ok_or(KeyError::Input)?;
        if !wrapping.algorithm.wraps() {
            return Err(KeyError::Unsupported);
        }
        let len = wrapped_len(wrapped)?;
        let id = fresh_id()?;
        let attributes = secret::attributes(algorithm, export, &id);
        self.pool.run(|session, _| {
            let wrapping = object::handle(session, ObjectClass::SECRET_KEY, &wrapping.id)?;
            let made = session
                .unwrap_key(&Mechanism::AesKeyWrap, wrapping, wrapped, &attributes)
                .map_err(|error| secret::mismatch(session, error))?;
            if algorithm.takes(len) {
                return Ok(());
            }
            session.destroy_object(made)?;
            Err(HsmError::Input)
        })?;
        Ok(self.stored_secret(algorithm, id))
    }

    fn destroy(&self, blob: &[u8]) {
        let Some(blob) = Blob::decode(blob) else {
            return;
        };
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            let _ = self.pool.run(|session, _| {
                let handle = object::handle(session, class, &blob.id)?;
                Ok(session.destroy_object(handle)?)
            });
        }
    }

    fn destroy_secret(&self, blob: &[u8]) {
        let Some(blob) = secret::Blob::decode(blob) else {
            return;
        };
        // What fails here is left behind, for its owner to find by its label.
        let _ = self.pool.run(|session, _| {
            let handle = object::handle(session, ObjectClass::SECRET_KEY, &blob.id)?;
            Ok(session.destroy_object(handle)?)
        });
    }
}
