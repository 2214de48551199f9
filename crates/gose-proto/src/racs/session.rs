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
    Class, Code, Command, Failure, Line, LineError, MAX_COMMANDS, MAX_KEPT, MAX_LINE, Seid,
    VERSION, Verb,
    input::{Input, Peeked, TooLong},
    reply::{self, Parameters},
    script::{Outcome, Script, Step},
};

/// Time without a byte after which a session closes.
pub const IDLE: Duration = Duration::from_secs(600);

/// Time that a peer may let pass between the first byte of BEGIN and END. The time that elements take does not count.
pub const UNFINISHED: Duration = Duration::from_secs(60);

/// Bytes of APDUs that one operation carries at most.
const MAX_BATCH: usize = 256 * 1024;

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
    /// Run this, then call [`Session::complete`]. Until then there is no further output.
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
    /// Nothing came for [`IDLE`].
    Idle,
    /// A request was not finished within [`UNFINISHED`].
    Unfinished,
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

/// The response in progress, as places in its bytes.
#[derive(Clone, Copy)]
struct Frame {
    /// Command lines so far.
    lines: u16,
    /// Where the status lines begin.
    body: usize,
    /// Where the kept status lines end.
    kept: usize,
}

struct Batch {
    first: u16,
    seid: Seid,
    script: Script,
    bytes: usize,
}

enum Running {
    List(u16, bool),
    PowerOn(Seid, u16, bool),
    Reset(Seid, u16, bool),
    /// First line, and the APPEND of each.
    Apdus(u16, Vec<bool>),
    Shutdown(Seid, u16, bool),
}

struct Clock {
    idle: Duration,
    unfinished: Duration,
    now: Duration,
    /// Since when the peer is silent.
    quiet: Duration,
    /// What the peer let pass since the first byte of this request.
    waited: Duration,
    /// Whether something was received or completed since the last look at the clock.
    stirred: bool,
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

    /// What a line leads to, and whether it was read.
    fn line(&mut self, line: &[u8]) -> (Progress, bool) {
        match self.state {
            State::Between => self.begin(line),
            State::Ignoring => {
                if Line::is_end(line) {
                    self.between();
                }
            }
            State::Request(frame) => {
                if self.join(line) {
                    return (Progress::More, true);
                }
                return match self.run_batch() {
                    Some(progress) => (progress, false),
                    None => (self.command(frame, line), true),
                };
            }
        }
        (Progress::More, true)
    }

    fn begin(&mut self, line: &[u8]) {
        let line = Line::parse(line);
        reply::begin(
            &mut self.open,
            match line {
                Ok(Line::Begin(id)) => id,
                _ => None,
            },
        );
        let frame = Frame::new(self.open.len());
        match line {
            Ok(Line::Begin(_)) => self.state = State::Request(frame),
            Err(error @ (LineError::Byte | LineError::IdTooLong | LineError::Begin)) => {
                self.refuse(frame, 0, error);
            }
            Ok(_) | Err(_) => {
                let code = Code::new(Class::Illegal, Verb::NONE);
                self.fail(frame, 0, code, Parameters::Text("expecting BEGIN"), true);
            }
        }
    }

    fn command(&mut self, mut frame: Frame, line: &[u8]) -> Progress {
        let parsed = Line::parse(line);
        let number = frame.lines + 1;
        if number > MAX_COMMANDS && parsed != Ok(Line::End) {
            let code = Code::new(Class::Syntax, Verb::NONE);
            let text = Parameters::Text("more than 999 command lines");
            self.fail(frame, MAX_COMMANDS, code, text, true);
            return Progress::More;
        }
        match parsed {
            Ok(Line::Begin(_)) => {
                let code = Code::new(Class::Illegal, Verb::BEGIN);
                self.fail(
                    frame,
                    number,
                    code,
                    Parameters::Text("BEGIN inside a request"),
                    true,
                );
            }
            Ok(Line::End) => self.end(frame),
            Ok(Line::Command(command, append)) => {
                frame.lines = number;
                self.state = State::Request(frame);
                return self.execute(command, append, number);
            }
            Err(error) => self.refuse(frame, number, error),
        }
        Progress::More
    }

    fn execute(&mut self, command: Command<'_>, append: bool, number: u16) -> Progress {
        let (running, operation) = match command {
            Command::Apdu(seid, step) => {
                self.batch = Some(Batch::new(number, seid, step));
                return Progress::More;
            }
            Command::List => (Running::List(number, append), Operation::List),
            Command::PowerOn(seid) => (
                Running::PowerOn(seid, number, append),
                Operation::PowerOn { seid },
            ),
            Command::Reset(seid, warm) => (
                Running::Reset(seid, number, append),
                Operation::Reset { seid, warm },
            ),
            Command::Shutdown(seid) => (
                Running::Shutdown(seid, number, append),
                Operation::Shutdown { seid },
            ),
            Command::Echo(token) => {
                self.answer(number, append, Verb::ECHO, Parameters::Text(token));
                return Progress::More;
            }
            Command::GetVersion => {
                self.answer(number, append, Verb::GET_VERSION, Parameters::Text(VERSION));
                return Progress::More;
            }
            Command::SetVersion(VERSION) => {
                let text = Parameters::Text("RACS 0.2 active");
                self.answer(number, append, Verb::SET_VERSION, text);
                return Progress::More;
            }
            Command::SetVersion(_) => {
                self.reject(
                    number,
                    Class::Value,
                    Verb::SET_VERSION,
                    "version not supported",
                );
                return Progress::More;
            }
            Command::Sen => {
                self.reject(number, Class::NotImplemented, Verb::SEN, "not implemented");
                return Progress::More;
            }
            Command::GetSen => {
                self.reject(
                    number,
                    Class::NotImplemented,
                    Verb::GET_SEN,
                    "not implemented",
                );
                return Progress::More;
            }
        };
        self.running = Some(running);
        Progress::Run(operation)
    }

    fn too_long(&mut self) -> Progress {
        let code = Code::new(Class::Syntax, Verb::BEGIN);
        let text = Parameters::Text("line longer than 140000 bytes");
        match self.state {
            // The one response of this request was sent.
            State::Ignoring => self.closing = Some(Close::Fatal(code)),
            State::Between => {
                reply::begin(&mut self.open, None);
                self.fail(Frame::new(self.open.len()), 0, code, text, true);
            }
            State::Request(frame) => {
                let number = (frame.lines + 1).min(MAX_COMMANDS);
                self.fail(frame, number, code, text, true);
            }
        }
        Progress::More
    }
}

/// APDU lines become operations.
impl Session {
    /// Whether the line was an APDU that joins the batch.
    fn join(&mut self, line: &[u8]) -> bool {
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

    fn run_batch(&mut self) -> Option<Progress> {
        let batch = self.batch.take()?;
        let appends = batch.script.steps.iter().map(|step| step.append).collect();
        self.running = Some(Running::Apdus(batch.first, appends));
        Some(Progress::Run(Operation::Apdus {
            seid: batch.seid,
            script: batch.script,
        }))
    }
}

impl Batch {
    fn new(first: u16, seid: Seid, step: Step) -> Self {
        Self {
            first,
            seid,
            bytes: step.apdu.len(),
            script: step.into(),
        }
    }
}

impl Frame {
    fn new(body: usize) -> Self {
        Self {
            lines: 0,
            body,
            kept: body,
        }
    }
}

/// Completions become status lines.
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

    /// Writes a success line, in the place of the last one unless that was kept. Whether it fitted.
    fn answer(&mut self, number: u16, append: bool, verb: Verb, what: Parameters<'_>) -> bool {
        let State::Request(mut frame) = self.state else {
            return false;
        };
        self.open.truncate(frame.kept);
        reply::status(&mut self.open, Code::success(verb), number, what);
        if self.open.len() - frame.body > MAX_KEPT {
            let code = Code::new(Class::System, Verb::APDU);
            self.stop(number, code, Parameters::Text("response too long"));
            return false;
        }
        if append {
            frame.kept = self.open.len();
            self.state = State::Request(frame);
        }
        true
    }

    fn failure(&mut self, number: u16, verb: Verb, failure: Failure) {
        let code = Code::new(failure.class(), verb);
        self.stop(number, code, Parameters::Text(failure.sentence()));
    }

    fn reject(&mut self, number: u16, class: Class, verb: Verb, text: &str) {
        self.stop(number, Code::new(class, verb), Parameters::Text(text));
    }

    fn stop(&mut self, number: u16, code: Code, what: Parameters<'_>) {
        if let State::Request(frame) = self.state {
            self.fail(frame, number, code, what, false);
        }
    }

    fn refuse(&mut self, frame: Frame, number: u16, error: LineError) {
        let text = error.to_string();
        self.fail(
            frame,
            number,
            error.code(),
            Parameters::Text(&text),
            error.is_fatal(),
        );
        if error == LineError::End {
            self.between();
        }
    }

    /// Ends the response with an error line, after the kept ones.
    fn fail(&mut self, frame: Frame, number: u16, code: Code, what: Parameters<'_>, fatal: bool) {
        self.open.truncate(frame.kept);
        reply::status(&mut self.open, code, number, what);
        self.finish();
        self.state = State::Ignoring;
        if fatal {
            self.closing = Some(Close::Fatal(code));
        }
    }

    fn end(&mut self, frame: Frame) {
        if frame.lines == 0 {
            let code = Code::success(Verb::BEGIN);
            reply::status(&mut self.open, code, 0, Parameters::Text("ready"));
        }
        self.finish();
        self.between();
    }

    fn between(&mut self) {
        self.state = State::Between;
        self.clock.waited = Duration::ZERO;
    }

    fn finish(&mut self) {
        reply::end(&mut self.open);
        self.forget_sent();
        if self.ready.is_empty() {
            std::mem::swap(&mut self.ready, &mut self.open);
        } else {
            self.ready.extend_from_slice(&self.open);
        }
        clear(&mut self.open);
    }
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

/// Time limits.
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

impl Clock {
    fn new(idle: Duration, unfinished: Duration) -> Self {
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

/// Answers may hold keys.
impl Drop for Session {
    fn drop(&mut self) {
        self.open.zeroize();
        self.ready.zeroize();
    }
}

/// Wipes a buffer; a large one is given back.
fn clear(buffer: &mut Vec<u8>) {
    buffer.fill(0);
    if buffer.capacity() > RETAINED {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

#[cfg(test)]
mod tests;
