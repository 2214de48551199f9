//! What the machine asks of its shell, and what came of it.

use crate::racs::{
    Code, Failure, Seid,
    script::{Outcome, Script},
};

/// What an element, or the grid, is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Tell the SEIDs that this peer may use. Answered by [`Completion::Seids`].
    List,
    /// Lock and power up. Answered by [`Completion::PoweredOn`].
    PowerOn {
        /// The element.
        seid: Seid,
    },
    /// Lock, power up if off, reset. Answered by [`Completion::Reset`].
    Reset {
        /// The element.
        seid: Seid,
        /// By the reset line only.
        warm: bool,
    },
    /// Lock, power up if off, run the APDUs. Answered by [`Completion::Apdus`].
    Apdus {
        /// The element.
        seid: Seid,
        /// Consecutive APDU lines for this element.
        script: Script,
    },
    /// Power down and unlock. Answered by [`Completion::Shutdown`].
    Shutdown {
        /// The element.
        seid: Seid,
    },
}

/// What an operation came to.
#[derive(Debug)]
pub enum Completion {
    /// The SEIDs that this peer may use.
    Seids(Vec<Seid>),
    /// The element is powered up.
    PoweredOn {
        /// Its answer to reset.
        atr: Option<Vec<u8>>,
        /// It was powered up by this session already; nothing was done.
        already: bool,
    },
    /// The element was reset.
    Reset {
        /// Its answer to reset.
        atr: Option<Vec<u8>>,
    },
    /// The script ran to its end, to an unexpected status word, or to a failure.
    Apdus {
        /// One a step that ran, in order. `None` where a remote element did not tell, which it does
        /// for the last step and for those with `append`.
        done: Vec<Option<Outcome>>,
        /// Why no answer came to the step after the last of `done`.
        failed: Option<Failure>,
    },
    /// The element is powered down and unlocked.
    Shutdown,
    /// Nothing was done.
    Failed(Failure),
}

/// What the shell is to do next.
#[derive(Debug)]
pub enum Output<'a> {
    /// Run this, then call [`Session::complete`](super::Session::complete). Until then there is no further output.
    Run(Operation),
    /// Send these bytes, in one write.
    Send(&'a [u8]),
    /// Close the connection; unlock and power down whatever the session holds.
    Close(Close),
}

/// Why a session closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// A fatal error, told in the last response.
    Fatal(Code),
    /// Nothing came for [`IDLE`](super::IDLE).
    Idle,
    /// A request was not finished within [`UNFINISHED`](super::UNFINISHED).
    Unfinished,
}
