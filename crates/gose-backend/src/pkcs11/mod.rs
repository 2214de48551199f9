//! Keys in an HSM, by its PKCS#11 module (OASIS PKCS#11 v2.40 and later).
//!
//! Keys are made on the token, never extractable; the card keeps their CKA_ID and public key. Sessions are kept
//! in a pool; when the token was removed, or its module forgot the sessions, everything is found anew.

mod key;
mod module;
mod pool;

use std::{path::PathBuf, sync::Arc};

use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use gose_card::keystore::{Algorithm, KeyError, KeyStore, PrivateKey, Stored};
use gose_element::drive::piv::public_key_info;
use gose_proto::{apdu::tlv, pkcs11::Uri};
use zeroize::Zeroizing;

use self::{
    key::{Blob, HsmKey},
    pool::Pool,
};

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
            let template = [
                Attribute::Class(ObjectClass::PUBLIC_KEY),
                Attribute::Id(id.to_vec()),
            ];
            let handle = *session
                .find_objects(&template)?
                .first()
                .ok_or(HsmError::NoKey)?;
            public_key(session, handle)
        })?;
        self.stored(algorithm, id.to_vec(), public)
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

impl KeyStore for Pkcs11KeyStore {
    fn generate(&self, algorithm: Algorithm) -> Result<Stored, KeyError> {
        let mut id = vec![0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| KeyError::Store("no randomness".into()))?;
        let (mechanism, public, private) =
            templates(algorithm, &id).ok_or(KeyError::Unsupported)?;
        let info = self.pool.run(|session, _| {
            let (handle, _) = session.generate_key_pair(&mechanism, &public, &private)?;
            public_key(session, handle)
        })?;
        Ok(self.stored(algorithm, id, info.1)?)
    }

    /// Keys of an HSM are born in it.
    fn import(&self, _pkcs8: &[u8]) -> Result<Stored, KeyError> {
        Err(KeyError::Unsupported)
    }

    /// By its CKA_ID: for instance the key of a card that OpenSC knows.
    fn adopt(&self, id: &[u8]) -> Result<Stored, KeyError> {
        Ok(self.take_up(id)?)
    }

    fn open(&self, blob: &[u8]) -> Result<Arc<dyn PrivateKey>, KeyError> {
        let blob = Blob::decode(blob).ok_or(KeyError::Input)?;
        Ok(Arc::new(HsmKey::new(self.pool.clone(), blob)))
    }
}

/// OBJECT IDENTIFIERs of the curves (CKA_EC_PARAMS).
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2B, 0x81, 0x04, 0x00, 0x22];

type Templates = (Mechanism<'static>, Vec<Attribute>, Vec<Attribute>);

fn templates(algorithm: Algorithm, id: &[u8]) -> Option<Templates> {
    let label = format!("GoSE {}", gose_proto::hex::encode(id));
    let named = [
        Attribute::Token(true),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.into()),
    ];
    let mut public = named.to_vec();
    let mut private = named.to_vec();
    public.extend([Attribute::Private(false), Attribute::Verify(true)]);
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    let mechanism = match algorithm {
        Algorithm::P256 | Algorithm::P384 => {
            let curve = if algorithm == Algorithm::P256 {
                P256
            } else {
                P384
            };
            public.push(Attribute::EcParams(curve.to_vec()));
            private.push(Attribute::Derive(true));
            Mechanism::EccKeyPairGen
        }
        Algorithm::Rsa2048 | Algorithm::Rsa3072 => {
            let bits = if algorithm == Algorithm::Rsa2048 {
                2048_u64
            } else {
                3072
            };
            public.push(Attribute::ModulusBits(bits.into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            private.push(Attribute::Decrypt(true));
            Mechanism::RsaPkcsKeyPairGen
        }
        _ => return None,
    };
    Some((mechanism, public, private))
}

/// Algorithm and SubjectPublicKeyInfo of a public key object.
fn public_key(session: &Session, handle: ObjectHandle) -> Result<(Algorithm, Vec<u8>), HsmError> {
    use AttributeType as Kind;
    let wanted = [
        Kind::KeyType,
        Kind::EcParams,
        Kind::EcPoint,
        Kind::Modulus,
        Kind::PublicExponent,
    ];
    let (mut kind, mut curve, mut point, mut modulus, mut exponent) =
        (None, Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for attribute in session.get_attributes(handle, &wanted)? {
        match attribute {
            Attribute::KeyType(value) => kind = Some(value),
            Attribute::EcParams(value) => curve = value,
            Attribute::EcPoint(value) => point = value,
            Attribute::Modulus(value) => modulus = value,
            Attribute::PublicExponent(value) => exponent = value,
            _ => {}
        }
    }
    let (algorithm, template) = match kind {
        Some(KeyType::EC) => {
            let algorithm = match curve.as_slice() {
                P256 => Algorithm::P256,
                P384 => Algorithm::P384,
                _ => return Err(HsmError::Unsupported),
            };
            // An OCTET STRING around the point, as the standard wants and not all modules do.
            let bare = tlv::find(&point, 0x04)
                .filter(|_| point.len() % 2 == 1 && point.get(2) == Some(&0x04));
            (algorithm, tlv::object(0x86, bare.unwrap_or(&point)))
        }
        Some(KeyType::RSA) => {
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            let modulus = modulus.get(zeros..).unwrap_or_default();
            let algorithm = match modulus.len() {
                256 => Algorithm::Rsa2048,
                384 => Algorithm::Rsa3072,
                _ => return Err(HsmError::Unsupported),
            };
            let mut template = tlv::object(0x81, modulus);
            tlv::write(&mut template, 0x82, &exponent);
            (algorithm, template)
        }
        _ => return Err(HsmError::Unsupported),
    };
    let info = public_key_info(algorithm, &template).ok_or(HsmError::Unsupported)?;
    Ok((algorithm, info))
}
