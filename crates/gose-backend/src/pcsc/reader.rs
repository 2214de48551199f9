//! Which reader a slot means.

use std::{ffi::CString, fmt, time::Duration};

use gose_element::ElementError;
use gose_proto::hex;
use regex_lite::Regex;

use super::{
    blame,
    library::{Context, Failure, ReaderState},
};

/// How a slot names its reader; the first reader in pcscd's order that fits is taken.
#[derive(Clone)]
pub enum Selector {
    /// A regular expression that occurs in the reader's name.
    Name(Regex),
    /// The reader's serial number, as its driver tells it or as it stands in the name in parentheses.
    Serial(String),
    /// A regular expression that occurs in the hexadecimal digits (upper case) of the card's ATR.
    Atr(Regex),
}

/// Text is not a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a regular expression: {1}")]
pub struct SelectorError(String, String);

impl Selector {
    /// The reader whose name contains a match of this regular expression.
    ///
    /// # Errors
    /// [`SelectorError`] for anything else.
    pub fn name(pattern: &str) -> Result<Self, SelectorError> {
        regex(pattern).map(Self::Name)
    }

    /// The reader whose card's ATR, in upper case hexadecimal, contains a match.
    ///
    /// # Errors
    /// [`SelectorError`] for anything else.
    pub fn atr(pattern: &str) -> Result<Self, SelectorError> {
        regex(pattern).map(Self::Atr)
    }

    /// The reader that is meant, or [`ElementError::Absent`].
    pub(super) fn find(&self, context: &Context) -> Result<CString, ElementError> {
        let readers = context.readers().map_err(blame)?;
        match self {
            Self::Name(pattern) => readers
                .into_iter()
                .find(|reader| pattern.is_match(&reader.to_string_lossy())),
            Self::Serial(serial) => readers
                .into_iter()
                .find(|reader| has_serial(context, reader, serial)),
            Self::Atr(pattern) => states(context, readers)
                .map_err(blame)?
                .into_iter()
                .find(|state| state.present() && pattern.is_match(&hex::encode(&state.atr)))
                .map(|state| state.name),
        }
        .ok_or(ElementError::Absent)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => write!(f, "reader /{pattern}/"),
            Self::Serial(serial) => write!(f, "reader with serial number {serial}"),
            Self::Atr(pattern) => write!(f, "reader of a card with ATR /{pattern}/"),
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, SelectorError> {
    Regex::new(pattern).map_err(|error| SelectorError(pattern.into(), error.to_string()))
}

fn has_serial(context: &Context, reader: &CString, serial: &str) -> bool {
    // The name tells without a connection, which another process may make impossible.
    reader.to_string_lossy().contains(&format!("({serial})"))
        || context
            .connect_reader(reader)
            .ok()
            .and_then(|link| link.serial())
            .is_some_and(|told| told == serial)
}

/// What the readers hold now.
pub(super) fn states(
    context: &Context,
    readers: Vec<CString>,
) -> Result<Vec<ReaderState>, Failure> {
    let mut states: Vec<ReaderState> = readers.into_iter().map(ReaderState::unknown).collect();
    match context.status_change(&mut states, Duration::ZERO) {
        Ok(()) | Err(Failure::TIMEOUT) => Ok(states),
        Err(failure) => Err(failure),
    }
}
