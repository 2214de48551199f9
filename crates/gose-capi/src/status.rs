//! `gose_status`: one value a cause.

use gose_client::{Error, middleware::MiddlewareError};
use gose_element::ElementError;

/// `gose_status` of gose.h, which says what each one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) enum Status {
    Ok = 0,
    InvalidArgument = 1,
    BufferTooSmall = 2,
    Configuration = 3,
    NoReader = 4,
    Unreachable = 5,
    Refused = 6,
    InUse = 7,
    Absent = 8,
    Mute = 9,
    OutcomeUnknown = 10,
    Protocol = 11,
    PinWrong = 12,
    PinBlocked = 13,
    Card = 14,
    Discarded = 15,
    Message = 16,
    Element = 17,
    Internal = 18,
}

impl Status {
    /// All of them, with their names in gose.h.
    #[cfg(test)]
    const ALL: [(Self, &'static str); 19] = [
        (Self::Ok, "GOSE_OK"),
        (Self::InvalidArgument, "GOSE_INVALID_ARGUMENT"),
        (Self::BufferTooSmall, "GOSE_BUFFER_TOO_SMALL"),
        (Self::Configuration, "GOSE_CONFIGURATION"),
        (Self::NoReader, "GOSE_NO_READER"),
        (Self::Unreachable, "GOSE_UNREACHABLE"),
        (Self::Refused, "GOSE_REFUSED"),
        (Self::InUse, "GOSE_IN_USE"),
        (Self::Absent, "GOSE_ABSENT"),
        (Self::Mute, "GOSE_MUTE"),
        (Self::OutcomeUnknown, "GOSE_OUTCOME_UNKNOWN"),
        (Self::Protocol, "GOSE_PROTOCOL"),
        (Self::PinWrong, "GOSE_PIN_WRONG"),
        (Self::PinBlocked, "GOSE_PIN_BLOCKED"),
        (Self::Card, "GOSE_CARD"),
        (Self::Discarded, "GOSE_DISCARDED"),
        (Self::Message, "GOSE_MESSAGE"),
        (Self::Element, "GOSE_ELEMENT"),
        (Self::Internal, "GOSE_INTERNAL"),
    ];
}

impl From<&MiddlewareError> for Status {
    fn from(error: &MiddlewareError) -> Self {
        match error {
            MiddlewareError::Index => Self::NoReader,
            MiddlewareError::Node(error) => error.into(),
            MiddlewareError::Element(error) => error.into(),
            MiddlewareError::Protocol => Self::Protocol,
            MiddlewareError::Pin(_) => Self::PinWrong,
            MiddlewareError::PinBlocked => Self::PinBlocked,
            MiddlewareError::Card { .. } => Self::Card,
            MiddlewareError::Discarded => Self::Discarded,
            MiddlewareError::Message => Self::Message,
            _ => Self::Internal,
        }
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error {
            error if error.is_local() => Self::Configuration,
            Error::Refused(_) => Self::Refused,
            error if error.is_outcome_unknown() => Self::OutcomeUnknown,
            _ => Self::Unreachable,
        }
    }
}

impl From<&ElementError> for Status {
    fn from(error: &ElementError) -> Self {
        match error {
            ElementError::Absent => Self::Absent,
            ElementError::Mute | ElementError::Timeout(_) => Self::Mute,
            ElementError::Transport(_) => Self::Unreachable,
            ElementError::OutcomeUnknown => Self::OutcomeUnknown,
            ElementError::Refused => Self::Refused,
            ElementError::InUse => Self::InUse,
            ElementError::Malformed(_) => Self::InvalidArgument,
            ElementError::AnswerTooLong | ElementError::Storage(_) => Self::Element,
        }
    }
}

#[cfg(test)]
mod tests {
    use gose_proto::apdu::StatusWord;

    use super::*;

    const HEADER: &str = include_str!("../include/gose.h");

    #[test]
    fn the_header_has_every_value() {
        for (status, name) in Status::ALL {
            let line = format!("{name} = {},", status as i32);
            assert!(HEADER.contains(&line), "{line}");
        }
        let values = HEADER
            .lines()
            .filter(|line| line.trim_start().starts_with("GOSE_") && line.contains(" = "));
        assert_eq!(values.count(), Status::ALL.len());
    }

    #[test]
    fn the_header_has_every_function_and_no_other() {
        let source = include_str!("ffi/mod.rs");
        let own: Vec<&str> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("fn "))
            .filter_map(|line| line.split_once('('))
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("gose_") || name.starts_with("SCard_"))
            .collect();
        assert_eq!(own.len(), 13, "{own:?}");
        for name in &own {
            assert_eq!(HEADER.matches(&format!("{name}(")).count(), 1, "{name}");
        }
        let declared = HEADER.matches("GOSE_API").count() - 1;
        assert_eq!(declared, own.len());
    }

    #[test]
    fn every_cause_has_a_value() {
        let check =
            |error: MiddlewareError, status| assert_eq!(Status::from(&error), status, "{error}");
        check(MiddlewareError::Index, Status::NoReader);
        check(MiddlewareError::Protocol, Status::Protocol);
        check(MiddlewareError::Pin(2), Status::PinWrong);
        check(MiddlewareError::PinBlocked, Status::PinBlocked);
        check(
            MiddlewareError::Card {
                sw: StatusWord::FILE_NOT_FOUND,
            },
            Status::Card,
        );
        check(MiddlewareError::Discarded, Status::Discarded);
        check(MiddlewareError::Message, Status::Message);
        check(Error::Config("x".into()).into(), Status::Configuration);
        check(Error::Closed.into(), Status::Unreachable);
        check(Error::Timeout(1).into(), Status::OutcomeUnknown);
        for (error, status) in [
            (ElementError::Absent, Status::Absent),
            (ElementError::Mute, Status::Mute),
            (ElementError::Timeout(1), Status::Mute),
            (ElementError::Transport("x".into()), Status::Unreachable),
            (ElementError::OutcomeUnknown, Status::OutcomeUnknown),
            (ElementError::AnswerTooLong, Status::Element),
            (ElementError::Malformed("x".into()), Status::InvalidArgument),
            (ElementError::Refused, Status::Refused),
            (ElementError::InUse, Status::InUse),
            (ElementError::Storage("x".into()), Status::Element),
        ] {
            check(error.into(), status);
        }
    }
}
