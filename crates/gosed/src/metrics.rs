//! Counters of a node, kept in the process.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a node counts since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// TCP connections accepted.
    pub connections: AtomicU64,
    /// TLS handshakes that failed, certificates refused included.
    pub handshakes_failed: AtomicU64,
    /// Sessions begun, those on the admin socket included.
    pub sessions: AtomicU64,
    /// APDU scripts run: one a batch of consecutive APDU lines.
    pub scripts: AtomicU64,
    /// Elements refused by the policy.
    pub policy_denied: AtomicU64,
    /// Elements refused because another session holds them.
    pub in_use: AtomicU64,
    /// APDUs refused by the firewall.
    pub firewall_denied: AtomicU64,
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
    pub fn snapshot(&self) -> [(&'static str, u64); 8] {
        [
            ("gose_connections_total", &self.connections),
            ("gose_handshakes_failed_total", &self.handshakes_failed),
            ("gose_sessions_total", &self.sessions),
            ("gose_scripts_total", &self.scripts),
            ("gose_policy_denied_total", &self.policy_denied),
            ("gose_in_use_total", &self.in_use),
            ("gose_firewall_denied_total", &self.firewall_denied),
            ("gose_reloads_total", &self.reloads),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
