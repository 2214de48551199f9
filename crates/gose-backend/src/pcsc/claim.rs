//! Readers whose cards this process asks who they are: a card is exclusively connected meanwhile, and whoever else in
//! this process wants it waits instead of being told that another program has it.

use std::{
    ffi::{CStr, CString},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::library::{Context, Failure, Link};

/// How long a connection waits for claims: a card says who it is in some ten milliseconds, a mute one in seconds.
const PATIENCE: Duration = Duration::from_secs(10);

static CLAIMS: Mutex<Claims> = Mutex::new(Claims {
    readers: Vec::new(),
    ended: 0,
});
static ENDED: Condvar = Condvar::new();

struct Claims {
    readers: Vec<CString>,
    /// Claims that have ended: a connection that was refused while this number grew was perhaps refused by one.
    ended: u64,
}

/// A reader is asked for its card's number until this is dropped.
pub(super) struct Claim(CString);

impl Claim {
    /// Waits until nobody else asks the same reader; `None` when that takes too long.
    pub(super) fn on(reader: &CStr) -> Option<Self> {
        let mut claims = free(reader, Instant::now() + PATIENCE)?;
        claims.readers.push(reader.to_owned());
        Some(Self(reader.to_owned()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock();
        claims.readers.retain(|reader| *reader != self.0);
        claims.ended += 1;
        ENDED.notify_all();
    }
}

/// Connects to the card in a reader; one that a claim holds is waited for.
pub(super) fn connect(context: &Context, reader: &CStr) -> Result<Link, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(ended) = free(reader, deadline).map(|claims| claims.ended) else {
            return Err(Failure::SHARING_VIOLATION);
        };
        match context.connect(reader) {
            Err(Failure::SHARING_VIOLATION) if is_claimed_since(reader, ended) => {}
            other => return other,
        }
    }
}

/// The claims, once this reader is in none of them; `None` after the deadline.
fn free(reader: &CStr, deadline: Instant) -> Option<MutexGuard<'static, Claims>> {
    let left = deadline.saturating_duration_since(Instant::now());
    let claimed = |claims: &mut Claims| claims.readers.iter().any(|other| **other == *reader);
    let (claims, waited) = ENDED
        .wait_timeout_while(lock(), left, claimed)
        .unwrap_or_else(PoisonError::into_inner);
    (!waited.timed_out()).then_some(claims)
}

fn is_claimed_since(reader: &CStr, ended: u64) -> bool {
    let claims = lock();
    claims.ended != ended || claims.readers.iter().any(|other| **other == *reader)
}

fn lock() -> MutexGuard<'static, Claims> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_a_reader() {
        let first = Claim::on(c"one").unwrap();
        let other = Claim::on(c"other").unwrap();
        let before = lock().ended;
        assert!(is_claimed_since(c"one", before) && !is_claimed_since(c"third", before));
        let waiting = std::thread::spawn(|| Claim::on(c"one").is_some());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(first);
        assert!(waiting.join().unwrap());
        assert!(free(c"one", Instant::now() + PATIENCE).is_some());
        assert!(free(c"other", Instant::now()).is_none());
        assert!(is_claimed_since(c"third", before), "something ended since");
        drop(other);
    }
}
