//! Why a command failed, by blame: the exit code says whose.

use gose_client::pki::PkiError;
use gose_element::{
    ElementError,
    drive::{eap_tls, piv::PivError, provision::ProvisionError, storage::StorageError},
};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Usage, files, configuration: exit code 1.
    #[error("{0}")]
    Local(String),
    /// The node or the element: exit code 2.
    #[error("{0}")]
    Remote(String),
}

impl Failure {
    pub(crate) fn local(text: impl Into<String>) -> Self {
        Self::Local(text.into())
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Local(_) => 1,
            Self::Remote(_) => 2,
        }
    }
}

impl From<gose_client::Error> for Failure {
    fn from(error: gose_client::Error) -> Self {
        if error.is_local() {
            Self::Local(error.to_string())
        } else {
            Self::Remote(error.to_string())
        }
    }
}

impl From<ElementError> for Failure {
    fn from(error: ElementError) -> Self {
        Self::Remote(error.to_string())
    }
}

impl From<PivError> for Failure {
    fn from(error: PivError) -> Self {
        match error {
            PivError::PinForm | PivError::Host => Self::Local(error.to_string()),
            error => Self::Remote(error.to_string()),
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::PinForm | StorageError::Host => Self::Local(error.to_string()),
            error => Self::Remote(error.to_string()),
        }
    }
}

impl From<eap_tls::Error> for Failure {
    fn from(error: eap_tls::Error) -> Self {
        match error {
            eap_tls::Error::TooLong(_) => Self::Local(error.to_string()),
            error => Self::Remote(error.to_string()),
        }
    }
}

impl From<ProvisionError> for Failure {
    fn from(error: ProvisionError) -> Self {
        match error {
            ProvisionError::Randomness => Self::Local(error.to_string()),
            error => Self::Remote(error.to_string()),
        }
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        match error {
            PkiError::Element(error) => error.into(),
            error => Self::Local(error.to_string()),
        }
    }
}
