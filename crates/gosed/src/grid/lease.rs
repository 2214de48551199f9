//! Exclusive use of an element by a session, and the element's power
//! (draft-urien-core-racs-02, 5.2).

use std::sync::Arc;

use gose_element::{Atr, ElementError, Outcome, Outcomes, Script, Seid, Step, element::run_step};

use gose_proto::apdu::StatusWord;
use tokio::time::Instant;

use crate::metrics::Metrics;

use super::{
    Grid, Peer, Plane, Policy, Refusal,
    firewall::{Firewall, Selection, Verdict},
    slot::{Running, Runs, Slot},
};

/// An element, locked for one session, for one plane. Dropping it powers the element down and unlocks
/// it, whatever ended the session.
pub struct Lease {
    grid: Arc<Grid>,
    peer: Peer,
    plane: Plane,
    slot: Arc<Slot>,
    running: Running,
    firewall: Firewall,
    /// The policy that the firewall was made of.
    policy: Arc<Policy>,
    /// The answer to reset, while the element has power.
    atr: Option<Atr>,
}

/// An element has power.
#[derive(Debug, Clone)]
pub struct PoweredOn {
    /// Its answer to reset.
    pub atr: Atr,
    /// Whether this lease had powered it up before.
    pub already: bool,
}

/// What a script came to behind the firewall.
#[derive(Debug, Default)]
pub struct Ran {
    /// One a step that ran.
    pub done: Vec<Option<Outcome>>,
    /// Why no answer came to the step after the last of `done`.
    pub refused: Option<Refusal>,
}

impl Lease {
    pub(super) fn new(
        grid: Arc<Grid>,
        peer: Peer,
        plane: Plane,
        slot: Arc<Slot>,
        running: Running,
        policy: Arc<Policy>,
    ) -> Self {
        let access = policy.access(&peer.names, slot.seid(), plane);
        Self {
            grid,
            peer,
            plane,
            slot,
            running,
            firewall: Firewall::new(access),
            policy,
            atr: None,
        }
    }

    /// The element's name.
    #[must_use]
    pub fn seid(&self) -> Seid {
        self.slot.seid()
    }

    /// The plane it was opened for.
    #[must_use]
    pub fn plane(&self) -> Plane {
        self.plane
    }

    /// Whether the policy of now would still give this lease.
    #[must_use]
    pub fn is_permitted(&self) -> bool {
        let policy = self.grid.current_policy();
        policy.plane(&self.peer.names, self.seid()) >= Some(self.plane)
    }

    /// Powers the element up if this lease did not do so yet.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn power_on(&mut self) -> Result<PoweredOn, Refusal> {
        self.follow_policy()?;
        if let Some(atr) = &self.atr {
            return Ok(PoweredOn {
                atr: atr.clone(),
                already: true,
            });
        }
        let atr = match &mut self.running {
            Running::Inline(inline) => inline.element()?.power_on(),
            Running::Thread(worker) => worker.power_on().await,
        }?;
        self.firewall.forget();
        self.atr = Some(atr.clone());
        Ok(PoweredOn {
            atr,
            already: false,
        })
    }

    /// Resets the element, which powers it up if it was off. Nothing is selected then.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn reset(&mut self, warm: bool) -> Result<Atr, Refusal> {
        self.follow_policy()?;
        self.firewall.forget();
        let warm = warm && self.atr.is_some();
        self.atr = None;
        let atr = match &mut self.running {
            Running::Inline(inline) => inline.element()?.reset(warm),
            Running::Thread(worker) => worker.reset(warm).await,
        }?;
        self.atr = Some(atr.clone());
        Ok(atr)
    }

    /// Runs a script, which powers the element up if it was off. Every APDU passes the firewall.
    pub async fn run(&mut self, script: Script) -> Ran {
        if self.atr.is_none()
            && let Err(refusal) = self.power_on().await
        {
            return refusal.into();
        }
        if let Some((ran, _)) = self.run_at_once(&script, Instant::now()) {
            return ran;
        }
        if let Err(refusal) = self.follow_policy() {
            return refusal.into();
        }
        Metrics::add(&self.grid.metrics.scripts);
        let begun = Instant::now();
        let ran = self.run_on_thread(script).await;
        self.slot.meter().add(&ran, begun.elapsed());
        ran
    }

    /// The same by an element that is up and lives in this task: there is nothing to wait for. `now` is the time, which
    /// the caller has, and the time afterwards comes back: a look at the clock costs as much as a small command.
    /// `None`, and nothing was done, where [`Lease::run`] has to wait.
    pub fn run_at_once(&mut self, script: &Script, now: Instant) -> Option<(Ran, Instant)> {
        if self.atr.is_none() || !matches!(self.running, Running::Inline(_)) {
            return None;
        }
        if let Err(refusal) = self.follow_policy() {
            return Some((refusal.into(), now));
        }
        Metrics::add(&self.grid.metrics.scripts);
        let ran = self.run_inline(script);
        let ended = Instant::now();
        self.slot.meter().add(&ran, ended - now);
        Some((ran, ended))
    }

    /// Powers the element down, unlocks it, and waits until it is so.
    pub async fn shutdown(self) {
        let (slot, sid, timeout) = (self.slot.clone(), self.peer.sid, self.grid.apdu_timeout());
        drop(self);
        // An element that hangs stays locked until it comes back; whoever shuts it down need not wait.
        let _ = tokio::time::timeout(timeout, slot.freed_by(sid)).await;
    }

    fn run_inline(&mut self, script: &Script) -> Ran {
        let mut ran = Ran::default();
        for step in &script.steps {
            let outcome = match self.run_step_inline(step) {
                Ok(outcome) => outcome,
                Err(refusal) => {
                    if let Refusal::Element(error) = &refusal
                        && loses_power(error)
                    {
                        self.atr = None;
                        self.firewall.forget();
                    }
                    ran.refused = Some(refusal);
                    break;
                }
            };
            let stop = !outcome.expected;
            ran.done.push(Some(outcome));
            if stop {
                break;
            }
        }
        ran
    }

    fn run_step_inline(&mut self, step: &Step) -> Result<Outcome, Refusal> {
        let verdict = self.check(step)?;
        let Running::Inline(inline) = &mut self.running else {
            return Err(ElementError::Absent.into());
        };
        let element = inline.element()?;
        let outcome = if is_long(&step.apdu) {
            crate::long_step(|| run_step(element, step))?
        } else {
            run_step(element, step)?
        };
        if let Verdict::Select(selection) = verdict {
            self.firewall.selected(&selection, Some(&outcome));
        }
        Ok(outcome)
    }

    /// Hands the script over in pieces that the firewall can judge beforehand: what follows a SELECT
    /// goes with it only if it runs after a success alone.
    async fn run_on_thread(&mut self, script: Script) -> Ran {
        let mut ran = Ran::default();
        let mut rest = script.steps.into_iter().peekable();
        while rest.peek().is_some() && ran.refused.is_none() {
            let mut piece = Vec::new();
            let mut selection = None;
            while let Some(step) = rest.peek() {
                match self.check(step) {
                    Ok(Verdict::Pass) => {}
                    Ok(Verdict::Select(select)) => {
                        // Assumed for what follows in this piece; the answer corrects it.
                        self.firewall.selected(&select, None);
                        selection = Some((piece.len(), select));
                    }
                    Err(refusal) => {
                        ran.refused = Some(refusal);
                        break;
                    }
                }
                let Some(step) = rest.next() else { break };
                let goes_on = match &selection {
                    Some((at, select)) if *at == piece.len() => {
                        select.is_certain() && step.expect == Some(StatusWord::NORMAL)
                    }
                    _ => true,
                };
                piece.push(step);
                if !goes_on {
                    break;
                }
            }
            if !self.run_piece(piece, selection, &mut ran).await {
                break;
            }
        }
        ran
    }

    /// Whether the script goes on after this piece.
    async fn run_piece(
        &mut self,
        piece: Vec<Step>,
        selection: Option<(usize, Selection)>,
        ran: &mut Ran,
    ) -> bool {
        let (Running::Thread(worker), count) = (&self.running, piece.len()) else {
            return false;
        };
        if count == 0 {
            return false;
        }
        let Outcomes { done, failed } = worker.run(Script::new(piece)).await;
        let lost = failed.as_ref().is_some_and(|error| self.is_lost(error));
        if let Some((at, selection)) = selection {
            match done.get(at) {
                Some(outcome) => self.firewall.selected(&selection, outcome.as_ref()),
                // It is not known whether the card selected something.
                None => self.firewall.forget(),
            }
        }
        if lost {
            self.atr = None;
            self.firewall.forget();
        }
        let complete = done.len() == count && done.iter().flatten().all(|outcome| outcome.expected);
        ran.done.extend(done);
        if let Some(error) = failed {
            if loses_power(&error) {
                self.atr = None;
                self.firewall.forget();
            }
            ran.refused = Some(error.into());
        } else if !complete {
            ran.refused = None;
        }
        complete && ran.refused.is_none()
    }

    /// An element of a remote grid loses its power and all its state with the session that reached it: the next
    /// request powers it up anew.
    fn is_lost(&self, error: &ElementError) -> bool {
        self.slot.runs() == Runs::ThreadEachLease
            && matches!(
                error,
                ElementError::Transport(_) | ElementError::OutcomeUnknown
            )
    }

    fn check(&self, step: &Step) -> Result<Verdict, Refusal> {
        self.firewall.check(step).map_err(|reason| {
            Metrics::add(&self.grid.metrics.firewall_denied);
            let header = step.apdu.get(..4).map(gose_proto::hex::encode);
            tracing::info!(
                peer = %self.peer, seid = %self.seid(), header = header.as_deref().unwrap_or("-"), reason,
                "refused by the firewall"
            );
            Refusal::Forbidden(reason)
        })
    }

    /// The policy may have changed since the lease was made.
    fn follow_policy(&mut self) -> Result<(), Refusal> {
        if Arc::ptr_eq(&self.policy, &self.grid.current_policy()) {
            return Ok(());
        }
        if !self.is_permitted() {
            tracing::info!(peer = %self.peer, seid = %self.seid(), "refused: the policy changed");
            return Err(Refusal::Unauthorised);
        }
        self.policy = self.grid.current_policy().clone();
        let access = self
            .policy
            .access(&self.peer.names, self.seid(), self.plane);
        self.firewall.replace(access);
        Ok(())
    }
}

impl Drop for Lease {
    /// Nobody holds the element any more; `running`, dropped after this, powers it down.
    fn drop(&mut self) {
        self.slot.release();
    }
}

/// Whether an element that gave this instead of an answer must be powered up again: a card that was pulled, a line
/// that broke, a call that hangs and after which the element is powered down.
fn loses_power(error: &ElementError) -> bool {
    match error {
        ElementError::Absent
        | ElementError::Mute
        | ElementError::Timeout(_)
        | ElementError::Transport(_)
        | ElementError::OutcomeUnknown => true,
        ElementError::AnswerTooLong
        | ElementError::Malformed(_)
        | ElementError::Refused
        | ElementError::InUse
        | ElementError::Storage(_) => false,
    }
}

impl From<Refusal> for Ran {
    fn from(refusal: Refusal) -> Self {
        Self {
            done: Vec::new(),
            refused: Some(refusal),
        }
    }
}

/// Whether a software card may need more than a millisecond for this command: GENERATE of PIV and of
/// the EAP-TLS application.
fn is_long(apdu: &[u8]) -> bool {
    matches!(apdu, [0x00 | 0x10, 0x47, ..] | [0xA0, 0x46, ..])
}
