//! The client's side of a RACS session: exactly one response a request, whenever it comes.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::{
    Class, Code, Failure, Request, Seid,
    input::{Input, Peeked, TooLong},
    script::{Outcome, Script},
};
use crate::{apdu::StatusWord, hex};

mod list;

/// Bytes of the longest response that is read.
pub const MAX_RESPONSE: usize = 2 << 20;

/// Status lines of the longest response: one a command, and one for an error.
const MAX_STATUSES: usize = 1001;

/// Why bytes are not the response to a request: the peer does not speak RACS, or speaks out of turn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A response although nothing was asked.
    #[error("the server answers although nothing was asked")]
    Unsolicited,
    /// More than 2 MiB, or 1,001 status lines.
    #[error("the response passes 2 MiB or 1001 status lines")]
    TooLong,
    /// Neither BEGIN, END nor a status line where one belongs.
    #[error("no RACS response: {0:?}")]
    Syntax(String),
    /// The identifier is not the request's.
    #[error("the response is for another request")]
    WrongId,
    /// No status line between BEGIN and END.
    #[error("the response has no status line")]
    Empty,
    /// A list of SEIDs that cannot be read, or has more than 100,000.
    #[error("malformed list of SEIDs near {0:?}")]
    List(String),
}

/// A RACS session, seen by the client. Pure.
#[derive(Default)]
pub struct Client {
    input: Input,
    /// Identifiers of the requests that wait for their response.
    asked: VecDeque<Option<String>>,
    open: Option<Response>,
    size: usize,
}

impl Client {
    /// A session that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of a request, whose response is now expected after those asked before.
    #[must_use]
    pub fn send(&mut self, request: Request) -> Zeroizing<Vec<u8>> {
        let (bytes, id) = request.finish();
        self.asked.push_back(id);
        bytes
    }

    /// Requests without a response so far.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
    }

    /// The next whole response.
    ///
    /// # Errors
    /// [`ProtocolError`]; the session is then of no more use.
    pub fn poll(&mut self) -> Result<Option<Response>, ProtocolError> {
        loop {
            if self.asked.is_empty() && self.input.len() > 0 {
                return Err(ProtocolError::Unsolicited);
            }
            let Peeked { line, size } = match self.input.peek(MAX_RESPONSE) {
                Ok(Some(peeked)) => peeked,
                Ok(None) => return Ok(None),
                Err(TooLong) => return Err(ProtocolError::TooLong),
            };
            let asked = self.asked.front().and_then(Option::as_deref);
            let whole = read(line.trim_ascii_end(), &mut self.open, asked)?;
            self.size += size;
            self.input.consume(size);
            if self.size > MAX_RESPONSE {
                return Err(ProtocolError::TooLong);
            }
            if whole {
                self.size = 0;
                self.asked.pop_front();
                return Ok(self.open.take());
            }
        }
    }
}

/// Reads one line into the response; tells whether that is whole.
fn read(
    line: &[u8],
    open: &mut Option<Response>,
    asked: Option<&str>,
) -> Result<bool, ProtocolError> {
    let Some(response) = open else {
        let id = match line.strip_prefix(b"BEGIN") {
            Some([]) => None,
            Some([b' ', id @ ..]) => Some(printable(id.trim_ascii_start())),
            _ => return Err(ProtocolError::Syntax(printable(line))),
        };
        if id.as_deref().is_some_and(|id| Some(id) != asked) {
            return Err(ProtocolError::WrongId);
        }
        *open = Some(Response {
            id,
            statuses: Vec::with_capacity(1),
        });
        return Ok(false);
    };
    if line == b"END" {
        // A server that could not read the BEGIN line answers without identifier.
        let last = response.statuses.last().ok_or(ProtocolError::Empty)?;
        if response.id.as_deref() != asked && last.code.is_success() {
            return Err(ProtocolError::WrongId);
        }
        return Ok(true);
    }
    if response.statuses.len() == MAX_STATUSES {
        return Err(ProtocolError::TooLong);
    }
    let status = Status::parse(line).ok_or_else(|| ProtocolError::Syntax(printable(line)))?;
    response.statuses.push(status);
    Ok(false)
}

/// At most 80 characters of what a peer sent, fit for a terminal.
fn printable(bytes: &[u8]) -> String {
    bytes.iter().take(80).map(|&byte| visible(byte)).collect()
}

fn visible(byte: u8) -> char {
    if (0x20..0x7F).contains(&byte) {
        char::from(byte)
    } else {
        '?'
    }
}

/// A response: at least one status line.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    id: Option<String>,
    statuses: Vec<Status>,
}

/// A status line.
#[derive(Clone, PartialEq, Eq)]
pub struct Status {
    /// The status header.
    pub code: Code,
    /// The command line that it belongs to; 0 is BEGIN.
    pub line: u16,
    /// Everything after the line number: may hold keys.
    pub text: Zeroizing<String>,
}

/// The negative status that ended a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {line:03} {text}")]
pub struct Refusal {
    /// The status header.
    pub code: Code,
    /// The command line that it belongs to.
    pub line: u16,
    /// The server's words.
    pub text: String,
}

impl Refusal {
    /// What the class, refined by the words of a server of this version, means.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure::from_status(self.code.class, &self.text)
    }
}

impl Response {
    /// The identifier that the server echoed.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// All status lines, at least one.
    #[must_use]
    pub fn statuses(&self) -> &[Status] {
        &self.statuses
    }

    /// The last status line, if it is a success: it decides on the request.
    ///
    /// # Errors
    /// [`Refusal`]: the negative status line.
    pub fn decide(&self) -> Result<Option<&Status>, Refusal> {
        match self.statuses.last() {
            Some(last) if !last.code.is_success() => Err(last.refusal()),
            last => Ok(last),
        }
    }

    /// The status line of a command line, if it was told: the last one of that number.
    #[must_use]
    pub fn line(&self, number: u16) -> Option<&Status> {
        self.statuses
            .iter()
            .rev()
            .find(|status| status.line == number)
    }

    /// What a script came to whose first APDU line had the number `first`: one outcome a step that
    /// ran (`None` where the answer was not told), and why the next one got none.
    #[must_use]
    pub fn outcomes(&self, first: u16, script: &Script) -> (Vec<Option<Outcome>>, Option<Failure>) {
        let refusal = self.decide().err();
        let mut done = Vec::with_capacity(script.steps.len());
        for number in (first..).take(script.steps.len()) {
            match &refusal {
                Some(refusal) if refusal.line < number => {
                    // Nothing ran after the error.
                    let failure = done.is_empty().then(|| refusal.failure());
                    return (done, failure);
                }
                Some(refusal) if refusal.line == number => {
                    if refusal.code.class != Class::Execution {
                        return (done, Some(refusal.failure()));
                    }
                    done.push(Some(unexpected(&refusal.text)));
                    return (done, None);
                }
                _ => done.push(self.line(number).and_then(Status::answer)),
            }
        }
        (done, None)
    }
}

/// The outcome of a step whose status word CONTINUE did not expect. Servers of this version tell the
/// word; of others it is not known, and 6F00 stands for it.
fn unexpected(text: &str) -> Outcome {
    let told = text.rsplit(' ').find_map(|word| hex::decode(word).ok());
    Outcome {
        body: Vec::new(),
        sw: match told.as_deref() {
            Some(&[sw1, sw2]) => StatusWord::from([sw1, sw2]),
            _ => StatusWord::NO_PRECISE_DIAGNOSIS,
        },
        expected: false,
    }
}

impl Status {
    fn parse(line: &[u8]) -> Option<Self> {
        let (header, rest) = line.split_at_checked(4)?;
        let [b' ', number @ ..] = rest else {
            return None;
        };
        let (digits, text) = number.split_at_checked(3)?;
        if !digits.iter().all(u8::is_ascii_digit) || text.first().is_some_and(|&b| b != b' ') {
            return None;
        }
        let digits = digits.iter().map(|digit| u16::from(digit - b'0'));
        let mut words = Zeroizing::new(String::with_capacity(text.len()));
        words.extend(text.iter().skip(1).map(|&byte| visible(byte)));
        Some(Self {
            code: Code::parse(header)?,
            line: digits.fold(0, |number, digit| number * 10 + digit),
            text: words,
        })
    }

    fn refusal(&self) -> Refusal {
        Refusal {
            code: self.code,
            line: self.line,
            text: String::clone(&self.text),
        }
    }

    /// Body and status word of an APDU's answer.
    #[must_use]
    pub fn answer(&self) -> Option<Outcome> {
        let mut body = hex::decode(self.text.trim()).ok()?;
        let sw2 = body.pop()?;
        let sw1 = body.pop()?;
        Some(Outcome {
            body,
            sw: StatusWord::from([sw1, sw2]),
            expected: self.code.is_success(),
        })
    }

    /// The answer to reset that POWERON and RESET of this version tell.
    #[must_use]
    pub fn atr(&self) -> Option<Vec<u8>> {
        let digits = self
            .text
            .split(' ')
            .find_map(|word| word.strip_prefix("ATR="))?;
        hex::decode(digits).ok()
    }

    /// The SEIDs of LIST, compressed forms expanded.
    ///
    /// # Errors
    /// [`ProtocolError::List`] when they cannot be read or are more than 100,000.
    pub fn seids(&self) -> Result<Vec<Seid>, ProtocolError> {
        list::expand(&self.text)
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {:03} ({} characters)",
            self.code,
            self.line,
            self.text.len()
        )
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.statuses).finish()
    }
}

#[cfg(test)]
mod tests;
