//! What is measured of a slot's element since the node started.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use gose_element::Seid;

use super::{Ran, Runs};

/// Upper bounds of the classes of a script's time, in seconds; one more class is behind them.
pub const CLASSES: [f64; 9] = [0.0001, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Counters of one slot.
#[derive(Debug, Default)]
pub(super) struct Meter {
    apdus: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    classes: [AtomicU64; CLASSES.len() + 1],
}

impl Meter {
    pub(super) fn add(&self, ran: &Ran, took: Duration) {
        let add = |counter: &AtomicU64, value: u64| {
            counter.fetch_add(value, Ordering::Relaxed);
        };
        add(&self.apdus, ran.done.len() as u64);
        // A refusal is an answer; only an element that gave none failed.
        if matches!(ran.refused, Some(super::Refusal::Element(_))) {
            add(&self.errors, 1);
        }
        add(
            &self.nanoseconds,
            u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        );
        let class = CLASSES
            .iter()
            .position(|bound| took.as_secs_f64() <= *bound);
        add(&self.classes[class.unwrap_or(CLASSES.len())], 1);
    }

    pub(super) fn read(&self, seid: Seid, runs: Runs, held: bool) -> Measured {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Measured {
            seid,
            runs,
            held,
            apdus: load(&self.apdus),
            errors: load(&self.errors),
            time: Duration::from_nanos(load(&self.nanoseconds)),
            classes: std::array::from_fn(|at| load(&self.classes[at])),
        }
    }
}

/// What an element was asked since the node started.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The element.
    pub seid: Seid,
    /// Where it runs.
    pub runs: Runs,
    /// Whether a session holds it.
    pub held: bool,
    /// APDUs that were answered.
    pub apdus: u64,
    /// Scripts that ended without an answer of the element.
    pub errors: u64,
    /// Time of all scripts.
    pub time: Duration,
    /// Scripts by time: one class a bound of [`CLASSES`], and one behind.
    pub classes: [u64; CLASSES.len() + 1],
}
