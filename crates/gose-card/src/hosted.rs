//! A card and a host that can write and wait, as one [`SecureElement`].

use std::time::Duration;

use gose_element::{Atr, ElementError, SecureElement};
use gose_proto::apdu::Response;

use crate::{
    card::{Card, Progress},
    fault::Slowness,
    nvm::Delta,
    timing::{Cost, Profile},
};

/// What a card needs from the machine it runs on.
pub trait Host: Send {
    /// Makes a delta durable: whole, or not at all.
    ///
    /// # Errors
    /// [`HostError`] when it is not durable; the card then answers `6581` and forgets the change.
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError>;

    /// Lets the time pass that the command would have cost on a real card, or counts it.
    fn spend(&mut self, cost: &Cost);
}

/// A delta could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot write the card's image: {0}")]
pub struct HostError(
    /// The cause.
    pub String,
);

/// A card driven by its host.
pub struct Hosted<H> {
    card: Card,
    host: H,
}

impl<H: Host> Hosted<H> {
    /// A card on a host.
    #[must_use]
    pub fn new(card: Card, host: H) -> Self {
        Self { card, host }
    }

    /// The card.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The host, to change.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }
}

impl<H: Host> SecureElement for Hosted<H> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        Ok(self.card.power_on())
    }

    fn power_off(&mut self) {
        self.card.power_off();
    }

    fn reset(&mut self, _warm: bool) -> Result<Atr, ElementError> {
        Ok(self.card.reset())
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let mut progress = self.card.receive(apdu);
        loop {
            match progress {
                Progress::Answer(response, cost) => {
                    self.host.spend(&cost);
                    return Ok(response);
                }
                Progress::Persist(delta) => {
                    let durable = self.host.persist(&delta).is_ok();
                    progress = self.card.complete(durable);
                }
            }
        }
    }
}

/// A host whose disk is a list: for tests, simulation and elements that live as long as their process.
#[derive(Debug, Default)]
pub struct Memory {
    /// Every delta that was made durable, in order.
    pub log: Vec<Delta>,
    /// What all commands together cost.
    pub cost: Cost,
    /// The card that is simulated.
    pub profile: Option<&'static Profile>,
    /// The time that the commands would have taken on that card: a clock that costs alone move. Nobody waits.
    pub elapsed: Duration,
    /// Whether writes fail.
    pub fail: bool,
    /// How many times as long the next command takes.
    pub factor: Option<u16>,
}

impl Slowness for Hosted<Memory> {
    fn set_factor(&mut self, factor: u16) {
        self.host.factor = Some(factor);
    }
}

impl Host for Memory {
    fn persist(&mut self, delta: &Delta) -> Result<(), HostError> {
        if self.fail {
            return Err(HostError("no space".into()));
        }
        self.log.push(delta.clone());
        Ok(())
    }

    fn spend(&mut self, cost: &Cost) {
        self.cost += *cost;
        if let Some(profile) = self.profile {
            let price = profile.price(cost);
            let price = price.saturating_mul(self.factor.take().unwrap_or(1).into());
            self.elapsed = self.elapsed.saturating_add(price);
        }
    }
}
