//! The response in progress: kept lines, the last line, the error line.

use std::time::Duration;

use super::{Close, RETAINED, Session, State};
use crate::racs::{
    Class, Code, Failure, LineError, MAX_KEPT, Verb,
    reply::{self, Parameters},
};

/// The response in progress, as places in its bytes.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// Command lines so far.
    pub(super) lines: u16,
    /// Where the status lines begin.
    pub(super) body: usize,
    /// Where the kept status lines end.
    pub(super) kept: usize,
}

impl Frame {
    pub(super) fn new(body: usize) -> Self {
        Self {
            lines: 0,
            body,
            kept: body,
        }
    }
}

impl Session {
    /// Writes a success line, in the place of the last one unless that was kept. Whether it fitted.
    pub(super) fn answer(
        &mut self,
        number: u16,
        append: bool,
        verb: Verb,
        what: Parameters<'_>,
    ) -> bool {
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

    pub(super) fn failure(&mut self, number: u16, verb: Verb, failure: Failure) {
        let code = Code::new(failure.class(), verb);
        self.stop(number, code, Parameters::Text(failure.sentence()));
    }

    pub(super) fn reject(&mut self, number: u16, class: Class, verb: Verb, text: &str) {
        self.stop(number, Code::new(class, verb), Parameters::Text(text));
    }

    pub(super) fn stop(&mut self, number: u16, code: Code, what: Parameters<'_>) {
        if let State::Request(frame) = self.state {
            self.fail(frame, number, code, what, false);
        }
    }

    pub(super) fn refuse(&mut self, frame: Frame, number: u16, error: LineError) {
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
    pub(super) fn fail(
        &mut self,
        frame: Frame,
        number: u16,
        code: Code,
        what: Parameters<'_>,
        fatal: bool,
    ) {
        self.open.truncate(frame.kept);
        reply::status(&mut self.open, code, number, what);
        self.finish();
        self.state = State::Ignoring;
        if fatal {
            self.closing = Some(Close::Fatal(code));
        }
    }

    pub(super) fn end(&mut self, frame: Frame) {
        if frame.lines == 0 {
            let code = Code::success(Verb::BEGIN);
            reply::status(&mut self.open, code, 0, Parameters::Text("ready"));
        }
        self.finish();
        self.between();
    }

    pub(super) fn between(&mut self) {
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

/// Wipes a buffer; a large one is given back.
pub(super) fn clear(buffer: &mut Vec<u8>) {
    buffer.fill(0);
    if buffer.capacity() > RETAINED {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}
