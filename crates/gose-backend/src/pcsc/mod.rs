//! Cards in the readers of pcscd (PC/SC part 5).

mod claim;
mod element;
mod library;
mod reader;
mod serial;
mod t0;
mod watch;

use gose_element::{Atr, ElementError, SecureElement};

use self::library::{Context, Failure};
pub use self::{
    element::PcscElement,
    reader::{Selector, SelectorError},
    serial::{CardSerial, CardSerialError},
    watch::{Event, Watcher},
};

/// A reader of pcscd and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub name: String,
    /// The answer to reset of the card in it, if one is there.
    pub atr: Option<Atr>,
}

/// The readers that pcscd has now.
///
/// # Errors
/// [`ElementError::Transport`] when pcscd does not answer.
pub fn readers() -> Result<Vec<Reader>, ElementError> {
    let context = establish()?;
    let names = context.readers().map_err(blame)?;
    let states = reader::states(&context, names).map_err(blame)?;
    Ok(states
        .into_iter()
        .map(|state| Reader {
            name: state.name.to_string_lossy().into_owned(),
            atr: Atr::new(&state.atr),
        })
        .collect())
}

/// The numbers that the card in the reader of this name tells; it is exclusively used meanwhile and reset.
///
/// # Errors
/// [`ElementError`] where there is none, or another program has it.
pub fn card_serials(reader: &str) -> Result<Vec<CardSerial>, ElementError> {
    let selector = Selector::exactly(reader);
    let selector = selector.map_err(|error| ElementError::Transport(error.to_string()))?;
    let mut card = PcscElement::new(selector);
    card.power_on()?;
    CardSerial::told_by(&mut card)
}

fn establish() -> Result<Context, ElementError> {
    Context::establish()
        .map_err(ElementError::Transport)?
        .map_err(blame)
}

/// The one map from PC/SC's codes to errors of elements.
fn blame(failure: Failure) -> ElementError {
    let transport = |text: &str| ElementError::Transport(text.into());
    match failure {
        Failure::NO_SMARTCARD
        | Failure::REMOVED_CARD
        | Failure::READER_UNAVAILABLE
        | Failure::UNKNOWN_READER => ElementError::Absent,
        Failure::UNRESPONSIVE_CARD | Failure::UNPOWERED_CARD => ElementError::Mute,
        Failure::UNSUPPORTED_CARD | Failure::PROTO_MISMATCH => {
            transport("the card speaks neither T=0 nor T=1 with this reader")
        }
        Failure::RESET_CARD => transport(
            "another program reset the card: its selection and PINs are lost, start again",
        ),
        Failure::SHARING_VIOLATION => {
            transport("another program uses the card; end it, or give it another reader")
        }
        Failure::NO_SERVICE | Failure::SERVICE_STOPPED | Failure::INVALID_HANDLE => transport(
            "pcscd does not run, or was restarted; start it and power the element on again",
        ),
        Failure::COMM_ERROR | Failure::NOT_TRANSACTED => ElementError::OutcomeUnknown,
        Failure::TIMEOUT => ElementError::Timeout(0),
        Failure(code) => transport(&format!("PC/SC error {code:08X}")),
    }
}
