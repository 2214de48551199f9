//! CKR codes: every cause has one, here and nowhere else.

use cryptoki_sys::*;
use gose_element::{
    ElementError,
    drive::{piv::PivError, storage::StorageError},
};
use gose_proto::apdu::StatusWord;

use crate::failure::Failure;

/// A return value other than CKR_OK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rv(pub(crate) CK_RV);

/// What a function comes to.
pub(crate) type Result<T> = std::result::Result<T, Rv>;

impl From<&ElementError> for Rv {
    fn from(error: &ElementError) -> Self {
        Self(match error {
            ElementError::Absent | ElementError::Transport(_) => CKR_DEVICE_REMOVED,
            ElementError::Mute
            | ElementError::Timeout(_)
            | ElementError::OutcomeUnknown
            | ElementError::Storage(_) => CKR_DEVICE_ERROR,
            ElementError::AnswerTooLong => CKR_DEVICE_MEMORY,
            ElementError::Malformed(_) => CKR_GENERAL_ERROR,
            ElementError::Refused => CKR_TOKEN_NOT_PRESENT,
            ElementError::InUse => CKR_TOKEN_RESOURCE_EXCEEDED,
        })
    }
}

impl From<&PivError> for Rv {
    fn from(error: &PivError) -> Self {
        Self(match error {
            PivError::Element(error) => return error.into(),
            PivError::NoApplication => CKR_TOKEN_NOT_RECOGNIZED,
            PivError::WrongPin { .. } | PivError::PinForm => CKR_PIN_INCORRECT,
            PivError::PinBlocked => CKR_PIN_LOCKED,
            PivError::NotAuthenticated(_) => CKR_USER_NOT_LOGGED_IN,
            PivError::Conditions(_) | PivError::WrongManagementKey => CKR_TOKEN_WRITE_PROTECTED,
            PivError::NoKey(_) => CKR_KEY_HANDLE_INVALID,
            PivError::NoObject(_) => CKR_OBJECT_HANDLE_INVALID,
            PivError::Algorithm(_) => CKR_KEY_TYPE_INCONSISTENT,
            PivError::Refused { sw, .. } => match *sw {
                StatusWord::NOT_ENOUGH_MEMORY => CKR_DEVICE_MEMORY,
                StatusWord::INCORRECT_DATA => CKR_DATA_INVALID,
                _ => CKR_DEVICE_ERROR,
            },
            PivError::Host => CKR_FUNCTION_FAILED,
            // An impostor, a malformed answer, and what is not known yet.
            _ => CKR_DEVICE_ERROR,
        })
    }
}

impl From<&StorageError> for Rv {
    fn from(error: &StorageError) -> Self {
        Self(match error {
            StorageError::Element(error) => return error.into(),
            StorageError::NoApplication => CKR_TOKEN_NOT_RECOGNIZED,
            StorageError::WrongPin { .. } | StorageError::PinForm => CKR_PIN_INCORRECT,
            StorageError::PinBlocked => CKR_PIN_LOCKED,
            StorageError::NotAuthenticated(_) => CKR_USER_NOT_LOGGED_IN,
            // The key has another use, or 2^32 encryptions are done.
            StorageError::Conditions(_) => CKR_KEY_FUNCTION_NOT_PERMITTED,
            StorageError::WrongManagementKey => CKR_TOKEN_WRITE_PROTECTED,
            StorageError::NoKey(_) => CKR_KEY_HANDLE_INVALID,
            StorageError::NoObject(_) => CKR_OBJECT_HANDLE_INVALID,
            StorageError::KeyExists(_) | StorageError::ObjectExists(_) | StorageError::Quota => {
                CKR_DEVICE_MEMORY
            }
            StorageError::Mismatch => CKR_ENCRYPTED_DATA_INVALID,
            StorageError::Unsupported => CKR_FUNCTION_NOT_SUPPORTED,
            StorageError::Refused {
                sw: StatusWord::INCORRECT_DATA,
                ..
            } => CKR_DATA_INVALID,
            StorageError::Host => CKR_FUNCTION_FAILED,
            // An impostor, a malformed answer, and what is not known yet.
            _ => CKR_DEVICE_ERROR,
        })
    }
}

impl From<&Failure> for Rv {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Piv(error) => error.into(),
            Failure::Storage(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gose_element::drive::piv::Slot;

    use super::*;

    #[test]
    fn every_cause_has_a_code() {
        let element = [
            (ElementError::Absent, CKR_DEVICE_REMOVED),
            (ElementError::Mute, CKR_DEVICE_ERROR),
            (ElementError::Timeout(60), CKR_DEVICE_ERROR),
            (ElementError::Transport("gone".into()), CKR_DEVICE_REMOVED),
            (ElementError::OutcomeUnknown, CKR_DEVICE_ERROR),
            (ElementError::AnswerTooLong, CKR_DEVICE_MEMORY),
            (ElementError::Malformed("x".into()), CKR_GENERAL_ERROR),
            (ElementError::Refused, CKR_TOKEN_NOT_PRESENT),
            (ElementError::InUse, CKR_TOKEN_RESOURCE_EXCEEDED),
            (ElementError::Storage("full".into()), CKR_DEVICE_ERROR),
        ];
        for (error, code) in element {
            assert_eq!(Rv::from(&error), Rv(code), "{error}");
            assert_eq!(Rv::from(&PivError::from(error)), Rv(code));
        }
        let refused = |sw| PivError::Refused { what: "x", sw };
        let piv = [
            (PivError::NoApplication, CKR_TOKEN_NOT_RECOGNIZED),
            (PivError::WrongPin { tries: 2 }, CKR_PIN_INCORRECT),
            (PivError::PinBlocked, CKR_PIN_LOCKED),
            (PivError::PinForm, CKR_PIN_INCORRECT),
            (PivError::NotAuthenticated("x"), CKR_USER_NOT_LOGGED_IN),
            (PivError::Conditions("x"), CKR_TOKEN_WRITE_PROTECTED),
            (PivError::NoKey(Slot::SIGNATURE), CKR_KEY_HANDLE_INVALID),
            (PivError::NoObject(1), CKR_OBJECT_HANDLE_INVALID),
            (PivError::WrongManagementKey, CKR_TOKEN_WRITE_PROTECTED),
            (PivError::Impostor, CKR_DEVICE_ERROR),
            (
                PivError::Algorithm(Slot::SIGNATURE),
                CKR_KEY_TYPE_INCONSISTENT,
            ),
            (refused(StatusWord::NOT_ENOUGH_MEMORY), CKR_DEVICE_MEMORY),
            (refused(StatusWord::INCORRECT_DATA), CKR_DATA_INVALID),
            (refused(StatusWord::INS_NOT_SUPPORTED), CKR_DEVICE_ERROR),
            (PivError::Malformed("x"), CKR_DEVICE_ERROR),
            (PivError::Host, CKR_FUNCTION_FAILED),
        ];
        for (error, code) in piv {
            assert_eq!(Rv::from(&Failure::from(error)), Rv(code));
        }
        let key = 1.try_into().unwrap();
        let refused = |sw| StorageError::Refused { what: "x", sw };
        let storage = [
            (ElementError::Absent.into(), CKR_DEVICE_REMOVED),
            (StorageError::NoApplication, CKR_TOKEN_NOT_RECOGNIZED),
            (StorageError::WrongPin { tries: 2 }, CKR_PIN_INCORRECT),
            (StorageError::PinForm, CKR_PIN_INCORRECT),
            (StorageError::PinBlocked, CKR_PIN_LOCKED),
            (StorageError::NotAuthenticated("x"), CKR_USER_NOT_LOGGED_IN),
            (
                StorageError::Conditions("x"),
                CKR_KEY_FUNCTION_NOT_PERMITTED,
            ),
            (StorageError::WrongManagementKey, CKR_TOKEN_WRITE_PROTECTED),
            (StorageError::NoKey(key), CKR_KEY_HANDLE_INVALID),
            (StorageError::NoObject(1), CKR_OBJECT_HANDLE_INVALID),
            (StorageError::KeyExists(key), CKR_DEVICE_MEMORY),
            (StorageError::ObjectExists(1), CKR_DEVICE_MEMORY),
            (StorageError::Quota, CKR_DEVICE_MEMORY),
            (StorageError::Mismatch, CKR_ENCRYPTED_DATA_INVALID),
            (StorageError::Unsupported, CKR_FUNCTION_NOT_SUPPORTED),
            (refused(StatusWord::INCORRECT_DATA), CKR_DATA_INVALID),
            (refused(StatusWord::INS_NOT_SUPPORTED), CKR_DEVICE_ERROR),
            (StorageError::Malformed("x"), CKR_DEVICE_ERROR),
            (StorageError::Impostor, CKR_DEVICE_ERROR),
            (StorageError::Host, CKR_FUNCTION_FAILED),
        ];
        for (error, code) in storage {
            assert_eq!(Rv::from(&Failure::from(error)), Rv(code));
        }
    }
}
