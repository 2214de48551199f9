//! Secret keys: made, taken in, used.

use std::{fmt, str::FromStr};

use gose_proto::apdu::{
    Command, StatusWord,
    tlv::{self, Tlv},
};
use zeroize::Zeroizing;

use super::{Storage, StorageError};
use crate::SecretAlgorithm;

/// The number of a secret key: 01 to 7F (PIV's slots are above).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyReference(u8);

/// Why a number or text names no secret key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret key has a number from 01 to 7F")]
pub struct KeyReferenceError;

impl KeyReference {
    /// The number.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for KeyReference {
    type Error = KeyReferenceError;

    fn try_from(id: u8) -> Result<Self, KeyReferenceError> {
        match id {
            0x01..=0x7F => Ok(Self(id)),
            _ => Err(KeyReferenceError),
        }
    }
}

impl FromStr for KeyReference {
    type Err = KeyReferenceError;

    fn from_str(text: &str) -> Result<Self, KeyReferenceError> {
        let id = u8::from_str_radix(text, 16).map_err(|_| KeyReferenceError)?;
        id.try_into()
    }
}

impl fmt::Display for KeyReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", self.0)
    }
}

/// A secret key to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewKey<'a> {
    /// Its number.
    pub reference: KeyReference,
    /// Its algorithm, which is its use.
    pub algorithm: SecretAlgorithm,
    /// Whether it may leave, wrapped by another key.
    pub wrappable: bool,
    /// What people call it: at most 32 bytes.
    pub label: &'a str,
}

/// How a secret key came into the element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Made in the element.
    Generated,
    /// Given by the administrator.
    Imported,
    /// Unwrapped by another key of the element.
    Unwrapped,
}

/// What an element tells of a secret key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeyInfo {
    /// Its number.
    pub reference: KeyReference,
    /// Its algorithm, which is its use.
    pub algorithm: SecretAlgorithm,
    /// Whether it may leave, wrapped by another key.
    pub wrappable: bool,
    /// How it came into the element.
    pub origin: Origin,
    /// What people call it.
    pub label: String,
}

impl NewKey<'_> {
    /// The data objects of the key beside its number.
    fn attributes(&self) -> Vec<u8> {
        let mut out = tlv::object(0x80, &[self.algorithm.id()]);
        tlv::write(&mut out, 0x81, &[u8::from(self.wrappable)]);
        if !self.label.is_empty() {
            tlv::write(&mut out, 0x84, self.label.as_bytes());
        }
        out
    }

    fn attributes_with_reference(&self) -> Vec<u8> {
        let mut out = tlv::object(0x83, &[self.reference.id()]);
        out.extend(self.attributes());
        out
    }
}

impl Storage<'_> {
    /// Makes a secret key. Needs [`Storage::authenticate_management`].
    ///
    /// # Errors
    /// [`StorageError::KeyExists`], [`StorageError::Quota`], [`StorageError::Unsupported`].
    pub fn generate(&mut self, new: &NewKey<'_>) -> Result<(), StorageError> {
        let command = Command::new(0x00, 0x47, 0x00, new.reference.id())
            .with_data(tlv::object(0xAC, &new.attributes()));
        self.on_key("GENERATE SECRET KEY", &[command], new.reference)
            .map(drop)
    }

    /// Gives the element a secret key. Needs [`Storage::authenticate_management`].
    ///
    /// # Errors
    /// As [`Storage::generate`].
    pub fn import(&mut self, new: &NewKey<'_>, key: &[u8]) -> Result<(), StorageError> {
        let mut template = Zeroizing::new(new.attributes_with_reference());
        tlv::write(&mut template, 0x87, key);
        let data = Zeroizing::new(tlv::object(0xB8, &template));
        let command = Command::new(0x00, 0xDB, 0x3F, 0xFF).with_data(data.as_slice());
        self.on_key("PUT DATA", &[command], new.reference).map(drop)
    }

    /// Deletes a secret key. Needs [`Storage::authenticate_management`].
    ///
    /// # Errors
    /// [`StorageError::NoKey`].
    pub fn delete_key(&mut self, key: KeyReference) -> Result<(), StorageError> {
        let command = Command::new(0x00, 0xE4, 0x00, key.id());
        self.on_key("DELETE KEY", &[command], key).map(drop)
    }

    /// All secret keys. Needs the PIN or the management key.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn keys(&mut self) -> Result<Vec<SecretKeyInfo>, StorageError> {
        listed(&self.normal("GET DATA", &[list()])?)
    }

    /// Encrypts and authenticates up to 16,000 bytes, and authenticates `associated` with them: the cryptogram. One
    /// round trip, the PIN included.
    ///
    /// # Errors
    /// [`StorageError::NoKey`], [`StorageError::Conditions`] for a key of another use.
    pub fn encipher(
        &mut self,
        key: KeyReference,
        associated: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, StorageError> {
        let commands = [
            set_key(0xB8, key, associated),
            Command::new(0x00, 0x2A, 0x86, 0x80)
                .with_data(plaintext)
                .with_ne(256),
        ];
        self.on_key("ENCIPHER", &commands, key)
    }

    /// Opens a cryptogram.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] where it, or `associated`, is another one; else as [`Storage::encipher`].
    pub fn decipher(
        &mut self,
        key: KeyReference,
        associated: &[u8],
        cryptogram: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        let commands = [
            set_key(0xB8, key, associated),
            Command::new(0x00, 0x2A, 0x80, 0x86)
                .with_data(cryptogram)
                .with_ne(256),
        ];
        self.on_key("DECIPHER", &commands, key)
            .map(Zeroizing::new)
            .map_err(mismatch)
    }

    /// HMAC-SHA-256 over up to 16,000 bytes.
    ///
    /// # Errors
    /// As [`Storage::encipher`].
    pub fn mac(&mut self, key: KeyReference, message: &[u8]) -> Result<Vec<u8>, StorageError> {
        let commands = [
            set_key(0xB4, key, &[]),
            Command::new(0x00, 0x2A, 0x8E, 0x80)
                .with_data(message)
                .with_ne(256),
        ];
        self.on_key("COMPUTE CRYPTOGRAPHIC CHECKSUM", &commands, key)
    }

    /// Whether `mac` is the HMAC-SHA-256 of a message; the element compares.
    ///
    /// # Errors
    /// As [`Storage::encipher`].
    pub fn verify_mac(
        &mut self,
        key: KeyReference,
        message: &[u8],
        mac: &[u8],
    ) -> Result<bool, StorageError> {
        let mut data = tlv::object(0x80, message);
        tlv::write(&mut data, 0x8E, mac);
        let commands = [
            set_key(0xB4, key, &[]),
            Command::new(0x00, 0x2A, 0x00, 0xA2).with_data(data),
        ];
        let outcome = self.last(&commands)?;
        match outcome.sw {
            StatusWord::NORMAL => Ok(true),
            StatusWord::NO_INFORMATION => Ok(false),
            sw => Err(StorageError::of_key(
                "VERIFY CRYPTOGRAPHIC CHECKSUM",
                sw,
                key,
            )),
        }
    }

    /// The key `what`, wrapped by the key `by` (RFC 3394).
    ///
    /// # Errors
    /// [`StorageError::Conditions`] where `by` does not wrap or `what` must not leave.
    pub fn wrap(&mut self, by: KeyReference, what: KeyReference) -> Result<Vec<u8>, StorageError> {
        let commands = [
            set_key(0xB8, by, &[]),
            Command::new(0x00, 0x2A, 0x86, 0x83)
                .with_data([what.id()])
                .with_ne(256),
        ];
        self.on_key("WRAP", &commands, what)
    }

    /// Takes in a key that `by` wrapped; it may come in place of another unwrapped key.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] where `by` did not wrap it; else as [`Storage::generate`].
    pub fn unwrap(
        &mut self,
        by: KeyReference,
        new: &NewKey<'_>,
        wrapped: &[u8],
    ) -> Result<(), StorageError> {
        let mut data = new.attributes_with_reference();
        tlv::write(&mut data, 0x86, wrapped);
        let commands = [
            set_key(0xB8, by, &[]),
            Command::new(0x00, 0x2A, 0x83, 0xB8).with_data(data),
        ];
        self.on_key("UNWRAP", &commands, new.reference)
            .map(drop)
            .map_err(mismatch)
    }

    fn on_key(
        &mut self,
        what: &'static str,
        commands: &[Command],
        key: KeyReference,
    ) -> Result<Vec<u8>, StorageError> {
        let outcome = self.last(commands)?;
        match outcome.sw {
            StatusWord::NORMAL => Ok(outcome.body),
            sw => Err(StorageError::of_key(what, sw, key)),
        }
    }
}

/// GET DATA, the list of keys.
pub(super) fn list() -> Command {
    Command::new(0x00, 0xCB, 0x3F, 0xFF)
        .with_data([0x5C, 0x01, 0xB8])
        .with_ne(256)
}

/// The keys in its answer.
pub(super) fn listed(body: &[u8]) -> Result<Vec<SecretKeyInfo>, StorageError> {
    tlv::Reader::new(body)
        .map(|object| object.ok().and_then(|object| info(&object)))
        .collect::<Option<_>>()
        .ok_or(StorageError::Malformed("list of secret keys"))
}

/// MANAGE SECURITY ENVIRONMENT, SET, for both directions.
fn set_key(template: u8, key: KeyReference, associated: &[u8]) -> Command {
    let mut data = tlv::object(0x83, &[key.id()]);
    if !associated.is_empty() {
        tlv::write(&mut data, 0x87, associated);
    }
    Command::new(0x00, 0x22, 0xC1, template).with_data(data)
}

fn mismatch(error: StorageError) -> StorageError {
    match error {
        StorageError::Refused {
            sw: StatusWord::INCORRECT_DATA,
            ..
        } => StorageError::Mismatch,
        error => error,
    }
}

fn info(object: &Tlv<'_>) -> Option<SecretKeyInfo> {
    let field = |tag| tlv::find(object.value, tag);
    let byte = |tag| field(tag)?.first().copied();
    Some(SecretKeyInfo {
        reference: byte(0x83)?.try_into().ok()?,
        algorithm: SecretAlgorithm::from_id(byte(0x80)?)?,
        wrappable: byte(0x81)? == 1,
        origin: match byte(0x82)? {
            1 => Origin::Generated,
            2 => Origin::Imported,
            3 => Origin::Unwrapped,
            _ => return None,
        },
        label: String::from_utf8(field(0x84)?.to_vec()).ok()?,
    })
}
