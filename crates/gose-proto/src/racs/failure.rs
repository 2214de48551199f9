//! Why a server did not do what a well-formed command asks, in fixed sentences.

use super::Class;

/// Why an operation came to nothing. The peer sees a status class and a fixed sentence; the cause
/// belongs to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Unknown SEID, or one that this peer may not use: the same bytes for both.
    Unauthorised,
    /// The policy forbids this APDU or application, or no application was selected yet.
    Forbidden,
    /// Another session holds the element.
    InUse,
    /// The slot is empty.
    Absent,
    /// The element does not answer.
    Mute,
    /// The element did not answer in time.
    Timeout,
    /// The line to the element failed before the command was sent.
    Transport,
    /// The line to the element broke after the command was sent: it may have been executed.
    OutcomeUnknown,
    /// The answer passes 65,536 bytes or 600 fetch rounds.
    AnswerTooLong,
    /// The element cannot be sent a command of this form.
    Unsupported,
    /// The server stops, or cannot do this now.
    Illegal,
    /// The server's own fault.
    Internal,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 12] = [
        Self::Unauthorised,
        Self::Forbidden,
        Self::InUse,
        Self::Absent,
        Self::Mute,
        Self::Timeout,
        Self::Transport,
        Self::OutcomeUnknown,
        Self::AnswerTooLong,
        Self::Unsupported,
        Self::Illegal,
        Self::Internal,
    ];

    /// The status class.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Unauthorised | Self::Forbidden => Class::Unauthorised,
            Self::InUse => Class::InUse,
            Self::Absent
            | Self::Mute
            | Self::Timeout
            | Self::Transport
            | Self::OutcomeUnknown
            | Self::AnswerTooLong => Class::Hardware,
            Self::Unsupported => Class::Value,
            Self::Illegal => Class::Illegal,
            Self::Internal => Class::System,
        }
    }

    /// The sentence that the peer sees.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Unauthorised => "unknown or unauthorised SEID",
            Self::Forbidden => "command not authorised",
            Self::InUse => "in use by another session",
            Self::Absent => "no element in the slot",
            Self::Mute => "the element is mute",
            Self::Timeout => "no answer in time",
            Self::Transport => "line to the element failed",
            Self::OutcomeUnknown => "line broke after the command was sent, outcome unknown",
            Self::AnswerTooLong => "answer too long",
            Self::Unsupported => "command not supported by the element",
            Self::Illegal => "not possible now",
            Self::Internal => "internal error",
        }
    }

    /// The failure that a status line tells: the class decides, the sentence only refines it. Text of
    /// foreign servers gives the plainest failure of the class.
    #[must_use]
    pub fn from_status(class: Class, text: &str) -> Self {
        let told = Self::ALL
            .into_iter()
            .find(|failure| failure.class() == class && failure.sentence() == text.trim());
        told.unwrap_or(match class {
            Class::Unauthorised => Self::Unauthorised,
            Class::InUse => Self::InUse,
            Class::Hardware => Self::Transport,
            Class::Value | Class::Syntax | Class::UnknownCommand | Class::NotImplemented => {
                Self::Unsupported
            }
            Class::Illegal => Self::Illegal,
            Class::System | Class::Execution | Class::Success => Self::Internal,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_read_as_it_is_told() {
        for failure in Failure::ALL {
            assert_eq!(
                Failure::from_status(failure.class(), failure.sentence()),
                failure
            );
        }
        assert_eq!(
            Failure::from_status(Class::Hardware, "execution error"),
            Failure::Transport
        );
        // A class 8 that speaks of a lock is a class 8.
        assert_eq!(
            Failure::from_status(Class::Hardware, Failure::InUse.sentence()),
            Failure::Transport
        );
    }
}
