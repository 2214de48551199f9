//! Lines become operations, or answers at once.

use super::{Close, Frame, Operation, Progress, Session, State, batch::Batch, completion::Running};
use crate::racs::{
    Class, Code, Command, Line, LineError, MAX_COMMANDS, VERSION, Verb,
    reply::{self, Parameters},
};

impl Session {
    /// What a line leads to, and whether it was read.
    pub(super) fn line(&mut self, line: &[u8]) -> (Progress, bool) {
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
            // Whatever follows the word.
            Ok(Line::Begin(_)) | Err(LineError::Begin | LineError::IdTooLong) => {
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

    pub(super) fn too_long(&mut self) -> Progress {
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
