//! Requests as a client writes them.

use zeroize::{Zeroize, Zeroizing};

use super::{
    Command, Line, LineError, MAX_COMMANDS, MAX_ID, MAX_LINE, Seid,
    script::{GET_RESPONSE, Script, Step},
};
use crate::hex;

/// Why a request cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The identifier is empty, longer than 64 characters or not printable.
    #[error("a request identifier has 1 to 64 printable characters, no spaces, and is not APPEND")]
    Id,
    /// A token to echo, or a version, is empty or not printable.
    #[error("a parameter is one word of printable characters")]
    Word,
    /// The APDU has fewer than 4 bytes or is longer than a line can be.
    #[error("an APDU has 4 to 65544 bytes, this one has {0}")]
    Apdu(usize),
    /// A thousandth command line.
    #[error("a request has at most 999 command lines; split it")]
    TooManyCommands,
    /// A line of text is no command of the grammar.
    #[error("line {line:?}: {error}")]
    Line {
        /// The line's first word.
        line: String,
        /// What is wrong with it.
        error: LineError,
    },
}

/// A request that is being written: command lines between BEGIN and END.
///
/// Each method gives the number of its line, which the response's status lines name.
pub struct Request {
    /// Everything but the end of the last line.
    bytes: Vec<u8>,
    id: Option<String>,
    commands: u16,
    apdus: bool,
}

impl Default for Request {
    fn default() -> Self {
        Self::new()
    }
}

impl Request {
    /// A request without identifier.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: b"BEGIN".to_vec(),
            id: None,
            commands: 0,
            apdus: false,
        }
    }

    /// A request whose response must carry `id`.
    ///
    /// # Errors
    /// [`RequestError::Id`]
    pub fn with_id(id: &str) -> Result<Self, RequestError> {
        if !is_word(id) || id.len() > MAX_ID || id == "APPEND" {
            return Err(RequestError::Id);
        }
        let mut request = Self::new();
        request.bytes.push(b' ');
        request.bytes.extend_from_slice(id.as_bytes());
        request.id = Some(id.to_owned());
        Ok(request)
    }

    /// `GET-VERSION`
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`], as for every command.
    pub fn get_version(&mut self) -> Result<u16, RequestError> {
        self.command(&[b"GET-VERSION"])
    }

    /// `SET-VERSION version`
    ///
    /// # Errors
    /// [`RequestError::Word`]
    pub fn set_version(&mut self, version: &str) -> Result<u16, RequestError> {
        self.word(b"SET-VERSION ", version)
    }

    /// `ECHO token`
    ///
    /// # Errors
    /// [`RequestError::Word`]
    pub fn echo(&mut self, token: &str) -> Result<u16, RequestError> {
        self.word(b"ECHO ", token)
    }

    /// `LIST`
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`]
    pub fn list(&mut self) -> Result<u16, RequestError> {
        self.command(&[b"LIST"])
    }

    /// `POWERON seid`
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`]
    pub fn power_on(&mut self, seid: &Seid) -> Result<u16, RequestError> {
        self.command(&[b"POWERON ", seid.as_bytes()])
    }

    /// `RESET seid [WARM]`
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`]
    pub fn reset(&mut self, seid: &Seid, warm: bool) -> Result<u16, RequestError> {
        let mode: &[u8] = if warm { b" WARM" } else { b"" };
        self.command(&[b"RESET ", seid.as_bytes(), mode])
    }

    /// `SHUTDOWN seid`
    ///
    /// # Errors
    /// [`RequestError::TooManyCommands`]
    pub fn shutdown(&mut self, seid: &Seid) -> Result<u16, RequestError> {
        self.command(&[b"SHUTDOWN ", seid.as_bytes()])
    }

    /// `APDU seid …` with the step's options.
    ///
    /// # Errors
    /// [`RequestError::Apdu`]
    pub fn apdu(&mut self, seid: &Seid, step: &Step) -> Result<u16, RequestError> {
        if !(4..=super::line::MAX_APDU).contains(&step.apdu.len()) {
            return Err(RequestError::Apdu(step.apdu.len()));
        }
        self.grow(2 * step.apdu.len() + 160);
        let number = self.command(&[b"APDU ", seid.as_bytes(), b" "])?;
        self.apdus = true;
        hex::encode_into(&step.apdu, &mut self.bytes);
        if let Some(sw) = step.expect {
            self.option(b" CONTINUE=", &sw.bytes());
        }
        if let Some(sw1) = step.more {
            self.option(b" MORE=", &[sw1]);
            if step.fetch != GET_RESPONSE {
                self.option(b" FETCH=", &step.fetch);
            }
        }
        if step.append {
            self.append();
        }
        Ok(number)
    }

    /// One `APDU` line a step; gives the number of the first.
    ///
    /// # Errors
    /// [`RequestError::Apdu`], [`RequestError::TooManyCommands`]; the request is then unusable.
    pub fn script(&mut self, seid: &Seid, script: &Script) -> Result<u16, RequestError> {
        let first = self.commands + 1;
        for step in &script.steps {
            self.apdu(seid, step)?;
        }
        Ok(first)
    }

    /// A command line as a person wrote it.
    ///
    /// # Errors
    /// [`RequestError::Line`] when it is no command of the grammar.
    pub fn text(&mut self, line: &str) -> Result<u16, RequestError> {
        let wrong = |error| RequestError::Line {
            line: line.split(' ').next().unwrap_or_default().to_owned(),
            error,
        };
        match Line::parse(line.as_bytes()).map_err(wrong)? {
            Line::Command(command, _) => {
                self.apdus |= matches!(command, Command::Apdu(..));
                self.grow(line.len() + 16);
                self.command(&[line.as_bytes()])
            }
            Line::Begin(_) => Err(wrong(LineError::Begin)),
            Line::End => Err(wrong(LineError::End)),
        }
    }

    /// Marks the last command: its status line is wanted whatever follows.
    pub fn append(&mut self) {
        if self.commands > 0 {
            self.bytes.extend_from_slice(b" APPEND");
        }
    }

    /// Command lines so far.
    #[must_use]
    pub fn commands(&self) -> u16 {
        self.commands
    }

    /// Whether an APDU is among the commands.
    #[must_use]
    pub fn has_apdus(&self) -> bool {
        self.apdus
    }

    /// The request on the line, and its identifier.
    pub(super) fn finish(mut self) -> (Zeroizing<Vec<u8>>, Option<String>) {
        self.grow(8);
        self.bytes.extend_from_slice(b"\r\nEND\r\n");
        (
            Zeroizing::new(std::mem::take(&mut self.bytes)),
            self.id.take(),
        )
    }

    fn word(&mut self, command: &[u8], word: &str) -> Result<u16, RequestError> {
        if !is_word(word) {
            return Err(RequestError::Word);
        }
        self.command(&[command, word.as_bytes()])
    }

    fn command(&mut self, parts: &[&[u8]]) -> Result<u16, RequestError> {
        if self.commands == MAX_COMMANDS {
            return Err(RequestError::TooManyCommands);
        }
        self.commands += 1;
        self.bytes.extend_from_slice(b"\r\n");
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        Ok(self.commands)
    }

    fn option(&mut self, name: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(name);
        hex::encode_into(value, &mut self.bytes);
    }

    /// Makes room without leaving a copy of a PIN behind.
    fn grow(&mut self, more: usize) {
        if self.bytes.len() + more > self.bytes.capacity() {
            let room = (self.bytes.len() + more).max(2 * self.bytes.capacity());
            let mut larger = Vec::with_capacity(room);
            larger.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = larger;
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

fn is_word(text: &str) -> bool {
    (1..=MAX_LINE / 2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&mut Request), expected: &str) {
        let mut request = Request::with_id("q").unwrap();
        write(&mut request);
        let (bytes, id) = request.finish();
        assert_eq!(id.as_deref(), Some("q"));
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert_eq!(text, format!("BEGIN q\r\n{expected}END\r\n"));
    }

    #[test]
    fn lines_as_the_grammar_has_them() {
        let seid: Seid = "SE1".parse().unwrap();
        check(|_| {}, "");
        check(
            |request| {
                assert_eq!(request.power_on(&seid), Ok(1));
                request.append();
                assert_eq!(request.reset(&seid, true), Ok(2));
                assert_eq!(request.shutdown(&seid), Ok(3));
                assert_eq!(request.text("LIST"), Ok(4));
                assert_eq!(request.echo("x"), Ok(5));
            },
            "POWERON SE1 APPEND\r\nRESET SE1 WARM\r\nSHUTDOWN SE1\r\nLIST\r\nECHO x\r\n",
        );
        let step = Step::new([0x00, 0xA4, 0x04, 0x00]);
        check(
            |request| {
                let script = Script::new(vec![
                    step.clone(),
                    step.clone().expect_normal().append(),
                    step.clone().collect(GET_RESPONSE),
                    step.collect([0xA0, 0xC0, 0, 0]),
                ]);
                assert_eq!(request.script(&seid, &script), Ok(1));
                assert!(request.has_apdus());
            },
            "APDU SE1 00A40400\r\nAPDU SE1 00A40400 CONTINUE=9000 APPEND\r\n\
             APDU SE1 00A40400 MORE=61\r\nAPDU SE1 00A40400 MORE=61 FETCH=A0C00000\r\n",
        );
    }

    #[test]
    fn what_cannot_be_written() {
        for id in ["", "a b", "é", "APPEND", &"i".repeat(65)] {
            assert_eq!(Request::with_id(id).err(), Some(RequestError::Id));
        }
        let mut request = Request::new();
        assert_eq!(request.echo("a b"), Err(RequestError::Word));
        assert!(request.text("END").is_err() && request.text("FOO").is_err());
        let seid: Seid = "SE1".parse().unwrap();
        let short = Step::new([0, 1, 2]);
        assert_eq!(request.apdu(&seid, &short), Err(RequestError::Apdu(3)));
        for number in 1..=MAX_COMMANDS {
            assert_eq!(request.list(), Ok(number));
        }
        assert_eq!(request.list(), Err(RequestError::TooManyCommands));
    }
}
