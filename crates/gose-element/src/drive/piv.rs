//! The host's side of PIV (NIST SP 800-73-4, part 2): each operation is one [`Script`], so that a remote
//! element costs one round trip.

mod attestation;
mod encode;
mod error;
mod inventory;
pub(super) mod management;
mod objects;
mod operations;
mod slot;

use gose_proto::apdu::{
    Command, StatusWord,
    chaining::{self, split},
};
use zeroize::Zeroizing;

pub use self::{
    attestation::{
        ATTESTATION_CERTIFICATE, ATTESTATION_KEY, KEY_ATTESTATION_ARCS, KEY_ATTESTATION_OID,
        KeyAttestation, PinPolicy,
    },
    encode::{input, public_key_info},
    error::PivError,
    inventory::{Entry, Inventory, KEY_HISTORY},
    objects::{CHUID, cardholder_unique_identifier},
    operations::PublicKey,
    slot::{Slot, SlotError},
};
use crate::{
    ElementError, Outcome, Outcomes, Script, SecureElement, Step, announced, script::GET_RESPONSE,
};

/// The PIV card application, version 1.0 (NIST SP 800-73-4, part 1, 2.2).
pub const AID: [u8; 11] = [
    0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00,
];

/// Data bytes of one command of a chain.
const PIECE: u8 = 255;

/// The PIV application on an element that this value has to itself.
///
/// The first operation selects the application; nothing else may select another one while this value
/// lives, which the borrow guarantees for whoever holds the element.
pub struct Piv<'a> {
    element: &'a mut dyn SecureElement,
    selected: bool,
    pin: Option<Zeroizing<[u8; 8]>>,
    /// Whether the card has verified the PIN since it was selected.
    pin_shown: bool,
    keys: Vec<(Slot, PublicKey)>,
}

/// How far an element was brought: what need not be done again while nobody else used it and it was not
/// powered down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    selected: bool,
    pin_shown: bool,
}

/// Which PIN an operation needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pin {
    Unneeded,
    Once,
    Always,
}

/// What a step of a script is for, to tell who refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Select,
    Verify,
    /// A command of a chain before its last one: only a refusal is an answer.
    Link,
    Command,
}

impl<'a> Piv<'a> {
    /// The application on `element`; no command is sent yet.
    pub fn open(element: &'a mut dyn SecureElement) -> Self {
        Self {
            element,
            selected: false,
            pin: None,
            pin_shown: false,
            keys: Vec::new(),
        }
    }

    /// Goes on with an element where another value left it; the PIN, where one is given, is shown only to
    /// operations that need it again.
    ///
    /// # Errors
    /// [`PivError::PinForm`] unless the PIN has six to eight digits.
    pub fn resume(
        element: &'a mut dyn SecureElement,
        standing: Standing,
        pin: Option<&[u8]>,
    ) -> Result<Self, PivError> {
        Ok(Self {
            selected: standing.selected,
            pin_shown: standing.pin_shown,
            pin: pin.map(padded_pin).transpose()?,
            ..Self::open(element)
        })
    }

    /// How far the element is; see [`Piv::resume`].
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            selected: self.selected,
            pin_shown: self.pin_shown,
        }
    }

    /// Shows the PIN now, and again wherever a key asks for it each time.
    ///
    /// # Errors
    /// [`PivError::WrongPin`] with the tries left, [`PivError::PinBlocked`], [`PivError::PinForm`].
    pub fn verify(&mut self, pin: &[u8]) -> Result<(), PivError> {
        self.with_pin(pin)?;
        self.run(Pin::Always, &[]).map(drop)
    }

    /// Keeps the PIN to be shown in the same script as the operation that needs it: one round trip
    /// instead of two.
    ///
    /// # Errors
    /// [`PivError::PinForm`] unless it has six to eight digits.
    pub fn with_pin(&mut self, pin: &[u8]) -> Result<(), PivError> {
        self.pin_shown = false;
        self.pin = Some(padded_pin(pin)?);
        Ok(())
    }

    /// Tries left on the PIN; `None` while it is verified.
    ///
    /// # Errors
    /// [`PivError`] when the card tells neither.
    pub fn pin_tries(&mut self) -> Result<Option<u8>, PivError> {
        let outcome = self.one(Pin::Unneeded, Command::new(0x00, 0x20, 0x00, 0x80))?;
        match (outcome.sw, outcome.sw.tries()) {
            (StatusWord::NORMAL, _) => Ok(None),
            (StatusWord::AUTHENTICATION_METHOD_BLOCKED, _) => Ok(Some(0)),
            (_, Some(tries)) => Ok(Some(tries)),
            (sw, None) => Err(PivError::refused("VERIFY", sw)),
        }
    }

    /// Runs one command after what it needs; its status word is the caller's to judge.
    fn one(&mut self, pin: Pin, command: Command) -> Result<Outcome, PivError> {
        let outcomes = self.run(pin, &[command])?;
        outcomes
            .into_iter()
            .next()
            .ok_or(PivError::Malformed("no answer to the last command"))
    }

    /// Runs SELECT and VERIFY where needed, then the commands, as one script. All commands but the last
    /// must come to `9000`; gives the outcomes of those that ran.
    fn run(&mut self, pin: Pin, commands: &[Command]) -> Result<Vec<Outcome>, PivError> {
        let (steps, purposes) = self.script(pin, commands)?;
        let outcomes = announced::collect(self.element, &Script::new(steps));
        let judged = self.judge(outcomes, &purposes);
        if judged.is_err() {
            self.selected = false;
            self.pin_shown = false;
        }
        judged
    }

    fn script(
        &self,
        pin: Pin,
        commands: &[Command],
    ) -> Result<(Vec<Step>, Vec<Purpose>), PivError> {
        let mut steps = Vec::new();
        let mut purposes = Vec::new();
        let mut add = |step: Step, purpose| {
            steps.push(step);
            purposes.push(purpose);
        };
        if !self.selected {
            let select = Command::new(0x00, 0xA4, 0x04, 0x00)
                .with_data(AID)
                .with_ne(256);
            add(step(&select)?.expect_normal(), Purpose::Select);
        }
        if let Some(digits) = self.pin_for(pin) {
            let verify = Command::new(0x00, 0x20, 0x00, 0x80).with_data(*digits);
            add(step(&verify)?.expect_normal(), Purpose::Verify);
        }
        for (index, command) in commands.iter().enumerate() {
            let chain = split(command, PIECE);
            for link in &chain {
                let more = link.cla & chaining::MORE != 0;
                let mut step = step(link)?;
                if more || index + 1 < commands.len() {
                    step = step.expect_normal();
                }
                if more {
                    add(step, Purpose::Link);
                } else {
                    add(step.append(), Purpose::Command);
                }
            }
        }
        Ok((steps, purposes))
    }

    fn pin_for(&self, pin: Pin) -> Option<&[u8; 8]> {
        let shown = self.selected && self.pin_shown;
        match pin {
            Pin::Always => self.pin.as_deref(),
            Pin::Once if !shown => self.pin.as_deref(),
            _ => None,
        }
    }

    fn judge(
        &mut self,
        outcomes: Outcomes,
        purposes: &[Purpose],
    ) -> Result<Vec<Outcome>, PivError> {
        let mut answers = Vec::new();
        for (outcome, purpose) in outcomes.done.into_iter().zip(purposes) {
            // A remote element tells answers that were asked for, and the last one.
            let sw = outcome.as_ref().map_or(StatusWord::NORMAL, |o| o.sw);
            match purpose {
                Purpose::Select => self.judge_select(sw)?,
                Purpose::Verify => self.judge_pin(sw)?,
                Purpose::Link if sw == StatusWord::NORMAL => {}
                Purpose::Link | Purpose::Command => answers.extend(outcome),
            }
        }
        match outcomes.failed {
            Some(error) => Err(error.into()),
            None => Ok(answers),
        }
    }

    fn judge_select(&mut self, sw: StatusWord) -> Result<(), PivError> {
        match sw {
            StatusWord::NORMAL => {
                self.selected = true;
                self.pin_shown = false;
                Ok(())
            }
            StatusWord::FILE_NOT_FOUND => Err(PivError::NoApplication),
            sw => Err(PivError::refused("SELECT", sw)),
        }
    }

    fn judge_pin(&mut self, sw: StatusWord) -> Result<(), PivError> {
        if sw == StatusWord::NORMAL {
            self.pin_shown = true;
            return Ok(());
        }
        // Shown again by every operation, a wrong PIN would block the card.
        self.pin = None;
        Err(PivError::of_pin("VERIFY", sw))
    }
}

fn step(command: &Command) -> Result<Step, PivError> {
    match command.encode() {
        Ok(apdu) => Ok(Step::new(apdu).collect(GET_RESPONSE)),
        Err(error) => Err(ElementError::Malformed(error.to_string()).into()),
    }
}

pub(super) fn padded_pin(pin: &[u8]) -> Result<Zeroizing<[u8; 8]>, PivError> {
    if !(6..=8).contains(&pin.len()) || !pin.iter().all(u8::is_ascii_digit) {
        return Err(PivError::PinForm);
    }
    let mut padded = Zeroizing::new([0xFF; 8]);
    padded[..pin.len()].copy_from_slice(pin);
    Ok(padded)
}
