//! The runtime of a software card: power, SELECT, GET RESPONSE, chaining, applets.

use std::sync::Arc;

use gose_element::Atr;
use gose_proto::apdu::{
    Command, CommandRef, Response, StatusWord,
    chaining::{Assembler, Link},
};
use zeroize::Zeroizing;

use crate::{
    applet::{Applet, Next},
    keyring::Keyring,
    keystore::KeyStore,
    nvm::{Delta, Nvm},
    pin,
    timing::Cost,
};

/// Historical bytes with the PIV AID, so that OpenSC recognises the card without probing; T=1.
const ATR: [u8; 15] = [
    0x3B, 0x8B, 0x01, 0x80, 0xF9, 0xA0, 0x00, 0x00, 0x03, 0x08, 0x00, 0x00, 0x10, 0x00, 0x48,
];

/// Bytes that a chain of commands may carry: a certificate of the largest PIV container and its tags.
const CHAIN_LIMIT: usize = 16_384;

/// SW1 of "further bytes are there": ISO 7816-4's, and that of the EAP smart card's traces.
const MORE: u8 = 0x61;
const LEGACY_MORE: u8 = 0x9F;

/// Answers up to this length are never announced by [`LEGACY_MORE`].
const SHORT: usize = 256;

/// A secure element in software.
pub struct Card {
    nvm: Nvm,
    keys: Keyring,
    applets: Vec<Box<dyn Applet>>,
    powered: bool,
    selected: Option<usize>,
    chain: Assembler,
    /// What GET RESPONSE fetches, from `sent` on.
    pending: Zeroizing<Vec<u8>>,
    sent: usize,
    /// SW1 that announces what is pending.
    announced: u8,
    waiting: Option<Waiting>,
    cost: Cost,
    /// Bytes that the memory may hold.
    quota: usize,
}

/// What a command waits for.
enum Waiting {
    Answer(Response),
    Compare(pin::Attempt),
}

/// What the host does next.
#[derive(Debug)]
pub enum Progress {
    /// Write this durably, then call [`Card::complete`] with whether it is.
    Persist(Delta),
    /// Answer this; on a real card the command would have cost that.
    Answer(Response, Cost),
}

/// What an applet may use while it executes a command.
pub struct Env<'a> {
    /// Non-volatile memory; writes are staged.
    pub nvm: &'a mut Nvm,
    /// The key slots.
    pub keys: &'a mut Keyring,
    /// Where the command's primitives are counted.
    pub cost: &'a mut Cost,
}

impl Card {
    /// A card with this memory and these applets, powered down.
    #[must_use]
    pub fn new(nvm: Nvm, keys: Arc<dyn KeyStore>, applets: Vec<Box<dyn Applet>>) -> Self {
        Self {
            nvm,
            keys: Keyring::new(keys),
            applets,
            powered: false,
            selected: None,
            chain: Assembler::new(CHAIN_LIMIT),
            pending: Zeroizing::default(),
            sent: 0,
            announced: MORE,
            waiting: None,
            cost: Cost::default(),
            quota: usize::MAX,
        }
    }

    /// The same card, whose memory holds at most so many bytes, names and values ([`Nvm::size`]): a command
    /// that would make it grow beyond is answered `6A84` and changes nothing. What does not grow it still
    /// works, so a card that is too full can be emptied; retry counters always do.
    #[must_use]
    pub fn with_quota(mut self, bytes: usize) -> Self {
        self.quota = bytes;
        self
    }

    /// Powers the card up if it is down.
    ///
    /// # Panics
    /// Never: the answer to reset is a constant of 15 bytes.
    #[allow(clippy::missing_panics_doc, clippy::unwrap_used)]
    pub fn power_on(&mut self) -> Atr {
        self.powered = true;
        Atr::new(&ATR).unwrap()
    }

    /// Powers the card down: nothing is selected, no PIN is verified.
    pub fn power_off(&mut self) {
        self.forget();
        self.powered = false;
    }

    /// Resets the card: nothing is selected, no PIN is verified.
    pub fn reset(&mut self) -> Atr {
        self.forget();
        self.power_on()
    }

    /// The memory, for hosts that count quotas or write a compacted image.
    #[must_use]
    pub fn nvm(&self) -> &Nvm {
        &self.nvm
    }

    /// Takes a command APDU. A command that comes while another one waits for [`Card::complete`], or to
    /// a card without power, is answered `6F00`.
    pub fn receive(&mut self, apdu: &[u8]) -> Progress {
        self.cost = Cost {
            io_bytes: apdu.len() as u64,
            ..Cost::default()
        };
        if !self.powered || self.waiting.is_some() {
            return self.answer(StatusWord::NO_PRECISE_DIAGNOSIS.into(), None);
        }
        match CommandRef::parse(apdu) {
            Ok(command) => self.dispatch(command),
            Err(_) => self.answer(StatusWord::WRONG_LENGTH.into(), None),
        }
    }

    /// The host wrote the delta of [`Progress::Persist`], or could not.
    pub fn complete(&mut self, durable: bool) -> Progress {
        let Some(waiting) = self.waiting.take() else {
            return self.answer(StatusWord::NO_PRECISE_DIAGNOSIS.into(), None);
        };
        if !durable {
            self.forget_staged();
            return self.answer(StatusWord::MEMORY_FAILURE.into(), None);
        }
        self.nvm.commit();
        self.keys.committed();
        match waiting {
            Waiting::Answer(response) => self.answer(response, None),
            Waiting::Compare(attempt) => {
                let next = self.with_selected(|applet, env| applet.resume(attempt, env));
                self.go_on(
                    next.unwrap_or_else(|| StatusWord::NO_PRECISE_DIAGNOSIS.into()),
                    None,
                )
            }
        }
    }

    fn dispatch(&mut self, command: CommandRef<'_>) -> Progress {
        if let Some(refusal) = class_refusal(command.cla) {
            return self.answer(refusal.into(), None);
        }
        if self.is_get_response(command) {
            let response = self.fetch(command.ne.unwrap_or(256));
            return self.finish(response);
        }
        self.pending = Zeroizing::default();
        self.sent = 0;
        if command.cla & 0x80 != 0 {
            return self.execute(&command.to_owned());
        }
        match self.chain.take(command) {
            Ok(Link::More) => self.answer(StatusWord::NORMAL.into(), None),
            Ok(Link::Whole(command)) => self.execute(&command),
            Err(sw) => self.answer(sw.into(), None),
        }
    }

    fn execute(&mut self, command: &Command) -> Progress {
        let le = LeRule {
            ne: command.ne,
            direct: self.direct_without_le(),
            legacy: false,
        };
        if command.cla == 0x00 && command.ins == 0xA4 && command.p1 == 0x04 {
            let response = self.select(command);
            // SELECT answers its data without Le too: some readers' tools send none.
            return self.go_on(Next::Answer(response), Some(LeRule { direct: true, ..le }));
        }
        let next = self
            .with_selected(|applet, env| applet.process(command, env))
            .unwrap_or_else(|| {
                if command.cla == 0x00 && command.ins == 0xA4 {
                    StatusWord::INCORRECT_P1_P2.into()
                } else {
                    StatusWord::INS_NOT_SUPPORTED.into()
                }
            });
        self.go_on(next, Some(le))
    }

    /// SELECT by AID, full or its first bytes (at least a RID of five), first or only occurrence.
    fn select(&mut self, command: &Command) -> Response {
        if !matches!(command.p2, 0x00 | 0x0C) {
            return StatusWord::INCORRECT_P1_P2.into();
        }
        let found = (command.data.len() >= 5)
            .then(|| {
                self.applets
                    .iter()
                    .position(|a| a.aid().starts_with(&command.data))
            })
            .flatten();
        let Some(index) = found else {
            return StatusWord::FILE_NOT_FOUND.into();
        };
        if let Some(previous) = self
            .selected
            .replace(index)
            .filter(|previous| *previous != index)
        {
            self.applets[previous].deselect();
        }
        let response = self.with_selected(|applet, env| applet.select(env));
        response.unwrap_or_else(|| StatusWord::NO_PRECISE_DIAGNOSIS.into())
    }

    fn go_on(&mut self, next: Next, le: Option<LeRule>) -> Progress {
        let legacy = matches!(next, Next::LegacyAnswer(_));
        let waiting = match next {
            Next::Answer(response) | Next::LegacyAnswer(response) => {
                let le = le.unwrap_or(LeRule {
                    ne: Some(256),
                    direct: true,
                    legacy,
                });
                let response = self.shape(response, LeRule { legacy, ..le });
                if self.nvm.staged().is_none() {
                    return self.finish(response);
                }
                let size = self.nvm.staged_size();
                if size > self.quota && size > self.nvm.size() {
                    self.forget_staged();
                    return self.finish(StatusWord::NOT_ENOUGH_MEMORY.into());
                }
                Waiting::Answer(response)
            }
            Next::ComparePin(attempt) => Waiting::Compare(attempt),
        };
        self.waiting = Some(waiting);
        Progress::Persist(self.nvm.staged().cloned().unwrap_or_default())
    }

    /// Keeps what does not fit into the answer for GET RESPONSE.
    fn shape(&mut self, response: Response, le: LeRule) -> Response {
        let room = match (le.ne, le.direct) {
            _ if le.legacy && response.data.len() > SHORT => 0,
            (Some(ne), _) => ne,
            (None, true) => 256,
            (None, false) => 0,
        };
        if response.data.len() <= room as usize {
            return response;
        }
        if response.sw != StatusWord::NORMAL {
            return response.sw.into();
        }
        self.announced = match le.legacy && response.data.len() > SHORT {
            true => LEGACY_MORE,
            false => MORE,
        };
        self.pending = Zeroizing::new(response.data);
        self.sent = 0;
        if room == 0 {
            self.remaining().into()
        } else {
            self.fetch(room)
        }
    }

    fn is_get_response(&self, command: CommandRef<'_>) -> bool {
        let fetches = matches!(command.cla, 0x00 | 0xA0) && matches!(command.ins, 0xC0 | 0x12);
        fetches && command.p1 == 0 && command.p2 == 0 && self.sent < self.pending.len()
    }

    fn fetch(&mut self, ne: u32) -> Response {
        let end = self.pending.len().min(self.sent + ne as usize);
        let data = self.pending[self.sent..end].to_vec();
        self.sent = end;
        let sw = if end == self.pending.len() {
            StatusWord::NORMAL
        } else {
            self.remaining()
        };
        Response { data, sw }
    }

    fn remaining(&self) -> StatusWord {
        let left = u8::try_from(self.pending.len() - self.sent).unwrap_or(0);
        [self.announced, left].into()
    }

    fn answer(&mut self, response: Response, le: Option<LeRule>) -> Progress {
        self.go_on(Next::Answer(response), le)
    }

    fn finish(&mut self, response: Response) -> Progress {
        self.cost.io_bytes += response.data.len() as u64 + 2;
        Progress::Answer(response, std::mem::take(&mut self.cost))
    }

    /// What the command staged will not be: the applet forgets what it derived from it.
    fn forget_staged(&mut self) {
        self.nvm.roll_back();
        self.keys.forget();
        self.pending = Zeroizing::default();
        self.sent = 0;
        self.with_selected(|applet, env| applet.rolled_back(env));
    }

    fn direct_without_le(&self) -> bool {
        self.selected
            .is_none_or(|index| self.applets[index].answers_without_le())
    }

    fn with_selected<T>(
        &mut self,
        f: impl FnOnce(&mut dyn Applet, &mut Env<'_>) -> T,
    ) -> Option<T> {
        let applet = self.applets.get_mut(self.selected?)?;
        let mut env = Env {
            nvm: &mut self.nvm,
            keys: &mut self.keys,
            cost: &mut self.cost,
        };
        Some(f(applet.as_mut(), &mut env))
    }

    fn forget(&mut self) {
        if let Some(index) = self.selected.take() {
            self.applets[index].deselect();
        }
        if self.nvm.staged().is_some() {
            self.nvm.roll_back();
            self.keys.forget();
        }
        self.waiting = None;
        self.chain.clear();
        self.pending = Zeroizing::default();
        self.sent = 0;
    }
}

/// How long an answer may be.
#[derive(Clone, Copy)]
struct LeRule {
    ne: Option<u32>,
    direct: bool,
    legacy: bool,
}

/// Classes that no applet of this card serves: other logical channels, secure messaging, reserved values
/// (ISO/IEC 7816-4:2020, 5.4.1). Chaining (b5) of the first interindustry class is served.
fn class_refusal(cla: u8) -> Option<StatusWord> {
    match cla {
        0x00 | 0x10 | 0x80.. => None,
        _ if cla & 0x40 != 0 || cla & 0x03 != 0 => Some(StatusWord::LOGICAL_CHANNEL_NOT_SUPPORTED),
        _ if cla & 0x0C != 0 => Some(StatusWord::SECURE_MESSAGING_NOT_SUPPORTED),
        _ => Some(StatusWord::CLA_NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests;
