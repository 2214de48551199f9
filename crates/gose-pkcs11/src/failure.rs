//! Why an operation of an element came to nothing, of whichever application.

use gose_element::{
    ElementError,
    drive::{piv::PivError, storage::StorageError},
};

/// Why an operation of an element came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Piv(PivError),
    Storage(StorageError),
}

impl Failure {
    /// No answer came from the element.
    pub(crate) fn element(&self) -> Option<&ElementError> {
        match self {
            Self::Piv(PivError::Element(error)) | Self::Storage(StorageError::Element(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// The PIN was wrong: the tries left.
    pub(crate) fn tries(&self) -> Option<u8> {
        match self {
            Self::Piv(PivError::WrongPin { tries })
            | Self::Storage(StorageError::WrongPin { tries }) => Some(*tries),
            Self::Piv(PivError::PinBlocked) | Self::Storage(StorageError::PinBlocked) => Some(0),
            _ => None,
        }
    }

    /// A slip of the user's, which needs no line in a log.
    pub(crate) fn is_slip(&self) -> bool {
        matches!(self.tries(), Some(1..))
            || matches!(
                self,
                Self::Piv(PivError::PinForm) | Self::Storage(StorageError::PinForm)
            )
    }

    /// What an element answers that forgot what it was shown.
    pub(crate) fn forgot(&self) -> bool {
        matches!(
            self,
            Self::Piv(PivError::NotAuthenticated(_) | PivError::Refused { .. })
                | Self::Storage(StorageError::NotAuthenticated(_) | StorageError::Refused { .. })
        )
    }

    /// Whether the element has no storage application, or the grid gives it to others only.
    pub(crate) fn without_storage(&self) -> bool {
        matches!(
            self,
            Self::Storage(
                StorageError::NoApplication | StorageError::Element(ElementError::Refused)
            )
        )
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Piv(error) => error.fmt(f),
            Self::Storage(error) => error.fmt(f),
        }
    }
}

impl From<PivError> for Failure {
    fn from(error: PivError) -> Self {
        Self::Piv(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}
