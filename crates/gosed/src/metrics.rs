//! Counters of a node, kept in the process.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a node counts since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections accepted.
    pub connections: AtomicU64,
    /// TLS handshakes that failed, certificates refused included.
    pub handshakes_failed: AtomicU64,
    /// Reloads done.
    pub reloads: AtomicU64,
}

impl Metrics {
    /// Counts one.
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters by name.
    #[must_use]
    pub fn snapshot(&self) -> [(&'static str, u64); 3] {
        [
            ("gose_connections_total", &self.connections),
            ("gose_handshakes_failed_total", &self.handshakes_failed),
            ("gose_reloads_total", &self.reloads),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
