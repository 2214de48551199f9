//! A client's request: its lines are read and judged before any goes on, and go on as one request.

use gose_element::Seid;
use gose_proto::racs::{
    Class, Code, Command, Failure, Line, MAX_COMMANDS, MAX_LINE, Request, RequestError, Response,
    Verb,
};
use zeroize::Zeroizing;

/// Bytes of a request.
const MAX_REQUEST: usize = 4 << 20;

/// What a client sent and was not yet read as a request.
#[derive(Default)]
pub(super) struct Input(Zeroizing<Vec<u8>>);

/// A request of known commands.
pub(super) struct Asked {
    id: Option<String>,
    pub(super) lines: Vec<AskedLine>,
}

/// A command line.
pub(super) struct AskedLine {
    text: Zeroizing<String>,
    pub(super) verb: Verb,
    pub(super) seid: Option<Seid>,
}

/// What came of looking at the input.
pub(super) enum Arrived {
    /// Bytes are missing.
    More,
    Request(Asked),
    /// A request that is answered and not run.
    Wrong(Answer),
    /// Nothing that could be answered: the client is left.
    Nonsense,
}

/// A response, as bytes.
pub(super) struct Answer(pub(super) Zeroizing<Vec<u8>>);

impl Input {
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            // A vector that grows by itself leaves what it held unwiped.
            let mut larger = Zeroizing::new(Vec::with_capacity((2 * needed).max(4096)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Takes a line that stands before the first request, if it is this one.
    pub(super) fn take_line(&mut self, line: &[u8]) -> Option<bool> {
        let begin = &self.0[..self.0.len().min(line.len())];
        if begin != &line[..begin.len()] {
            return Some(false);
        }
        if begin.len() < line.len() {
            return None;
        }
        self.consume(line.len());
        Some(true)
    }

    /// Takes the first request, when it is whole.
    pub(super) fn request(&mut self) -> Arrived {
        let mut at = 0;
        let mut asked: Option<Asked> = None;
        let mut wrong: Option<Answer> = None;
        loop {
            let rest = &self.0[at..];
            let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                return if rest.len() > MAX_LINE + 1 || self.0.len() > MAX_REQUEST {
                    Arrived::Nonsense
                } else {
                    Arrived::More
                };
            };
            let line = &rest[..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            at += end + 1;
            if line.len() > MAX_LINE {
                return Arrived::Nonsense;
            }
            match (&mut asked, Line::parse(line)) {
                (None, Ok(Line::Begin(id))) => {
                    asked = Some(Asked {
                        id: id.map(str::to_owned),
                        lines: Vec::new(),
                    });
                }
                (None, _) => return Arrived::Nonsense,
                (Some(_), Ok(Line::End)) => break,
                // After an error the rest of the request is read and ignored.
                (Some(_), _) if wrong.is_some() => {}
                (Some(asked), Ok(Line::Command(command, _)))
                    if asked.lines.len() < usize::from(MAX_COMMANDS) =>
                {
                    // What was parsed is ASCII.
                    let text = String::from_utf8_lossy(line).into_owned();
                    asked.lines.push(AskedLine::new(text, &command));
                }
                (Some(asked), parsed) => {
                    let (code, text) = match parsed {
                        Err(error) if error.is_fatal() => return Arrived::Nonsense,
                        Err(error) => (error.code(), error.to_string()),
                        Ok(_) => (
                            Code::new(Class::Syntax, Verb::BEGIN),
                            "malformed request".into(),
                        ),
                    };
                    wrong = Some(asked.answer(code, asked.lines.len() + 1, &text));
                }
            }
        }
        self.consume(at);
        match (asked, wrong) {
            (_, Some(answer)) => Arrived::Wrong(answer),
            (Some(asked), None) => Arrived::Request(asked),
            (None, None) => Arrived::Nonsense,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn consume(&mut self, count: usize) {
        self.0[..count].fill(0);
        self.0.drain(..count);
    }
}

impl AskedLine {
    fn new(text: String, command: &Command<'_>) -> Self {
        let (verb, seid) = match command {
            Command::GetVersion => (Verb::GET_VERSION, None),
            Command::SetVersion(_) => (Verb::SET_VERSION, None),
            Command::List => (Verb::LIST, None),
            Command::Reset(seid, _) => (Verb::RESET, Some(*seid)),
            Command::Apdu(seid, _) => (Verb::APDU, Some(*seid)),
            Command::Shutdown(seid) => (Verb::SHUTDOWN, Some(*seid)),
            Command::PowerOn(seid) => (Verb::POWERON, Some(*seid)),
            Command::Echo(_) => (Verb::ECHO, None),
            Command::Sen => (Verb::SEN, None),
            Command::GetSen => (Verb::GET_SEN, None),
        };
        Self {
            text: Zeroizing::new(text),
            verb,
            seid,
        }
    }
}

impl Asked {
    /// The elements that it uses, in the order of their names, so that two clients never wait for each other.
    pub(super) fn elements(&self) -> Vec<Seid> {
        let mut seids: Vec<Seid> = self.lines.iter().filter_map(|line| line.seid).collect();
        seids.sort_unstable_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        seids.dedup();
        seids
    }

    /// Number and command of the first line that uses an element.
    pub(super) fn first(&self, seid: &Seid) -> Option<(usize, Verb)> {
        let mut lines = (1..).zip(&self.lines);
        lines.find_map(|(number, line)| {
            (line.seid.as_ref() == Some(seid)).then_some((number, line.verb))
        })
    }

    /// The request as it goes on: `before` are powered down first.
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`]
    pub(super) fn forward(&self, before: &[Seid]) -> Result<Request, RequestError> {
        let mut request = match &self.id {
            Some(id) => Request::with_id(id)?,
            None => Request::new(),
        };
        for seid in before {
            request.shutdown(seid)?;
        }
        for line in &self.lines {
            request.text(&line.text)?;
        }
        Ok(request)
    }

    /// Whether an element is powered up after the response, which came to a request with `before` lines more;
    /// `held`: whether it was before.
    pub(super) fn leaves_powered(
        &self,
        seid: &Seid,
        response: &Response,
        before: usize,
        mut held: bool,
    ) -> bool {
        let refusal = response.decide().err();
        for (number, line) in (before + 1..).zip(&self.lines) {
            let refused = refusal
                .as_ref()
                .filter(|refusal| usize::from(refusal.line) <= number);
            let of_it = line.seid.as_ref() == Some(seid);
            match refused {
                // A card's answer that was not wanted; else nothing ran.
                Some(refusal) if refusal.code.class == Class::Execution => return held,
                Some(refusal) if usize::from(refusal.line) == number && of_it => {
                    return held
                        && !matches!(refusal.code.class, Class::InUse | Class::Unauthorised);
                }
                Some(_) => return held,
                None if of_it => held = line.verb != Verb::SHUTDOWN,
                None => {}
            }
        }
        held
    }

    /// The response for the client: its own line numbers, and of lists only what it may use.
    pub(super) fn relay(
        &self,
        response: &Response,
        before: usize,
        may: impl Fn(&Seid) -> bool,
    ) -> Answer {
        let mut out = self.begin();
        for status in response.statuses() {
            let number = usize::from(status.line).saturating_sub(before);
            let list = number
                .checked_sub(1)
                .and_then(|at| self.lines.get(at))
                .is_some_and(|line| line.verb == Verb::LIST);
            if list && status.code.is_success() {
                let seids = status.seids().unwrap_or_default();
                let seids: Vec<&str> = seids
                    .iter()
                    .filter(|seid| may(seid))
                    .map(Seid::as_str)
                    .collect();
                status_line(&mut out, status.code, number, &seids.join(" "));
            } else {
                status_line(&mut out, status.code, number, &status.text);
            }
        }
        end(out)
    }

    /// A response that one line has instead of being run.
    pub(super) fn refuse(&self, number: usize, verb: Verb, failure: Failure) -> Answer {
        self.answer(Code::new(failure.class(), verb), number, failure.sentence())
    }

    fn answer(&self, code: Code, number: usize, text: &str) -> Answer {
        let mut out = self.begin();
        status_line(&mut out, code, number, text);
        end(out)
    }

    fn begin(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(b"BEGIN".to_vec());
        if let Some(id) = &self.id {
            out.push(b' ');
            out.extend_from_slice(id.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

fn status_line(out: &mut Vec<u8>, code: Code, number: usize, text: &str) {
    out.extend_from_slice(&code.as_bytes());
    out.extend_from_slice(format!(" {:03}", number % 1000).as_bytes());
    if !text.is_empty() {
        out.push(b' ');
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn end(mut out: Zeroizing<Vec<u8>>) -> Answer {
    out.extend_from_slice(b"END\r\n");
    Answer(out)
}

#[cfg(test)]
mod tests {
    use gose_proto::racs::Client;

    use super::*;

    fn seid(text: &str) -> Seid {
        text.parse().unwrap()
    }

    fn asked(text: &str) -> Asked {
        let mut input = Input::default();
        input.receive(text.replace('\n', "\r\n").as_bytes());
        match input.request() {
            Arrived::Request(asked) => asked,
            _ => panic!("no request: {text}"),
        }
    }

    /// What a node answers to what goes on.
    fn response(asked: &Asked, before: &[Seid], text: &str) -> Response {
        let mut client = Client::new();
        let _ = client.send(asked.forward(before).unwrap());
        client.receive(text.replace('\n', "\r\n").as_bytes());
        client.poll().unwrap().unwrap()
    }

    #[test]
    fn requests_come_in_pieces_and_one_after_the_other() {
        let mut input = Input::default();
        let text = b"BEGIN x\r\nPOWERON SE1\r\nAPDU SE1 00A40400 APPEND\r\nEND\r\nBEGIN\r\nLIST\r\nEND\r\n";
        let mut found = 0;
        for byte in text {
            input.receive(&[*byte]);
            match input.request() {
                Arrived::Request(asked) => {
                    found += 1;
                    assert_eq!(asked.lines.len(), 3 - found);
                    assert_eq!(asked.elements().len(), 2 - found);
                }
                Arrived::More => {}
                _ => panic!("at {byte}"),
            }
        }
        assert_eq!(found, 2);
    }

    #[test]
    fn what_is_no_request() {
        let check = |text: &[u8], expected: &str| {
            let mut input = Input::default();
            input.receive(text);
            let said = match input.request() {
                Arrived::Wrong(answer) => String::from_utf8_lossy(&answer.0).into_owned(),
                Arrived::Nonsense => "nonsense".into(),
                Arrived::More => "more".into(),
                Arrived::Request(_) => "request".into(),
            };
            assert!(said.contains(expected), "{said}");
        };
        check(b"GET / HTTP/1.1\r\n", "nonsense");
        check(
            b"BEGIN\r\nLIST\r\nJUMP SE1\r\nPOWERON SE1\r\nEND\r\n",
            " 002 ",
        );
        check(b"BEGIN\r\nPOWERON\r\nEND\r\n", "missing parameter");
        check(b"BEGIN\r\nBEGIN\r\nEND\r\n", "malformed request");
        check(b"BEGIN\r\n\x07\r\nEND\r\n", "nonsense");
        check(&[b'A'; MAX_LINE + 9], "nonsense");
        check(b"BEGIN\r\nLIST", "more");
        let lines = "LIST\r\n".repeat(1000);
        check(
            format!("BEGIN\r\n{lines}END\r\n").as_bytes(),
            "malformed request",
        );
    }

    #[test]
    fn the_first_line_is_taken_once() {
        let mut input = Input::default();
        for (piece, taken) in [("Y", None), ("IELD", None), ("\r\nBEGIN", Some(true))] {
            input.receive(piece.as_bytes());
            assert_eq!(input.take_line(b"YIELD\r\n"), taken);
        }
        assert_eq!(input.take_line(b"YIELD\r\n"), Some(false));
        assert_eq!(&*input.0, b"BEGIN");
    }

    #[test]
    fn what_goes_on_and_what_comes_back() {
        let one =
            asked("BEGIN q\nPOWERON SE1 APPEND\nAPDU SE1 00A4040000 CONTINUE=9000 APPEND\nEND\n");
        let before = [seid("SE1")];
        let whole = response(
            &one,
            &before,
            "BEGIN q\n+008 002 SE1 powered on\n+006 003 9000\nEND\n",
        );
        let text = one.relay(&whole, 1, |_| true);
        assert_eq!(
            String::from_utf8_lossy(&text.0),
            "BEGIN q\r\n+008 001 SE1 powered on\r\n+006 002 9000\r\nEND\r\n"
        );
        assert!(one.leaves_powered(&seid("SE1"), &whole, 1, false));
        let list = asked("BEGIN\nLIST\nEND\n");
        let answered = response(&list, &[], "BEGIN\n+004 001 SE1 SE2\nEND\n");
        let text = list.relay(&answered, 0, |known| *known == seid("SE2"));
        assert_eq!(
            String::from_utf8_lossy(&text.0),
            "BEGIN\r\n+004 001 SE2\r\nEND\r\n"
        );
    }

    #[test]
    fn when_an_element_is_left_powered_up() {
        let check = |lines: &str, answer: &str, held: bool, expected: bool| {
            let asked = asked(&format!("BEGIN\n{lines}\nEND\n"));
            let response = response(&asked, &[], &format!("BEGIN\n{answer}\nEND\n"));
            assert_eq!(
                asked.leaves_powered(&seid("SE1"), &response, 0, held),
                expected,
                "{lines} {answer}"
            );
        };
        let whole = "POWERON SE1\nAPDU SE1 00A40400 CONTINUE=9000\nSHUTDOWN SE1";
        check(whole, "+007 003 SE1 powered off", false, false);
        // The card refused; SHUTDOWN was not reached.
        check(whole, "-506 002 wrong status 6A82", false, true);
        check(whole, "-708 001 in use by another session", false, false);
        check(
            "APDU SE1 00A40400",
            "-706 001 in use by another session",
            true,
            false,
        );
        check(
            "APDU SE1 00A40400",
            "-806 001 no answer in time",
            true,
            true,
        );
        check("LIST", "+004 001 SE1", true, true);
    }
}
