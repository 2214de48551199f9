//! A card in a reader as an element.

use std::{
    ffi::CString,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gose_element::{Atr, ElementError, SecureElement};
use gose_proto::apdu::Response;

use super::{
    blame,
    claim::{self, Claim},
    establish,
    library::{Context, Disposition, Failure, Link, MAX_APDU, Protocol},
    reader::Selector,
    serial::CardSerial,
};

/// The card in a reader, for this process alone while it is powered. Calls have no time limit, since pcscd's
/// have none: a caller that sets one leaves the element to its thread until it returns.
pub struct PcscElement {
    selector: Selector,
    context: Option<Context>,
    link: Option<Link>,
    answer: Vec<u8>,
}

impl PcscElement {
    /// The card in the reader that `selector` names. Nothing is opened before the first power up.
    #[must_use]
    pub fn new(selector: Selector) -> Self {
        Self {
            selector,
            context: None,
            link: None,
            answer: Vec::new(),
        }
    }

    fn connect(&mut self) -> Result<Atr, ElementError> {
        let link = match self.try_connect() {
            // A context does not outlive its pcscd, which may have been restarted meanwhile.
            Err(ElementError::Transport(_)) if self.context.take().is_some() => self.try_connect(),
            other => other,
        }?;
        let atr = read_atr(&link);
        self.link = Some(link);
        atr
    }

    fn try_connect(&mut self) -> Result<Link, ElementError> {
        let context = match &self.context {
            Some(context) => context.clone(),
            None => self.context.insert(establish()?).clone(),
        };
        let readers = self.selector.find(&context)?;
        if let Selector::Card(serial, last) = &self.selector {
            let (serial, last) = (*serial, last.clone());
            return self.seek(&context, readers, serial, &last);
        }
        let first = readers.first().ok_or(ElementError::Absent)?;
        claim::connect(&context, first).map_err(blame)
    }

    /// The card that says that this is its number. Cards that others use are left alone.
    fn seek(
        &mut self,
        context: &Context,
        mut readers: Vec<CString>,
        serial: CardSerial,
        last: &Mutex<Option<CString>>,
    ) -> Result<Link, ElementError> {
        let before = lock(last).clone();
        readers.sort_by_key(|reader| before.as_ref() != Some(reader));
        let mut used = 0;
        for reader in readers {
            let Some(_claim) = Claim::on(&reader) else {
                used += 1;
                continue;
            };
            match context.connect(&reader) {
                Ok(link) => self.link = Some(link),
                Err(Failure::SHARING_VIOLATION) => {
                    used += 1;
                    continue;
                }
                Err(failure @ (Failure::NO_SERVICE | Failure::SERVICE_STOPPED)) => {
                    return Err(blame(failure));
                }
                // A mute card, or one that left meanwhile.
                Err(_) => continue,
            }
            let is_it = serial.is_of(self).unwrap_or(false);
            let Some(mut link) = self.link.take().filter(|_| is_it) else {
                continue;
            };
            // What was selected to ask is selected no more.
            link.reconnect(Disposition::Unpower).map_err(blame)?;
            *lock(last) = Some(reader);
            return Ok(link);
        }
        match used {
            0 => Err(ElementError::Absent),
            _ => Err(ElementError::Transport(format!(
                "card {serial} is in no reader that is free; {used} are used by other programs or slots"
            ))),
        }
    }

    /// Drops what a failure made useless, and says whom to blame.
    fn lost(&mut self, failure: Failure) -> ElementError {
        match failure {
            // The card is there and ours, only its state is gone.
            Failure::RESET_CARD => {
                let again = self
                    .link
                    .as_mut()
                    .map(|link| link.reconnect(Disposition::Leave));
                if !matches!(again, Some(Ok(()))) {
                    self.link = None;
                }
            }
            Failure::NO_SERVICE | Failure::SERVICE_STOPPED | Failure::INVALID_HANDLE => {
                self.link = None;
                self.context = None;
            }
            _ => self.link = None,
        }
        blame(failure)
    }

    fn exchange(&mut self, tpdu: &[u8]) -> Result<Response, ElementError> {
        let Some(link) = &self.link else {
            return Err(ElementError::Transport(
                "the element is not powered; power it on".into(),
            ));
        };
        self.answer.resize(MAX_APDU, 0);
        match link.transmit(tpdu, &mut self.answer) {
            Ok(len) => Response::parse(self.answer.get(..len).unwrap_or_default())
                .map_err(|error| ElementError::Transport(format!("the reader's answer: {error}"))),
            Err(failure) => Err(self.lost(failure)),
        }
    }
}

fn lock(last: &Mutex<Option<CString>>) -> MutexGuard<'_, Option<CString>> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_atr(link: &Link) -> Result<Atr, ElementError> {
    Atr::new(&link.atr().map_err(blame)?).ok_or(ElementError::Mute)
}

impl SecureElement for PcscElement {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        if let Some(Ok(atr)) = self.link.as_ref().map(read_atr) {
            return Ok(atr);
        }
        self.link = None;
        self.connect()
    }

    fn power_off(&mut self) {
        self.link = None;
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        let Some(link) = &mut self.link else {
            return self.connect();
        };
        let with = if warm {
            Disposition::Reset
        } else {
            Disposition::Unpower
        };
        match link.reconnect(with) {
            Ok(()) => read_atr(link),
            // A card that was pulled, or a pcscd that was restarted: begin afresh.
            Err(failure) => {
                self.lost(failure);
                self.link = None;
                self.connect()
            }
        }
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        if apdu.len() < 4 || apdu.len() > MAX_APDU {
            return Err(ElementError::Malformed(
                "an APDU has 4 to 65544 bytes".into(),
            ));
        }
        match self.link.as_ref().map(Link::protocol) {
            Some(Protocol::T0) => super::t0::transmit(apdu, |tpdu| self.exchange(tpdu)),
            _ => self.exchange(apdu),
        }
    }
}
