//! A software card as tests of the host's side have it.

use std::sync::Arc;

use gose_card::{
    Hosted, Memory, applet::storage::Quotas, factory, keystore::SoftwareKeyStore, nvm::Nvm,
};
use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement};
use gose_proto::apdu::Response;

/// An element that counts the scripts it is given: the round trips of a remote one.
pub(crate) struct Counted {
    pub(crate) card: Hosted<Memory>,
    pub(crate) scripts: usize,
}

impl SecureElement for Counted {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        self.card.power_on()
    }
    fn power_off(&mut self) {
        self.card.power_off();
    }
    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.card.reset(warm)
    }
    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        self.card.transmit(apdu)
    }
    fn run(&mut self, script: &Script) -> Outcomes {
        self.scripts += 1;
        let mut outcomes = self.card.run(script);
        // What a remote element does not tell: answers that nobody asked for.
        let last = outcomes.done.len().saturating_sub(1);
        for (index, outcome) in outcomes.done.iter_mut().enumerate() {
            if index != last && !script.steps[index].append {
                *outcome = None;
            }
        }
        outcomes
    }
}

impl Counted {
    /// A card on a memory, powered.
    pub(crate) fn on(nvm: Nvm) -> Self {
        Self::within(Quotas::default(), nvm)
    }

    /// The same, with these quotas of the storage application.
    pub(crate) fn within(quotas: Quotas, nvm: Nvm) -> Self {
        let card = factory::new_card_within(quotas, nvm, Arc::new(SoftwareKeyStore));
        let mut element = Self {
            card: Hosted::new(card, Memory::default()),
            scripts: 0,
        };
        element.power_on().unwrap();
        element
    }
}

/// The memory of a card as it is born.
pub(crate) fn birth() -> Nvm {
    Nvm::replay([factory::birth([1; 16])])
}
