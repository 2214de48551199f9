//! How conversations end, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a conversation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Rejected,
    /// Nobody went on with it.
    Abandoned,
}

/// Conversations by how they ended, whatever carried them.
#[derive(Debug, Default)]
pub struct Verdicts {
    accepted: AtomicU64,
    rejected: AtomicU64,
    abandoned: AtomicU64,
}

impl Verdicts {
    pub(super) fn add(&self, verdict: Verdict) {
        let counter = match verdict {
            Verdict::Accepted => &self.accepted,
            Verdict::Rejected => &self.rejected,
            Verdict::Abandoned => &self.abandoned,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Each verdict and its count.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = [
            ("accept", &self.accepted),
            ("reject", &self.rejected),
            ("abandoned", &self.abandoned),
        ];
        all.into_iter()
            .map(|(label, counter)| (label, counter.load(Ordering::Relaxed)))
    }
}
