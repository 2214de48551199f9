//! The server's side of a RACS session.
//!
//! ```text
//! loop {
//!     session.expire(now)            // a time limit may close the session
//!     wait for bytes if session.wants_input(), until session.deadline()
//!     session.expire(now)            // what was waited counts against the peer
//!     session.receive(bytes)
//!     while let Some(output) = session.poll() { Run -> complete, Send -> write, Close -> leave }
//! }
//! ```

use std::time::Duration;

use zeroize::Zeroize;

use super::{
    MAX_LINE,
    input::{Input, Peeked, TooLong},
};
use batch::Batch;
use clock::Clock;
use completion::Running;
use response::{Frame, clear};

pub use operation::{Close, Completion, Operation, Output};

mod batch;
mod clock;
mod completion;
mod grammar;
mod operation;
mod response;

/// Time without a byte after which a session closes.
pub const IDLE: Duration = Duration::from_secs(600);

/// Time that a peer may let pass between the first byte of BEGIN and END. The time that elements take does not count.
pub const UNFINISHED: Duration = Duration::from_secs(60);

/// Bytes of whole responses that are sent without waiting for the input to run dry.
const FLUSH: usize = 64 * 1024;

/// Capacity that an empty buffer keeps.
const RETAINED: usize = 4096;

/// When APDU lines become an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As soon as they have arrived: the element is here.
    Direct,
    /// When another kind of line, or END, has arrived: a relay makes one request upstream of them.
    Gather,
}

/// A RACS session, seen by the server. One a connection; pure: see the module for its use.
pub struct Session {
    mode: Mode,
    input: Input,
    state: State,
    /// APDU lines that are read and not yet run.
    batch: Option<Batch>,
    running: Option<Running>,
    /// The response in progress.
    open: Vec<u8>,
    /// Whole responses.
    ready: Vec<u8>,
    /// Whether `ready` was handed out.
    sent: bool,
    closing: Option<Close>,
    closed: bool,
    clock: Clock,
}

/// Where the session stands in the grammar.
#[derive(Clone, Copy)]
enum State {
    /// Before a BEGIN.
    Between,
    /// After a BEGIN.
    Request(Frame),
    /// After an error: lines are ignored up to END.
    Ignoring,
}

/// How far one look at the input went.
enum Progress {
    Run(Operation),
    More,
    Starved,
}

impl Session {
    /// A session that begins now.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            input: Input::default(),
            state: State::Between,
            batch: None,
            running: None,
            open: Vec::new(),
            ready: Vec::new(),
            sent: false,
            closing: None,
            closed: false,
            clock: Clock::new(IDLE, UNFINISHED),
        }
    }

    /// The same session with other time limits than [`IDLE`] and [`UNFINISHED`].
    #[must_use]
    pub fn with_time_limits(mut self, idle: Duration, unfinished: Duration) -> Self {
        self.clock = Clock::new(idle, unfinished);
        self
    }

    /// Takes bytes from the peer.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.closing.is_none() {
            self.clock.stirred = true;
            self.input.push(bytes);
        }
    }

    /// Whether the shell should read on. While it is false the peer has to wait: what it sent and
    /// what is not yet run stays bounded by one line and one read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.closing.is_none() && self.input.len() <= MAX_LINE + 2
    }

    /// Whether an operation was handed out and not completed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The identifier of the request in progress, if it has one.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        let State::Request(frame) = self.state else {
            return None;
        };
        let line = self.open.get(..frame.body)?.strip_prefix(b"BEGIN ")?;
        std::str::from_utf8(line.trim_ascii_end()).ok()
    }

    /// The next thing to do. `None`: wait for bytes, or for the operation to complete.
    ///
    /// Responses are sent when the input holds no further line, so that pipelined requests cost one
    /// write; before an operation that takes long, see [`Session::flush`].
    pub fn poll(&mut self) -> Option<Output<'_>> {
        self.forget_sent();
        while self.running.is_none() && self.closing.is_none() && self.ready.len() < FLUSH {
            match self.advance() {
                Progress::Run(operation) => return Some(Output::Run(operation)),
                Progress::More => {}
                Progress::Starved => break,
            }
        }
        if self.running.is_some() {
            return None;
        }
        if !self.ready.is_empty() {
            self.sent = true;
            return Some(Output::Send(&self.ready));
        }
        match self.closing {
            Some(reason) if !self.closed => {
                self.closed = true;
                Some(Output::Close(reason))
            }
            _ => None,
        }
    }

    /// Whole responses that wait for the operation that runs, if there are any: what a shell sends
    /// before it starts one that takes long.
    pub fn flush(&mut self) -> Option<&[u8]> {
        self.forget_sent();
        self.sent = !self.ready.is_empty();
        self.sent.then_some(&*self.ready)
    }

    fn forget_sent(&mut self) {
        if self.sent {
            self.sent = false;
            clear(&mut self.ready);
        }
    }

    /// Looks at one line. It stays in the input while the batch before it has to run.
    fn advance(&mut self) -> Progress {
        let mut input = std::mem::take(&mut self.input);
        let progress = match input.peek(MAX_LINE) {
            Ok(Some(Peeked { line, size })) => {
                let (progress, read) = self.line(line);
                if read {
                    input.consume(size);
                }
                progress
            }
            Ok(None) if self.mode == Mode::Direct => self.run_batch().unwrap_or(Progress::Starved),
            Ok(None) => Progress::Starved,
            Err(TooLong) => self.run_batch().unwrap_or_else(|| self.too_long()),
        };
        if self.closing.is_some() {
            input.discard();
        }
        self.input = input;
        progress
    }
}

/// Answers may hold keys.
impl Drop for Session {
    fn drop(&mut self) {
        self.open.zeroize();
        self.ready.zeroize();
    }
}

#[cfg(test)]
mod tests;
