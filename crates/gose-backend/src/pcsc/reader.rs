//! Which reader a slot means.

use std::{
    ffi::CString,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use gose_element::ElementError;
use gose_proto::hex;
use regex_lite::Regex;

use super::{
    blame,
    library::{Context, Failure, ReaderState},
    serial::CardSerial,
};

/// Places for readers that pcscd has as it is usually built (PCSCLITE_MAX_READERS_CONTEXTS): what is plugged in after
/// them it leaves out without a word.
const PLACES: usize = 16;

/// How a slot names its reader; the first reader in pcscd's order that fits is taken.
#[derive(Clone)]
pub enum Selector {
    /// A regular expression that occurs in the reader's name.
    Name(Regex),
    /// The reader's serial number, as its driver tells it or as it stands in the name in parentheses.
    Serial(String),
    /// A regular expression that occurs in the hexadecimal digits (upper case) of the card's ATR.
    Atr(Regex),
    /// The reader that holds this card, and where it was last: it is looked for there first.
    Card(CardSerial, Arc<Mutex<Option<CString>>>),
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

    /// The reader of exactly this name.
    ///
    /// # Errors
    /// [`SelectorError`] for a name that is too long.
    pub fn exactly(name: &str) -> Result<Self, SelectorError> {
        Self::name(&Self::pattern(name))
    }

    /// A regular expression that means the reader of this name and no other.
    #[must_use]
    pub fn pattern(name: &str) -> String {
        format!("^{}$", regex_lite::escape(name))
    }

    /// The reader whose card's ATR, in upper case hexadecimal, contains a match.
    ///
    /// # Errors
    /// [`SelectorError`] for anything else.
    pub fn atr(pattern: &str) -> Result<Self, SelectorError> {
        regex(pattern).map(Self::Atr)
    }

    /// The reader that holds this card. Copies of it look first where one of them found it.
    #[must_use]
    pub fn card(serial: CardSerial) -> Self {
        Self::Card(serial, Arc::default())
    }

    /// The readers that may be meant, in pcscd's order; of [`Selector::Card`] the card itself must be asked.
    ///
    /// # Errors
    /// [`ElementError`] where there is none.
    pub(super) fn find(&self, context: &Context) -> Result<Vec<CString>, ElementError> {
        let readers = context.readers().map_err(blame)?;
        let count = readers.len();
        let fits = |state: &ReaderState| match self {
            Self::Atr(pattern) => pattern.is_match(&hex::encode(&state.atr)),
            _ => true,
        };
        let found: Vec<CString> = match self {
            Self::Name(pattern) => readers
                .into_iter()
                .find(|reader| pattern.is_match(&reader.to_string_lossy()))
                .into_iter()
                .collect(),
            Self::Serial(serial) => readers
                .into_iter()
                .find(|reader| has_serial(context, reader, serial))
                .into_iter()
                .collect(),
            Self::Atr(_) | Self::Card(..) => states(context, readers)
                .map_err(blame)?
                .into_iter()
                .filter(|state| state.present() && fits(state))
                .map(|state| state.name)
                .collect(),
        };
        match (found.is_empty(), self) {
            (false, _) => Ok(found),
            (true, Self::Name(_) | Self::Serial(_)) if count >= PLACES => {
                Err(ElementError::Transport(format!(
                    "pcscd has no {self}, and all its {count} places are taken: unplug a reader that nobody needs, or use \
                     a pcscd that was built for more"
                )))
            }
            _ => Err(ElementError::Absent),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => write!(f, "reader /{pattern}/"),
            Self::Serial(serial) => write!(f, "reader with serial number {serial}"),
            Self::Atr(pattern) => write!(f, "reader of a card with ATR /{pattern}/"),
            Self::Card(serial, _) => write!(f, "reader of card {serial}"),
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
