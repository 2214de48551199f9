//! Time limits.

use std::time::Duration;

use super::{Close, Session, State};

/// What a session knows of time.
pub(super) struct Clock {
    idle: Duration,
    unfinished: Duration,
    now: Duration,
    /// Since when the peer is silent.
    quiet: Duration,
    /// What the peer let pass since the first byte of this request.
    pub(super) waited: Duration,
    /// Whether something was received or completed since the last look at the clock.
    pub(super) stirred: bool,
}

impl Clock {
    pub(super) fn new(idle: Duration, unfinished: Duration) -> Self {
        Self {
            idle,
            unfinished,
            now: Duration::ZERO,
            quiet: Duration::ZERO,
            waited: Duration::ZERO,
            stirred: false,
        }
    }
}

impl Session {
    /// Tells the time, as a duration since an arbitrary start; see the module for when.
    pub fn expire(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.clock.now);
        self.clock.now = self.clock.now.max(now);
        if self.clock.stirred || self.running.is_some() {
            self.clock.stirred = false;
            self.clock.quiet = self.clock.now;
            return;
        }
        if self.is_between_requests() {
            self.clock.waited = Duration::ZERO;
        } else {
            self.clock.waited += passed;
        }
        if self.closing.is_some() || self.deadline().is_none_or(|at| self.clock.now < at) {
            return;
        }
        self.closing = Some(if self.is_between_requests() {
            Close::Idle
        } else {
            Close::Unfinished
        });
        self.batch = None;
        self.input.discard();
    }

    /// When [`Session::expire`] has something to do, if nothing happens before. `None` while an
    /// operation runs: elements have time limits of their own.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        if self.running.is_some() || self.closing.is_some() {
            return None;
        }
        let idle = self.clock.quiet + self.clock.idle;
        if self.is_between_requests() {
            return Some(idle);
        }
        let left = self.clock.unfinished.saturating_sub(self.clock.waited);
        Some(idle.min(self.clock.now + left))
    }

    /// Whether no request is in progress: a session that may close without harm. A request begins with
    /// its first byte, not with its first whole line.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Between) && self.input.len() == 0
    }
}
