//! What a script came to on an element.

use gose_proto::racs::{Completion, Failure};

use crate::{ElementError, Outcome};

/// What a script came to: one outcome a step that ran, in order.
///
/// A script ends at its last step, at the first unmet `expect` (its outcome is the last one), or where
/// the element stopped answering (`failed`; the steps before it are kept).
#[derive(Debug, Default)]
pub struct Outcomes {
    /// One a step that ran. A remote element answers `None` for a step whose answer it was not told.
    pub done: Vec<Option<Outcome>>,
    /// Why no answer came to the step after the last of `done`.
    pub failed: Option<ElementError>,
}

impl Outcomes {
    /// The outcome of the step that ran last, if it was told.
    #[must_use]
    pub fn last(&self) -> Option<&Outcome> {
        self.done.last().and_then(Option::as_ref)
    }

    /// Whether every step of a script of `steps` steps ran and met its `expect`.
    #[must_use]
    pub fn complete(&self, steps: usize) -> bool {
        self.failed.is_none()
            && self.done.len() == steps
            && self.done.iter().flatten().all(|outcome| outcome.expected)
    }
}

/// The answer of a RACS server.
impl From<Outcomes> for Completion {
    fn from(outcomes: Outcomes) -> Self {
        Self::Apdus {
            failed: outcomes.failed.as_ref().map(Failure::from),
            done: outcomes.done,
        }
    }
}
