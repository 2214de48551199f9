//! What an element was used for: the primitives that its commands ran, counted since the node started.

use std::sync::{Mutex, PoisonError};

use gose_card::timing::Cost;

/// Counters of one element.
#[derive(Debug, Default)]
pub struct Used(Mutex<Counted>);

/// Commands, and what they ran.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Command APDUs.
    pub commands: u64,
    /// Their primitives and bytes.
    pub cost: Cost,
}

impl Used {
    /// One command more.
    pub fn count(&self, cost: &Cost) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counted.commands += 1;
        counted.cost += *cost;
    }

    /// The counters now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
