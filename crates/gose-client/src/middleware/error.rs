//! Why a remote reader did not do what it was asked, by blame.

use gose_element::{ElementError, Outcomes};
use gose_proto::apdu::StatusWord;

use crate::Error;

/// Why a remote reader did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MiddlewareError {
    /// No reader has this index in the last list.
    #[error("no reader has this index; list them first")]
    Index,
    /// The node did not answer, or the configuration is wrong.
    #[error(transparent)]
    Node(#[from] Error),
    /// The element gave no answer.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// The element's answer to reset names other protocols.
    #[error("the element does not speak this protocol; ask for any")]
    Protocol,
    /// The PIN is wrong.
    #[error("wrong PIN, {0} tries left")]
    Pin(u8),
    /// No try is left.
    #[error("the PIN is blocked; unblock it with the operator's")]
    PinBlocked,
    /// The element refused a command.
    #[error("the element refuses: {sw} ({})", sw.meaning())]
    Card {
        /// Its status word.
        sw: StatusWord,
    },
    /// The element discarded the packet: it does not belong to the conversation.
    #[error("the element discards the packet; it belongs to no conversation")]
    Discarded,
    /// It is no EAP packet, or its fragments contradict each other.
    #[error("malformed EAP packet or exported value")]
    Message,
}

impl MiddlewareError {
    /// Why a script stopped.
    pub(super) fn of(outcomes: &Outcomes) -> Self {
        if let Some(error) = &outcomes.failed {
            return error.clone().into();
        }
        match outcomes.last().map(|outcome| outcome.sw) {
            None => Self::Message,
            Some(StatusWord::AUTHENTICATION_METHOD_BLOCKED) => Self::PinBlocked,
            // 63CX, and 630X of the draft's applications.
            Some(sw) if sw.sw1() == 0x63 => Self::Pin(sw.sw2() & 0x0F),
            Some(sw) => Self::Card { sw },
        }
    }
}
