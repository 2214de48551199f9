//! What an element was used for: the primitives that its commands ran, counted since the node started; and how
//! an element in software stands.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gose_card::{
    applet::storage::Quotas,
    fault::Faults,
    timing::{Cost, Profile},
};

/// Counters of one element, and what its node knows of it.
#[derive(Debug, Default)]
pub struct Used {
    counted: Mutex<Counted>,
    memory: Mutex<Option<Memory>>,
    settings: Settings,
}

/// Commands, and what they ran.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Command APDUs.
    pub commands: u64,
    /// Their primitives and bytes.
    pub cost: Cost,
}

/// What an element in software is told by its node.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The card whose slowness it imitates.
    pub timing: Option<&'static Profile>,
    /// Bytes that its memory may hold; 0 where the node has no say.
    pub quota: u64,
    /// What its storage application may hold.
    pub storage: Quotas,
    /// What goes wrong with it, on a test grid.
    pub faults: Option<Arc<Faults>>,
}

/// How an element in software stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Bytes held, names and values: what the quota bounds.
    pub bytes: u64,
    /// The version of its image.
    pub image_version: u8,
    /// Bytes of its image.
    pub image_bytes: u64,
    /// Records of its image.
    pub image_records: u64,
}

impl Used {
    /// Of an element in software.
    #[must_use]
    pub fn software(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// One command more.
    pub fn count(&self, cost: &Cost) {
        let mut counted = lock(&self.counted);
        counted.commands += 1;
        // Most commands run no primitive: what they would leave as it is need not be touched.
        if cost.is_io_alone() {
            counted.cost.io_bytes += cost.io_bytes;
        } else {
            counted.cost += *cost;
        }
    }

    /// The counters now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        *lock(&self.counted)
    }

    /// What its node told it.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The element changed.
    pub fn tell(&self, memory: Memory) {
        *lock(&self.memory) = Some(memory);
    }

    /// How it stands; nothing before it was first used, or where it is elsewhere.
    #[must_use]
    pub fn memory(&self) -> Option<Memory> {
        *lock(&self.memory)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
