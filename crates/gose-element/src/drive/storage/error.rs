//! Why an operation of the storage application came to nothing, by blame.

use gose_proto::apdu::StatusWord;

use super::KeyReference;
use crate::{ElementError, drive::piv::PivError};

/// Why an operation of the storage application came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No answer came from the element.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// The element has no storage application.
    #[error("the element has no storage application")]
    NoApplication,
    /// The card compared and found another PIN.
    #[error("wrong PIN, {tries} tries left")]
    WrongPin {
        /// Tries left.
        tries: u8,
    },
    /// No try is left.
    #[error("the PIN is blocked; unblock it with the PUK of PIV")]
    PinBlocked,
    /// Not six to eight digits.
    #[error("a PIN has six to eight digits")]
    PinForm,
    /// The card wants the PIN or the management key first.
    #[error("{0} needs the PIN or the management key, and the right one was not shown")]
    NotAuthenticated(&'static str),
    /// The state of the element or the use of the key forbids it.
    #[error(
        "the element refuses {0}: the key has another use, must not leave, or is used up; or the element is not initialised"
    )]
    Conditions(&'static str),
    /// The management key is another one.
    #[error("the element has another management key")]
    WrongManagementKey,
    /// The element does not know the management key that it should know.
    #[error("the element failed to prove that it knows the management key; do not trust it")]
    Impostor,
    /// There is no such key.
    #[error("the element holds no secret key {0}; make one with `gose key generate`")]
    NoKey(KeyReference),
    /// There is a key already.
    #[error(
        "the element holds a secret key {0} already; delete it first, what it encrypted is lost then"
    )]
    KeyExists(KeyReference),
    /// There is no such object.
    #[error("the element holds no data object {0:02X}")]
    NoObject(u8),
    /// There is an object already.
    #[error("the element holds a data object {0:02X} already")]
    ObjectExists(u8),
    /// A quota is used up.
    #[error(
        "no room for it: the element's quota of keys, objects or bytes is used up; delete some first"
    )]
    Quota,
    /// The cryptogram or the wrapped key is not this key's, or was changed.
    #[error("the key did not make this, or it was changed since")]
    Mismatch,
    /// The element's key store has no such keys.
    #[error("the key store of this element cannot do that")]
    Unsupported,
    /// Any other refusal.
    #[error("{what} was refused: {sw} ({})", sw.meaning())]
    Refused {
        /// The command.
        what: &'static str,
        /// The card's status word.
        sw: StatusWord,
    },
    /// The answer is not what the protocol says.
    #[error("the element's answer is malformed: {0}")]
    Malformed(&'static str),
    /// The host's cryptography failed.
    #[error("the host's cryptography failed")]
    Host,
}

impl StorageError {
    /// The error of a status word other than `9000`.
    pub(super) fn refused(what: &'static str, sw: StatusWord) -> Self {
        match sw {
            StatusWord::SECURITY_STATUS_NOT_SATISFIED => Self::NotAuthenticated(what),
            StatusWord::CONDITIONS_NOT_SATISFIED => Self::Conditions(what),
            StatusWord::AUTHENTICATION_METHOD_BLOCKED => Self::PinBlocked,
            StatusWord::NOT_ENOUGH_MEMORY => Self::Quota,
            StatusWord::FUNCTION_NOT_SUPPORTED => Self::Unsupported,
            sw => Self::Refused { what, sw },
        }
    }

    /// The error of a status word that the comparison of the PIN came to.
    pub(super) fn of_pin(sw: StatusWord) -> Self {
        match sw.tries() {
            Some(tries) => Self::WrongPin { tries },
            None => Self::refused("VERIFY", sw),
        }
    }

    /// The error of a status word about a key.
    pub(super) fn of_key(what: &'static str, sw: StatusWord, key: KeyReference) -> Self {
        match sw {
            StatusWord::REFERENCED_DATA_NOT_FOUND => Self::NoKey(key),
            StatusWord::FILE_ALREADY_EXISTS => Self::KeyExists(key),
            sw => Self::refused(what, sw),
        }
    }

    /// The error of a status word about an object.
    pub(super) fn of_object(what: &'static str, sw: StatusWord, id: u8) -> Self {
        match sw {
            StatusWord::REFERENCED_DATA_NOT_FOUND => Self::NoObject(id),
            StatusWord::FILE_ALREADY_EXISTS => Self::ObjectExists(id),
            sw => Self::refused(what, sw),
        }
    }
}

/// Of the management key, which both applications share.
impl From<PivError> for StorageError {
    fn from(error: PivError) -> Self {
        match error {
            PivError::Impostor => Self::Impostor,
            PivError::Malformed(what) => Self::Malformed(what),
            _ => Self::Host,
        }
    }
}
