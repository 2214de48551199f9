//! Counters of a node, kept in the process, and told to Prometheus.

mod endpoint;
mod exposition;
mod refusals;

use std::sync::atomic::{AtomicU64, Ordering};

use gose_proto::racs::Class;

pub use endpoint::{Endpoint, Figures};
pub use exposition::Exposition;
pub use refusals::{TlsRefusal, TlsRefusals};

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
    /// RACS operations by status class.
    pub racs: ByClass,
    /// TLS handshakes refused, by cause.
    pub tls_refused: TlsRefusals,
}

/// Counters by RACS's status classes.
#[derive(Debug, Default)]
pub struct ByClass([AtomicU64; CLASSES.len()]);

/// The classes as the line has them, and as a label.
const CLASSES: [(Class, &str); 11] = [
    (Class::Success, "+0"),
    (Class::Execution, "-0"),
    (Class::UnknownCommand, "-1"),
    (Class::NotImplemented, "-2"),
    (Class::Illegal, "-3"),
    (Class::Value, "-4"),
    (Class::Syntax, "-5"),
    (Class::Unauthorised, "-6"),
    (Class::InUse, "-7"),
    (Class::Hardware, "-8"),
    (Class::System, "-9"),
];

impl ByClass {
    /// Counts one of this class.
    pub(crate) fn add(&self, class: Class) {
        let at = CLASSES.iter().position(|(of, _)| *of == class);
        if let Some(counter) = at.and_then(|at| self.0.get(at)) {
            Metrics::add(counter);
        }
    }

    /// Each class and its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let labels = CLASSES.iter().map(|(_, label)| *label);
        labels.zip(self.0.iter().map(|counter| counter.load(Ordering::Relaxed)))
    }
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
