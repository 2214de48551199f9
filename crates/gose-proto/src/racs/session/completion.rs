//! Completions become status lines.

use super::{Completion, Session};
use crate::racs::{
    Class, Code, Failure, MAX_COMMANDS, Seid, Verb, reply::Parameters, script::Outcome,
};

/// The operation that was handed out, and which line its answer belongs to.
pub(super) enum Running {
    List(u16, bool),
    PowerOn(Seid, u16, bool),
    Reset(Seid, u16, bool),
    /// First line, and the APPEND of each.
    Apdus(u16, Vec<bool>),
    Shutdown(Seid, u16, bool),
}

impl Running {
    /// Line number, APPEND and command class. Those of APDUs stand in the batch.
    fn line(&self) -> (u16, bool, Verb) {
        match *self {
            Self::List(number, append) => (number, append, Verb::LIST),
            Self::PowerOn(_, number, append) => (number, append, Verb::POWERON),
            Self::Reset(_, number, append) => (number, append, Verb::RESET),
            Self::Apdus(number, _) => (number, false, Verb::APDU),
            Self::Shutdown(_, number, append) => (number, append, Verb::SHUTDOWN),
        }
    }
}

impl Session {
    /// Tells what the operation that was handed out last came to. Ignored when none is running.
    pub fn complete(&mut self, completion: Completion) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.clock.stirred = true;
        let (number, append, verb) = running.line();
        match (&running, &completion) {
            (_, Completion::Failed(failure)) => self.failure(number, verb, *failure),
            (Running::List(..), Completion::Seids(seids)) => {
                self.answer(number, append, verb, Parameters::Seids(seids));
            }
            (Running::PowerOn(seid, ..), Completion::PoweredOn { atr, already }) => {
                let what = if *already {
                    "already powered on"
                } else {
                    "powered on"
                };
                self.answer(
                    number,
                    append,
                    verb,
                    Parameters::Done(seid, what, atr.as_deref()),
                );
            }
            (Running::Reset(seid, ..), Completion::Reset { atr }) => {
                self.answer(
                    number,
                    append,
                    verb,
                    Parameters::Done(seid, "reset", atr.as_deref()),
                );
            }
            (Running::Shutdown(seid, ..), Completion::Shutdown) => {
                self.answer(
                    number,
                    append,
                    verb,
                    Parameters::Done(seid, "powered off", None),
                );
            }
            (Running::Apdus(first, appends), Completion::Apdus { done, failed }) => {
                self.outcomes(*first, appends, done, *failed);
            }
            _ => self.failure(number, verb, Failure::Internal),
        }
    }

    /// One status line an outcome. A script that ended early for no reason is our own fault.
    fn outcomes(
        &mut self,
        first: u16,
        appends: &[bool],
        done: &[Option<Outcome>],
        failed: Option<Failure>,
    ) {
        let last = done.len().min(appends.len());
        for ((number, append), (at, outcome)) in (first..).zip(appends).zip(done.iter().enumerate())
        {
            let told = match outcome {
                Some(outcome) if outcome.expected => {
                    let answer = Parameters::Answer(&outcome.body, outcome.sw);
                    self.answer(number, *append, Verb::APDU, answer)
                }
                Some(outcome) => {
                    let text = Parameters::WrongStatus(outcome.sw);
                    self.stop(number, Code::new(Class::Execution, Verb::APDU), text);
                    false
                }
                None if *append || (at + 1 == last && failed.is_none()) => {
                    self.failure(number, Verb::APDU, Failure::Internal);
                    false
                }
                None => true,
            };
            if !told {
                return;
            }
        }
        if last < appends.len() {
            let number = (first..).nth(last).unwrap_or(MAX_COMMANDS);
            self.failure(number, Verb::APDU, failed.unwrap_or(Failure::Internal));
        }
    }
}
