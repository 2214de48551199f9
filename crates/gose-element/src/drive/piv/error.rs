//! Why an operation of PIV came to nothing, by blame.

use gose_proto::apdu::StatusWord;

use super::Slot;
use crate::ElementError;

/// Why an operation of PIV came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PivError {
    /// No answer came from the element.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// The element has no PIV application.
    #[error("the element has no PIV application")]
    NoApplication,
    /// The card compared and found another PIN or PUK.
    #[error("wrong PIN, {tries} tries left")]
    WrongPin {
        /// Tries left.
        tries: u8,
    },
    /// No try is left.
    #[error("the PIN is blocked; unblock it with the PUK")]
    PinBlocked,
    /// Not six to eight digits (PIN) or eight bytes (PUK).
    #[error("a PIN has six to eight digits, a PUK eight characters")]
    PinForm,
    /// The card wants a PIN or the management key first.
    #[error("{0} needs the PIN or the management key, and neither was shown")]
    NotAuthenticated(&'static str),
    /// The element was never initialised (no management key).
    #[error("the element refuses {0} in its state; initialise it with `gose element init`")]
    Conditions(&'static str),
    /// The slot holds no key.
    #[error("slot {0} holds no key; make one with `gose key generate`")]
    NoKey(Slot),
    /// The card has no attestation key.
    #[error("the element has no attestation key; make one with `gose key generate SEID F9`")]
    NoAttestationKey,
    /// The key came from outside, so the card cannot say that nobody else has it.
    #[error("the key in slot {0} was not made in the element, which attests its own keys alone")]
    NotGenerated(Slot),
    /// The container is empty.
    #[error("the element holds no object {0:06X}")]
    NoObject(u32),
    /// The management key is another one.
    #[error("the element has another management key")]
    WrongManagementKey,
    /// The element does not know the management key that it should know.
    #[error("the element failed to prove that it knows the management key; do not trust it")]
    Impostor,
    /// The key in the slot cannot do this.
    #[error("the key in slot {0} has another algorithm")]
    Algorithm(Slot),
    /// Any other refusal.
    #[error("{what} was refused: {sw} ({})", sw.meaning())]
    Refused {
        /// The command.
        what: &'static str,
        /// The card's status word.
        sw: StatusWord,
    },
    /// The answer is not what the standard says.
    #[error("the element's answer is malformed: {0}")]
    Malformed(&'static str),
    /// AWS-LC failed, or the system gives no randomness.
    #[error("the host's cryptography failed")]
    Host,
}

impl PivError {
    /// The error of a status word other than `9000`.
    pub(super) fn refused(what: &'static str, sw: StatusWord) -> Self {
        match sw {
            StatusWord::SECURITY_STATUS_NOT_SATISFIED => Self::NotAuthenticated(what),
            StatusWord::CONDITIONS_NOT_SATISFIED => Self::Conditions(what),
            StatusWord::AUTHENTICATION_METHOD_BLOCKED => Self::PinBlocked,
            sw => Self::Refused { what, sw },
        }
    }

    /// The error of a status word that a comparison of a PIN or PUK came to.
    pub(super) fn of_pin(what: &'static str, sw: StatusWord) -> Self {
        match sw.tries() {
            Some(tries) => Self::WrongPin { tries },
            None => Self::refused(what, sw),
        }
    }
}
