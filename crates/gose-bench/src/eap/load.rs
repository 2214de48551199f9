//! The load: so many peers, each on a thread of its own, one authentication after another.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::peer::Peer;
use crate::child::Outcome;

/// What one measurement came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) done: usize,
    pub(crate) resumed: usize,
    pub(crate) took: Duration,
    /// How long each took, in order of size.
    pub(crate) latencies: Vec<Duration>,
    /// Why authentications failed; at most a few are kept.
    pub(crate) failures: Vec<String>,
    pub(crate) failed: usize,
    /// Packets sent again.
    pub(crate) sent: u64,
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Duration),
    Count(usize),
}

impl Measured {
    pub(crate) fn per_second(&self) -> f64 {
        number(self.done) / self.took.as_secs_f64()
    }

    /// The latency under which so many of a hundred authentications are.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = self.latencies.len() * percent / 100;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies
            .get(at.min(last))
            .copied()
            .unwrap_or_default()
    }
}

pub(crate) fn number(value: usize) -> f64 {
    value as f64
}

const REASONS: usize = 5;

/// Lets all peers authenticate at once; gives them back.
pub(crate) fn run(peers: Vec<Peer>, until: Until) -> Outcome<(Vec<Peer>, Measured)> {
    let over = Arc::new(AtomicBool::new(false));
    let left = Arc::new(Mutex::new(match until {
        Until::Count(count) => count,
        Until::Time(_) => usize::MAX,
    }));
    let begun = Instant::now();
    let threads: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            let (over, left) = (over.clone(), left.clone());
            std::thread::spawn(move || one(peer, &over, &left))
        })
        .collect();
    if let Until::Time(time) = until {
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
    }
    let mut peers = Vec::new();
    let mut all = Measured::default();
    for thread in threads {
        let (peer, own) = thread.join().map_err(|_| "a peer's thread ended")?;
        peers.push(peer);
        all.done += own.done;
        all.resumed += own.resumed;
        all.failed += own.failed;
        all.sent += own.sent;
        all.failures.extend(own.failures);
        all.latencies.extend(own.latencies);
    }
    all.failures.truncate(REASONS);
    all.took = begun.elapsed();
    all.latencies.sort_unstable();
    Ok((peers, all))
}

fn one(mut peer: Peer, over: &AtomicBool, left: &Mutex<usize>) -> (Peer, Measured) {
    let mut own = Measured::default();
    let before = peer.sent();
    while !over.load(Ordering::Relaxed) && take(left) {
        let begun = Instant::now();
        match peer.authenticate() {
            Ok(done) => {
                own.done += 1;
                own.resumed += usize::from(done.resumed);
                own.latencies.push(begun.elapsed());
            }
            Err(reason) => {
                own.failed += 1;
                if own.failures.len() < REASONS {
                    own.failures.push(reason.to_string());
                }
            }
        }
    }
    own.sent = peer.sent() - before;
    (peer, own)
}

fn take(left: &Mutex<usize>) -> bool {
    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}
