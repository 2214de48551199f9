//! The host's side of the storage application: secret keys and data objects. Each operation is one [`Script`], so
//! that a remote element costs one round trip. docs/protocol.md has the commands byte by byte.

mod error;
mod keys;
mod objects;

use gose_proto::apdu::{
    Command, StatusWord,
    chaining::{self, split},
};
use zeroize::Zeroizing;

pub use self::{
    error::StorageError,
    keys::{KeyReference, KeyReferenceError, NewKey, Origin, SecretKeyInfo},
    objects::{Access, NewObject, ObjectInfo},
};
use super::piv::{
    management::{Mutual, ask_witness},
    padded_pin,
};
use crate::{ElementError, Outcome, Script, SecureElement, Step, script::GET_RESPONSE};

/// The storage application (unregistered): F0, "GOSE", "STO", 01.
pub const AID: [u8; 9] = [0xF0, 0x47, 0x4F, 0x53, 0x45, 0x53, 0x54, 0x4F, 0x01];

/// Data bytes of one command of a chain.
const PIECE: u8 = 255;

/// How far an element was brought: what need not be done again while nobody else used it and it was not
/// powered down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    selected: bool,
    pin_shown: bool,
}

/// What a user keeps on an element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// All secret keys.
    pub keys: Vec<SecretKeyInfo>,
    /// All data objects.
    pub objects: Vec<ObjectInfo>,
}

/// The storage application on an element that this value has to itself.
pub struct Storage<'a> {
    element: &'a mut dyn SecureElement,
    selected: bool,
    pin: Option<Zeroizing<[u8; 8]>>,
    /// Whether the card has verified the PIN since it was selected.
    pin_shown: bool,
}

impl<'a> Storage<'a> {
    /// The application on `element`; no command is sent yet.
    pub fn open(element: &'a mut dyn SecureElement) -> Self {
        Self {
            element,
            selected: false,
            pin: None,
            pin_shown: false,
        }
    }

    /// Goes on with an element where another value left it; the PIN, where one is given, is shown unless it was.
    ///
    /// # Errors
    /// [`StorageError::PinForm`] unless the PIN has six to eight digits.
    pub fn resume(
        element: &'a mut dyn SecureElement,
        standing: Standing,
        pin: Option<&[u8]>,
    ) -> Result<Self, StorageError> {
        let mut storage = Self::open(element);
        if let Some(pin) = pin {
            storage.with_pin(pin)?;
        }
        (storage.selected, storage.pin_shown) = (standing.selected, standing.pin_shown);
        Ok(storage)
    }

    /// How far the element is; see [`Storage::resume`].
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            selected: self.selected,
            pin_shown: self.pin_shown,
        }
    }

    /// All keys and data objects, in one script. Needs the PIN or the management key.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn inventory(&mut self) -> Result<Inventory, StorageError> {
        let mut bodies = Vec::new();
        for outcome in self.run(&[keys::list(), objects::list()], true)? {
            bodies.push(normal("GET DATA", outcome)?);
        }
        match &*bodies {
            [keys, objects] => Ok(Inventory {
                keys: keys::listed(keys)?,
                objects: objects::listed(objects)?,
            }),
            _ => Err(StorageError::Malformed("a list is missing")),
        }
    }

    /// Keeps the PIN, which is PIV's, to be shown in the same script as the first operation.
    ///
    /// # Errors
    /// [`StorageError::PinForm`] unless it has six to eight digits.
    pub fn with_pin(&mut self, pin: &[u8]) -> Result<(), StorageError> {
        self.pin_shown = false;
        self.pin = Some(padded_pin(pin).map_err(|_| StorageError::PinForm)?);
        Ok(())
    }

    /// Proves knowledge of the management key, which is PIV's, and has the card prove the same.
    ///
    /// # Errors
    /// [`StorageError::WrongManagementKey`], [`StorageError::Impostor`].
    pub fn authenticate_management(&mut self, key: &[u8; 32]) -> Result<(), StorageError> {
        const WHAT: &str = "GENERAL AUTHENTICATE 9B";
        let body = self.normal(WHAT, &[ask_witness()])?;
        let mutual = Mutual::answer(key, &body)?;
        let outcome = self.last(&[mutual.command()])?;
        if outcome.sw == StatusWord::SECURITY_STATUS_NOT_SATISFIED {
            return Err(StorageError::WrongManagementKey);
        }
        Ok(mutual.check(key, &normal(WHAT, outcome)?)?)
    }

    /// Random bytes of the element, at most 256.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn random(&mut self, len: u16) -> Result<Vec<u8>, StorageError> {
        let command = Command::new(0x00, 0x84, 0x00, 0x00).with_ne(u32::from(len.clamp(1, 256)));
        self.normal("GET CHALLENGE", &[command])
    }

    /// The body of the last command's answer, where it is `9000`.
    fn normal(
        &mut self,
        what: &'static str,
        commands: &[Command],
    ) -> Result<Vec<u8>, StorageError> {
        normal(what, self.last(commands)?)
    }

    /// Runs SELECT and VERIFY where needed, then the commands, as one script. Gives the outcome of the last one,
    /// or of the one before it that was refused.
    fn last(&mut self, commands: &[Command]) -> Result<Outcome, StorageError> {
        let outcome = self.run(commands, false)?.pop();
        outcome.ok_or(StorageError::Malformed("no answer to the last command"))
    }

    /// The same with the outcomes of all commands where `all` are asked for.
    fn run(&mut self, commands: &[Command], all: bool) -> Result<Vec<Outcome>, StorageError> {
        let mut purposes = Vec::new();
        let mut steps = Vec::new();
        if !self.selected {
            let select = Command::new(0x00, 0xA4, 0x04, 0x00)
                .with_data(AID)
                .with_ne(256);
            steps.push(step(&select)?.expect_normal());
            purposes.push(Purpose::Select);
        }
        if let Some(pin) = self
            .pin
            .as_ref()
            .filter(|_| !self.selected || !self.pin_shown)
        {
            let verify = Command::new(0x00, 0x20, 0x00, 0x80).with_data(**pin);
            steps.push(step(&verify)?.expect_normal());
            purposes.push(Purpose::Verify);
        }
        for (index, command) in commands.iter().enumerate() {
            for link in split(command, PIECE) {
                let whole = link.cla & chaining::MORE == 0;
                let is_last = whole && index + 1 == commands.len();
                let mut step = step(&link)?;
                if !is_last {
                    step = step.expect_normal();
                }
                if is_last || all && whole {
                    step = step.append();
                }
                steps.push(step);
                purposes.push(if whole {
                    Purpose::Command
                } else {
                    Purpose::Link
                });
            }
        }
        let outcomes = self.element.run(&Script::new(steps));
        let judged = self.judge(outcomes, &purposes);
        if judged.is_err() {
            self.selected = false;
            self.pin_shown = false;
        }
        judged
    }

    fn judge(
        &mut self,
        outcomes: crate::Outcomes,
        purposes: &[Purpose],
    ) -> Result<Vec<Outcome>, StorageError> {
        let mut answers = Vec::new();
        for (outcome, purpose) in outcomes.done.into_iter().zip(purposes) {
            // A remote element tells answers that were asked for, and the last one.
            let sw = outcome.as_ref().map_or(StatusWord::NORMAL, |o| o.sw);
            match (purpose, sw) {
                (Purpose::Select, StatusWord::NORMAL) => {
                    self.selected = true;
                    self.pin_shown = false;
                }
                (Purpose::Select, StatusWord::FILE_NOT_FOUND) => {
                    return Err(StorageError::NoApplication);
                }
                (Purpose::Select, sw) => return Err(StorageError::refused("SELECT", sw)),
                (Purpose::Verify, StatusWord::NORMAL) => self.pin_shown = true,
                (Purpose::Verify, sw) => {
                    // Shown again by every operation, a wrong PIN would block the card.
                    self.pin = None;
                    return Err(StorageError::of_pin(sw));
                }
                (Purpose::Link, StatusWord::NORMAL) => {}
                (Purpose::Link | Purpose::Command, _) => answers.extend(outcome),
            }
        }
        match outcomes.failed {
            Some(error) => Err(error.into()),
            None => Ok(answers),
        }
    }
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

fn normal(what: &'static str, outcome: Outcome) -> Result<Vec<u8>, StorageError> {
    match outcome.sw {
        StatusWord::NORMAL => Ok(outcome.body),
        sw => Err(StorageError::refused(what, sw)),
    }
}

fn step(command: &Command) -> Result<Step, StorageError> {
    match command.encode() {
        Ok(apdu) => Ok(Step::new(apdu).collect(GET_RESPONSE)),
        Err(error) => Err(ElementError::Malformed(error.to_string()).into()),
    }
}
