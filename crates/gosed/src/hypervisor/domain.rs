//! A running virtual machine: its tokens and its join secret.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gose_proto::identity::{
    VmId, VmName,
    attach::{AttachError, JoinSecret, Serial},
};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use super::token::{IssueError, Issued, Subject, TokenIssuer};

/// How long attach still signs for the token before the current one.
pub const OVERLAP: Duration = Duration::from_secs(60);

/// Requests on the attach channels that a domain may make at once. A TLS handshake takes one signature, and a guest
/// has 32 sockets at a time: a guest that lost all its sessions opens them again, and once more where that failed.
pub const BURST: u32 = 64;

/// Time after which a domain may make one request more: 20 new sessions a second, which leaves other guests their
/// turn at a `hv-ca` whose element takes a millisecond or two to sign.
pub const REFILL: Duration = Duration::from_millis(50);

/// A domain that runs: exactly one generation of a virtual machine.
pub struct Domain {
    name: VmName,
    generation: u64,
    issuer: Arc<TokenIssuer>,
    state: Mutex<State>,
    /// The current token, for whoever pushes it to the guest.
    current: watch::Sender<Arc<Issued>>,
}

struct State {
    secret: Option<JoinSecret>,
    previous: Option<(Serial, Instant)>,
    ended: bool,
    suspended: bool,
    allowance: Allowance,
}

/// A token bucket.
struct Allowance {
    left: u32,
    counted: Instant,
}

impl Domain {
    /// A domain that starts: it gets its first token and its first join secret. Blocks while the element
    /// signs. `unix` is the time in seconds since 1970.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn start(
        issuer: Arc<TokenIssuer>,
        vm: VmId,
        generation: u64,
        unix: i64,
    ) -> Result<Arc<Self>, IssueError> {
        let issued = issuer.issue(vm, generation, Subject::Hypervisor, unix)?;
        tracing::info!(vm = %vm, generation, serial = %issued.serial, "attachment token issued");
        Ok(Arc::new(Self {
            name: issuer.name(vm),
            generation,
            issuer,
            state: Mutex::new(State {
                secret: Some(new_secret()?),
                previous: None,
                ended: false,
                suspended: false,
                allowance: Allowance::full(),
            }),
            current: watch::Sender::new(Arc::new(issued)),
        }))
    }

    /// The domain's UUID.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.name.vm
    }

    /// Its whole name.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Counts the starts of the domain.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who issues its tokens.
    #[must_use]
    pub fn issuer(&self) -> &Arc<TokenIssuer> {
        &self.issuer
    }

    /// The token of now.
    #[must_use]
    pub fn token(&self) -> Arc<Issued> {
        self.current.borrow().clone()
    }

    /// Tells of every new token.
    #[must_use]
    pub fn tokens(&self) -> watch::Receiver<Arc<Issued>> {
        self.current.subscribe()
    }

    /// The secret of the next join, for the join record.
    #[must_use]
    pub fn join_secret(&self) -> Option<JoinSecret> {
        self.state().secret.clone()
    }

    /// Takes a join: the secret is used up, the next one is returned.
    ///
    /// # Errors
    /// [`AttachError::Secret`] for another secret, and after the domain's end.
    pub fn join(&self, shown: &JoinSecret) -> Result<JoinSecret, AttachError> {
        let mut state = self.state();
        let expected = state.secret.as_ref().ok_or(AttachError::Secret)?;
        if !bool::from(expected.as_bytes().ct_eq(shown.as_bytes())) {
            return Err(AttachError::Secret);
        }
        let next = new_secret().map_err(|_| AttachError::Element)?;
        state.secret = Some(next.clone());
        Ok(next)
    }

    /// Whether attach signs for this serial: the current token, or for [`OVERLAP`] the one before.
    ///
    /// # Errors
    /// [`AttachError::NotCurrent`].
    pub fn check_serial(&self, serial: &Serial, now: Instant) -> Result<(), AttachError> {
        let state = self.state();
        if state.ended || state.suspended {
            return Err(AttachError::NotCurrent);
        }
        if self.current.borrow().serial == *serial {
            return Ok(());
        }
        match &state.previous {
            Some((previous, until)) if previous == serial && now < *until => Ok(()),
            _ => Err(AttachError::NotCurrent),
        }
    }

    /// The domain runs no more: from now on nothing is signed for it, whatever channel is still open.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.secret = None;
    }

    /// Whether it still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.state().ended
    }

    /// The domain is held, or goes on. While it is held nothing is signed for it.
    pub fn suspend(&self, suspended: bool) {
        self.state().suspended = suspended;
    }

    /// Whether the domain is held.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.state().suspended
    }

    /// Takes one request from the domain's allowance.
    ///
    /// # Errors
    /// [`AttachError::RateLimited`].
    pub fn admit(&self, now: Instant) -> Result<(), AttachError> {
        if self.state().allowance.take(now) {
            Ok(())
        } else {
            Err(AttachError::RateLimited)
        }
    }

    /// Makes a new token the current one. Blocks while the element signs.
    ///
    /// # Errors
    /// [`IssueError`]; the current one stays.
    pub fn renew(&self, unix: i64, now: Instant) -> Result<(), IssueError> {
        let vm = self.vm();
        let issued = self
            .issuer
            .issue(vm, self.generation, Subject::Hypervisor, unix)?;
        tracing::info!(vm = %vm, generation = self.generation, serial = %issued.serial, "attachment token renewed");
        let before = self.current.send_replace(Arc::new(issued));
        self.state().previous = Some((before.serial.clone(), now + OVERLAP));
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Allowance {
    fn full() -> Self {
        Self {
            left: BURST,
            counted: Instant::now(),
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        let earned = u32::try_from(passed.as_millis() / REFILL.as_millis()).unwrap_or(BURST);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.counted = now;
        }
        let admitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admitted
    }
}

fn new_secret() -> Result<JoinSecret, IssueError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut())
        .map_err(|_| IssueError::Build("no random numbers".to_owned()))?;
    Ok(JoinSecret::new(*bytes))
}

#[cfg(test)]
pub(super) mod tests;
