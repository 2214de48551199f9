//! A leased element for code that blocks: the drivers of PIV and of EAP-TLS, signatures within TLS.

use std::{sync::Arc, time::Duration};

use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement, Seid, Step};
use gose_proto::apdu::Response;
use tokio::runtime::Handle;

use crate::{
    grid::{Grid, Lease, Peer, Plane, Ran, Refusal},
    long_step,
};

/// A lease as a [`SecureElement`]. Calls block their thread; other tasks of the runtime go on.
pub struct Leased {
    lease: Lease,
    runtime: Handle,
}

impl Leased {
    /// A lease, driven by the runtime of this thread.
    #[must_use]
    pub fn new(lease: Lease) -> Self {
        Self {
            lease,
            runtime: Handle::current(),
        }
    }

    /// Opens an element, waiting at most `patience` while another session holds it. Blocks.
    ///
    /// # Errors
    /// [`Refusal`]; [`Refusal::InUse`] after `patience`.
    pub fn wait_for(
        grid: &Arc<Grid>,
        peer: &Peer,
        seid: Seid,
        plane: Plane,
        patience: Duration,
    ) -> Result<Self, Refusal> {
        let opened = grid.open_within(peer, seid, plane, patience);
        long_step(|| Handle::current().block_on(opened)).map(Self::new)
    }
}

impl SecureElement for Leased {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        let powered = long_step(|| self.runtime.block_on(self.lease.power_on()));
        powered.map(|powered| powered.atr).map_err(no_answer)
    }

    /// The element keeps its power for as long as it is leased; what was selected and verified is
    /// forgotten.
    fn power_off(&mut self) {
        let _ = long_step(|| self.runtime.block_on(self.lease.reset(false)));
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        let reset = long_step(|| self.runtime.block_on(self.lease.reset(warm)));
        reset.map_err(no_answer)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let mut outcomes = self.run(&Script::from(Step::new(apdu)));
        match (outcomes.done.pop().flatten(), outcomes.failed) {
            (Some(outcome), _) => Ok(Response {
                data: outcome.body,
                sw: outcome.sw,
            }),
            (None, Some(error)) => Err(error),
            (None, None) => Err(ElementError::Mute),
        }
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        let Ran { done, refused } =
            long_step(|| self.runtime.block_on(self.lease.run(script.clone())));
        Outcomes {
            done,
            failed: refused.map(no_answer),
        }
    }
}

fn no_answer(refusal: Refusal) -> ElementError {
    match refusal {
        Refusal::Unauthorised | Refusal::Forbidden(_) => ElementError::Refused,
        Refusal::InUse => ElementError::InUse,
        Refusal::Element(error) => error,
    }
}
