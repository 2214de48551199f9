//! Consecutive APDU lines for one element become one operation.

use super::{Operation, Progress, Session, State, completion::Running};
use crate::racs::{
    Command, Line, MAX_COMMANDS, Seid,
    script::{Script, Step},
};

/// Bytes of APDUs that one operation carries at most.
const MAX_BATCH: usize = 256 * 1024;

/// APDU lines that are read and not yet run.
pub(super) struct Batch {
    first: u16,
    seid: Seid,
    script: Script,
    bytes: usize,
}

impl Batch {
    pub(super) fn new(first: u16, seid: Seid, step: Step) -> Self {
        Self {
            first,
            seid,
            bytes: step.apdu.len(),
            script: step.into(),
        }
    }
}

impl Session {
    /// Whether the line was an APDU that joins the batch.
    pub(super) fn join(&mut self, line: &[u8]) -> bool {
        let (State::Request(frame), Some(batch)) = (&mut self.state, &mut self.batch) else {
            return false;
        };
        if frame.lines >= MAX_COMMANDS
            || batch.bytes >= MAX_BATCH
            || !Line::is_apdu_for(line, &batch.seid)
        {
            return false;
        }
        // A line with an error is met again when the batch has run.
        let Ok(Line::Command(Command::Apdu(_, step), _)) = Line::parse(line) else {
            return false;
        };
        frame.lines += 1;
        batch.bytes += step.apdu.len();
        batch.script.steps.push(step);
        true
    }

    pub(super) fn run_batch(&mut self) -> Option<Progress> {
        let batch = self.batch.take()?;
        let appends = batch.script.steps.iter().map(|step| step.append).collect();
        self.running = Some(Running::Apdus(batch.first, appends));
        Some(Progress::Run(Operation::Apdus {
            seid: batch.seid,
            script: batch.script,
        }))
    }
}
