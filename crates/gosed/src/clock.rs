//! The time by which certificates and tokens are judged. It does not go back while the node runs: a clock that is set
//! back revives nothing that had expired.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// How far the system's clock may stand back without a word in the log: corrections of clocks that run fast.
const SLACK: Duration = Duration::from_secs(2);

/// The node's clock: the system's, or what passed since the node's start where that is later.
#[derive(Debug, Clone, Copy)]
pub struct Clock;

struct Start {
    system: Duration,
    at: Instant,
    told: AtomicBool,
}

static START: LazyLock<Start> = LazyLock::new(|| Start {
    system: system(),
    at: Instant::now(),
    told: AtomicBool::new(false),
});

impl Clock {
    /// The node starts: from now on no earlier time than this is told.
    pub fn start() {
        LazyLock::force(&START);
    }

    /// Time since 1970.
    #[must_use]
    pub fn now() -> UnixTime {
        UnixTime::since_unix_epoch(START.judge(system(), START.at.elapsed()))
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn seconds() -> i64 {
        i64::try_from(Self::now().as_secs()).unwrap_or(i64::MAX)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(Self::now())
    }
}

impl Start {
    fn judge(&self, system: Duration, passed: Duration) -> Duration {
        let least = self.system + passed;
        let back = system + SLACK < least;
        if back != self.told.swap(back, Ordering::Relaxed) {
            match back {
                true => tracing::warn!(
                    by_s = (least - system).as_secs(),
                    "the system's clock was set back: certificates are judged by the time that passed since the start; \
                     restart the node if the clock was wrong before"
                ),
                false => tracing::info!("the system's clock is in step again"),
            }
        }
        system.max(least)
    }
}

fn system() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_alone() {
        let start = Start {
            system: Duration::from_secs(1000),
            at: Instant::now(),
            told: AtomicBool::new(false),
        };
        let check = |system: u64, passed: u64, expected: u64, back: bool| {
            let (system, passed) = (Duration::from_secs(system), Duration::from_secs(passed));
            assert_eq!(start.judge(system, passed).as_secs(), expected);
            assert_eq!(start.told.load(Ordering::Relaxed), back);
        };
        check(1000, 0, 1000, false);
        check(1010, 10, 1010, false);
        // Set forward, also by mistake, and back again.
        check(8210, 10, 8210, false);
        check(1020, 20, 1020, false);
        // A little behind, as clocks are that are corrected.
        check(1028, 30, 1030, false);
        // Set back.
        check(0, 30, 1030, true);
        check(1031, 40, 1040, true);
        check(1050, 50, 1050, false);
    }
}
