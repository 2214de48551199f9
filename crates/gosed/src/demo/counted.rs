//! An element whose APDUs, bytes and waiting time are counted.

use std::time::{Duration, Instant};

use gose_element::{Atr, ElementError, Outcomes, Script, SecureElement};
use gose_proto::apdu::Response;

/// An element and what it was used for since the last reset of the counters.
///
/// Fetch rounds that the grid makes on its own (MORE) count as one APDU each 256 bytes collected.
pub(super) struct Counted<E> {
    inner: E,
    apdus: u64,
    bytes: u64,
    waited: Duration,
}

impl<E> Counted<E> {
    pub(super) fn new(inner: E) -> Self {
        Self {
            inner,
            apdus: 0,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn inner(&self) -> &E {
        &self.inner
    }

    pub(super) fn apdus(&self) -> u64 {
        self.apdus
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn waited(&self) -> Duration {
        self.waited
    }

    pub(super) fn reset_counters(&mut self) {
        self.apdus = 0;
        self.bytes = 0;
        self.waited = Duration::ZERO;
    }

    fn count(&mut self, command: usize, answer: usize) {
        self.apdus += 1 + (answer / 256) as u64;
        // Each fetch is a command of five bytes and an answer with a status word of its own.
        self.bytes += (command + answer + 2 + answer / 256 * 7) as u64;
    }
}

impl<E: SecureElement> SecureElement for Counted<E> {
    fn power_on(&mut self) -> Result<Atr, ElementError> {
        let start = Instant::now();
        let atr = self.inner.power_on();
        self.waited += start.elapsed();
        atr
    }

    fn power_off(&mut self) {
        self.inner.power_off();
    }

    fn reset(&mut self, warm: bool) -> Result<Atr, ElementError> {
        self.inner.reset(warm)
    }

    fn transmit(&mut self, apdu: &[u8]) -> Result<Response, ElementError> {
        let start = Instant::now();
        let response = self.inner.transmit(apdu)?;
        self.waited += start.elapsed();
        self.count(apdu.len(), response.data.len());
        Ok(response)
    }

    fn run(&mut self, script: &Script) -> Outcomes {
        let start = Instant::now();
        let outcomes = self.inner.run(script);
        self.waited += start.elapsed();
        for (step, outcome) in script.steps.iter().zip(&outcomes.done) {
            self.count(
                step.apdu.len(),
                outcome.as_ref().map_or(0, |outcome| outcome.body.len()),
            );
        }
        outcomes
    }
}
