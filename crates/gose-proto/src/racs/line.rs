//! Lines of a request (the grammar of draft-urien-core-racs-02 to -15): any bytes give a value or an
//! error that has a status code.

use zeroize::Zeroizing;

use super::{
    Class, Code, MAX_ID, Seid, Verb,
    input::find,
    script::{Fetch, GET_RESPONSE, Step},
};
use crate::{
    apdu::{CommandRef, StatusWord},
    hex,
};

/// Bytes of the longest command APDU: an extended command of 65,535 data bytes with its Le field.
pub const MAX_APDU: usize = 65_544;

/// A line that a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'a> {
    /// `BEGIN [id]`
    Begin(Option<&'a str>),
    /// A command, and whether its status line is kept whatever follows (`APPEND`).
    Command(Command<'a>, bool),
    /// `END`
    End,
}

/// A command, in the order of the status codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// `GET-VERSION`
    GetVersion,
    /// `SET-VERSION major.minor`
    SetVersion(&'a str),
    /// `LIST`
    List,
    /// `RESET seid [WARM]`
    Reset(Seid, bool),
    /// `APDU seid hex options`; the step's `append` tells the line's APPEND.
    Apdu(Seid, Step),
    /// `SHUTDOWN seid`
    Shutdown(Seid),
    /// `POWERON seid`
    PowerOn(Seid),
    /// `ECHO token`
    Echo(&'a str),
    /// `SEN …`, which this version does not implement.
    Sen,
    /// `GET-SEN …`, which this version does not implement.
    GetSen,
}

/// Why bytes are not a line of the grammar. The text is what the peer sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A byte that is neither printable ASCII nor a space.
    #[error("byte outside printable ASCII")]
    Byte,
    /// The first word names no command.
    #[error("unknown command")]
    UnknownCommand,
    /// The request identifier has more than 64 characters.
    #[error("request identifier longer than 64 characters")]
    IdTooLong,
    /// BEGIN takes one identifier at most, and no APPEND.
    #[error("BEGIN takes one identifier at most")]
    Begin,
    /// END takes nothing.
    #[error("END takes no parameter")]
    End,
    /// A parameter is missing.
    #[error("missing parameter")]
    Missing(Verb),
    /// More parameters than the command takes.
    #[error("too many parameters")]
    TooMany(Verb),
    /// The second word has not the form of a SEID.
    #[error("malformed SEID")]
    Seid(Verb),
    /// The version has not the form 1*DIGIT "." 1*DIGIT.
    #[error("malformed version")]
    Version,
    /// The word after the SEID of RESET is not WARM.
    #[error("unsupported parameter")]
    ResetMode,
    /// A parameter after the APDU that is none of CONTINUE, MORE, FETCH.
    #[error("unsupported parameter")]
    Option,
    /// The value of CONTINUE, MORE or FETCH is not of its length, or is given twice.
    #[error("malformed value of CONTINUE, MORE or FETCH")]
    OptionValue,
    /// The APDU is not an even number of hexadecimal digits.
    #[error("malformed hexadecimal")]
    Hex,
    /// The APDU is shorter than 4 bytes, longer than 65,544, or its lengths contradict each other.
    #[error("malformed APDU")]
    Apdu,
}

impl LineError {
    /// The status header of the error.
    #[must_use]
    pub const fn code(self) -> Code {
        match self {
            Self::Byte | Self::End => Code::new(Class::Syntax, Verb::NONE),
            Self::UnknownCommand => Code::new(Class::UnknownCommand, Verb::NONE),
            Self::IdTooLong => Code::new(Class::Illegal, Verb::GET_VERSION),
            Self::Begin => Code::new(Class::Syntax, Verb::BEGIN),
            Self::Missing(verb) | Self::TooMany(verb) | Self::Seid(verb) => {
                Code::new(Class::Syntax, verb)
            }
            Self::Version => Code::new(Class::Syntax, Verb::SET_VERSION),
            Self::ResetMode => Code::new(Class::Value, Verb::RESET),
            Self::Option => Code::new(Class::Value, Verb::APDU),
            Self::OptionValue | Self::Hex | Self::Apdu => Code::new(Class::Syntax, Verb::APDU),
        }
    }

    /// Whether the session closes after the response.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        matches!(self, Self::Byte | Self::IdTooLong)
    }
}

impl<'a> Line<'a> {
    /// Reads one line, without its end. Spaces at its end are ignored.
    ///
    /// # Errors
    /// [`LineError`], which has a status code.
    pub fn parse(line: &'a [u8]) -> Result<Self, LineError> {
        // The two lines of every request, as they nearly always are.
        match line {
            b"BEGIN" => return Ok(Self::Begin(None)),
            b"END" => return Ok(Self::End),
            _ => {}
        }
        // Without a branch a byte: the compiler looks at many at once.
        let printable = |ok, byte: &u8| ok & (0x20..0x7F).contains(byte);
        if !line.iter().fold(true, printable) {
            return Err(LineError::Byte);
        }
        let line = line.trim_ascii_end();
        let (line, append) = match line.strip_suffix(b" APPEND") {
            Some(rest) => (rest.trim_ascii_end(), true),
            None => (line, false),
        };
        let (word, rest) = first_word(line);
        match word {
            b"BEGIN" => Self::begin(rest, append),
            b"END" if rest.is_empty() && !append => Ok(Self::End),
            b"END" => Err(LineError::End),
            _ => Command::parse(word, rest, append).map(|command| Self::Command(command, append)),
        }
    }

    fn begin(rest: &'a [u8], append: bool) -> Result<Self, LineError> {
        let mut words = Words(rest);
        let id = words.next().map(text).transpose()?;
        if id.is_some_and(|id| id.len() > MAX_ID) {
            return Err(LineError::IdTooLong);
        }
        if append || words.next().is_some() {
            return Err(LineError::Begin);
        }
        Ok(Self::Begin(id))
    }

    /// Whether a line ends a request, well-formed or not.
    pub(super) fn is_end(line: &[u8]) -> bool {
        line.strip_prefix(b"END")
            .is_some_and(|rest| rest.first().is_none_or(|&byte| byte == b' '))
    }

    /// Whether a line is an APDU command for this element, as far as its first two words tell.
    pub(super) fn is_apdu_for(line: &[u8], seid: &Seid) -> bool {
        line.strip_prefix(b"APDU ")
            .and_then(|rest| rest.trim_ascii_start().strip_prefix(seid.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&b' '))
    }
}

impl<'a> Command<'a> {
    fn parse(word: &[u8], rest: &'a [u8], append: bool) -> Result<Self, LineError> {
        let mut words = Words(rest);
        let (command, verb) = match word {
            b"APDU" => (apdu(&mut words, append)?, Verb::APDU),
            b"ECHO" => {
                let token = words.next().ok_or(LineError::Missing(Verb::ECHO))?;
                (Self::Echo(text(token)?), Verb::ECHO)
            }
            b"GET-SEN" => return Ok(Self::GetSen),
            b"GET-VERSION" => (Self::GetVersion, Verb::GET_VERSION),
            b"LIST" => (Self::List, Verb::LIST),
            b"POWERON" => (
                Self::PowerOn(seid(&mut words, Verb::POWERON)?),
                Verb::POWERON,
            ),
            b"RESET" => {
                let seid = seid(&mut words, Verb::RESET)?;
                (Self::Reset(seid, warm(&mut words)?), Verb::RESET)
            }
            b"SEN" => return Ok(Self::Sen),
            b"SET-VERSION" => (Self::SetVersion(version(&mut words)?), Verb::SET_VERSION),
            b"SHUTDOWN" => (
                Self::Shutdown(seid(&mut words, Verb::SHUTDOWN)?),
                Verb::SHUTDOWN,
            ),
            _ => return Err(LineError::UnknownCommand),
        };
        match words.next() {
            Some(_) => Err(LineError::TooMany(verb)),
            None => Ok(command),
        }
    }
}

/// Words between runs of spaces.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.trim_ascii_start();
        if line.is_empty() {
            return None;
        }
        let (word, rest) = first_word(line);
        self.0 = rest;
        Some(word)
    }
}

/// What stands before the first space, and what behind it. Lines are printable ASCII: there is no other white space.
fn first_word(line: &[u8]) -> (&[u8], &[u8]) {
    match find(line, b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[]),
    }
}

/// A word as text: what is printable ASCII is UTF-8.
fn text(word: &[u8]) -> Result<&str, LineError> {
    std::str::from_utf8(word).map_err(|_| LineError::Byte)
}

fn seid(words: &mut Words<'_>, verb: Verb) -> Result<Seid, LineError> {
    let word = words.next().ok_or(LineError::Missing(verb))?;
    Seid::from_bytes(word).map_err(|_| LineError::Seid(verb))
}

fn warm(words: &mut Words<'_>) -> Result<bool, LineError> {
    match words.next() {
        None => Ok(false),
        Some(b"WARM") => Ok(true),
        Some(_) => Err(LineError::ResetMode),
    }
}

fn version<'a>(words: &mut Words<'a>) -> Result<&'a str, LineError> {
    let word = text(words.next().ok_or(LineError::Missing(Verb::SET_VERSION))?)?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match word.split_once('.') {
        Some((major, minor)) if number(major) && number(minor) => Ok(word),
        _ => Err(LineError::Version),
    }
}

fn apdu<'a>(words: &mut Words<'_>, append: bool) -> Result<Command<'a>, LineError> {
    let seid = seid(words, Verb::APDU)?;
    let digits = words.next().ok_or(LineError::Missing(Verb::APDU))?;
    if digits.len() > 2 * MAX_APDU {
        return Err(LineError::Apdu);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    hex::decode_into(digits, &mut bytes).map_err(|_| LineError::Hex)?;
    CommandRef::parse(&bytes).map_err(|_| LineError::Apdu)?;
    let mut step = Step {
        apdu: bytes,
        expect: None,
        more: None,
        fetch: GET_RESPONSE,
        append,
    };
    options(words, &mut step)?;
    Ok(Command::Apdu(seid, step))
}

fn options(words: &mut Words<'_>, step: &mut Step) -> Result<(), LineError> {
    let mut fetch: Option<Fetch> = None;
    for word in words {
        let at = find(word, b'=').ok_or(LineError::Option)?;
        let (name, value) = (&word[..at], &word[at + 1..]);
        let repeated = match name {
            b"CONTINUE" => step
                .expect
                .replace(StatusWord::from(digits::<2>(value)?))
                .is_some(),
            b"MORE" => step.more.replace(digits::<1>(value)?[0]).is_some(),
            b"FETCH" => fetch.replace(digits::<4>(value)?).is_some(),
            _ => return Err(LineError::Option),
        };
        if repeated {
            return Err(LineError::OptionValue);
        }
    }
    step.fetch = fetch.unwrap_or(GET_RESPONSE);
    Ok(())
}

fn digits<const N: usize>(value: &[u8]) -> Result<[u8; N], LineError> {
    if value.len() != 2 * N {
        return Err(LineError::OptionValue);
    }
    let bytes = hex::decode(value).map_err(|_| LineError::OptionValue)?;
    bytes.try_into().map_err(|_| LineError::OptionValue)
}

#[cfg(test)]
mod tests;
