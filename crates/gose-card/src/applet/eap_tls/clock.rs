//! The host's time: a card has no clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// The last time that the host told since power-up, in seconds since 1970; 0 = none.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn set(&self, seconds: u32) {
        self.0.store(u64::from(seconds), Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(super) fn now(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }
}

/// rustls needs some time for tickets even where no certificate is checked against one.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.now().unwrap_or_default();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
