//! A card in a reader as an element.

use gose_element::{Atr, ElementError, SecureElement};
use gose_proto::apdu::{Command, Response, StatusWord};

use super::{
    blame, establish,
    library::{Context, Disposition, Failure, Link, MAX_APDU, Protocol},
    reader::Selector,
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
        let reader = self.selector.find(&context)?;
        context.connect(&reader).map_err(blame)
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

/// The first ten bytes of the answer to INITIALIZE UPDATE (GlobalPlatform, the key diversification data): a
/// number of the card that SEIDs can be made of (draft-urien-core-racs-03). `issuer_domain` is the AID of the
/// card's issuer security domain; the host challenge is zero, since no channel is opened.
///
/// # Errors
/// [`ElementError::Transport`] where the card has no such application.
pub fn diversification_data(
    element: &mut dyn SecureElement,
    issuer_domain: &[u8],
) -> Result<[u8; 10], ElementError> {
    let select = Command::new(0x00, 0xA4, 0x04, 0x00)
        .with_data(issuer_domain)
        .with_ne(256);
    let update = Command::new(0x80, 0x50, 0x00, 0x00)
        .with_data([0; 8])
        .with_ne(256);
    let mut body = Vec::new();
    for command in [select, update] {
        let apdu = command
            .encode()
            .map_err(|error| ElementError::Malformed(error.to_string()))?;
        let step = gose_element::Step::new(apdu).collect(gose_element::script::GET_RESPONSE);
        let outcome = gose_element::element::run_step(element, &step)?;
        if outcome.sw != StatusWord::NORMAL {
            return Err(ElementError::Transport(format!(
                "the card answers {:?} where its serial number was asked; name the SEID in the configuration",
                outcome.sw
            )));
        }
        body = outcome.body;
    }
    body.first_chunk::<10>().copied().ok_or_else(|| {
        ElementError::Transport("the answer to INITIALIZE UPDATE has under 10 bytes".into())
    })
}
