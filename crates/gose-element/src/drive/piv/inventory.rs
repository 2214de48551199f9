//! Everything public that lies on a card, asked for in one script.

use gose_proto::apdu::{Command, StatusWord, tlv};

use super::{
    CHUID, Pin, Piv, PivError, PublicKey, Purpose, Slot,
    operations::{certificate, metadata, tag_list},
};
use crate::{Outcome, Script};

/// The tag of the key history object (part 1, 3.3.3).
pub const KEY_HISTORY: u32 = 0x5F_C10C;

/// What lies on a card for everybody to read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// One for each slot with a key or a certificate.
    pub entries: Vec<Entry>,
    /// The content of the card holder unique identifier.
    pub chuid: Option<Vec<u8>>,
    /// The content of the key history object.
    pub key_history: Option<Vec<u8>>,
}

/// What lies in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The slot.
    pub slot: Slot,
    /// The public half of its key, where the card tells it (vendor command F7).
    pub key: Option<PublicKey>,
    /// Its certificate (DER), where there is one that is not compressed.
    pub certificate: Option<Vec<u8>>,
}

impl Piv<'_> {
    /// Asks for all keys and certificates of these slots, CHUID and key history: one script. What the card
    /// refuses is not there.
    ///
    /// # Errors
    /// [`PivError::Element`], [`PivError::NoApplication`].
    pub fn inventory(&mut self, slots: &[Slot]) -> Result<Inventory, PivError> {
        self.take_inventory(Pin::Unneeded, slots)
    }

    /// The same after the PIN was shown, in the same script.
    ///
    /// # Errors
    /// As [`Piv::inventory`], and [`PivError::WrongPin`], [`PivError::PinBlocked`].
    pub fn verified_inventory(&mut self, slots: &[Slot]) -> Result<Inventory, PivError> {
        self.take_inventory(Pin::Always, slots)
    }

    fn take_inventory(&mut self, pin: Pin, slots: &[Slot]) -> Result<Inventory, PivError> {
        let get = |tag| {
            Command::new(0x00, 0xCB, 0x3F, 0xFF)
                .with_data(tag_list(tag))
                .with_ne(256)
        };
        let mut commands = Vec::with_capacity(2 * slots.len() + 2);
        for slot in slots {
            commands.push(Command::new(0x00, 0xF7, 0x00, slot.id()).with_ne(256));
            commands.push(get(slot.certificate_tag()));
        }
        commands.extend([get(CHUID), get(KEY_HISTORY)]);
        let outcomes = self.survey(pin, &commands)?;
        let mut bodies = outcomes
            .into_iter()
            .map(|outcome| (outcome.sw == StatusWord::NORMAL).then_some(outcome.body));
        let mut next = || bodies.next().flatten();
        let mut entries = Vec::new();
        for &slot in slots {
            let key = next().as_deref().and_then(metadata);
            let object = next();
            let content = object.as_deref().and_then(|body| tlv::find(body, 0x53));
            let certificate = content.and_then(|content| certificate(content).ok());
            if key.is_some() || certificate.is_some() {
                entries.push(Entry {
                    slot,
                    key,
                    certificate,
                });
            }
        }
        let mut object = || Some(tlv::find(&next()?, 0x53)?.to_vec());
        Ok(Inventory {
            entries,
            chuid: object(),
            key_history: object(),
        })
    }

    /// Runs commands of which none must succeed.
    fn survey(&mut self, pin: Pin, commands: &[Command]) -> Result<Vec<Outcome>, PivError> {
        let (mut steps, purposes) = self.script(pin, commands)?;
        for (step, purpose) in steps.iter_mut().zip(&purposes) {
            if *purpose == Purpose::Command {
                step.expect = None;
            }
        }
        let outcomes = self.element.run(&Script::new(steps));
        let judged = self.judge(outcomes, &purposes);
        if judged.is_err() {
            (self.selected, self.pin_shown) = (false, false);
        }
        match judged {
            Ok(answers) if answers.len() != commands.len() => {
                Err(PivError::Malformed("answers are missing"))
            }
            judged => judged,
        }
    }
}
