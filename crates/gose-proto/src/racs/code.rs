//! The status header `sxyz`: an event class and a command class (draft-urien-core-racs-02, 4.5).

/// The sign and the digit x: what clients decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// `+0`: no error.
    Success,
    /// `-0`: command execution error.
    Execution,
    /// `-1`: unknown command.
    UnknownCommand,
    /// `-2`: not implemented.
    NotImplemented,
    /// `-3`: illegal command, which cannot be executed now.
    Illegal,
    /// `-4`: unsupported parameter or illegal value.
    Value,
    /// `-5`: parameter syntax error, or a parameter is missing.
    Syntax,
    /// `-6`: unauthorised.
    Unauthorised,
    /// `-7`: already in use by another session.
    InUse,
    /// `-8`: hardware error.
    Hardware,
    /// `-9`: system error.
    System,
}

impl Class {
    /// Every class, in the draft's order.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Execution,
        Self::UnknownCommand,
        Self::NotImplemented,
        Self::Illegal,
        Self::Value,
        Self::Syntax,
        Self::Unauthorised,
        Self::InUse,
        Self::Hardware,
        Self::System,
    ];

    /// Sign and digit, as they stand in a status header.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8; 2] {
        match self {
            Self::Success => b"+0",
            Self::Execution => b"-0",
            Self::UnknownCommand => b"-1",
            Self::NotImplemented => b"-2",
            Self::Illegal => b"-3",
            Self::Value => b"-4",
            Self::Syntax => b"-5",
            Self::Unauthorised => b"-6",
            Self::InUse => b"-7",
            Self::Hardware => b"-8",
            Self::System => b"-9",
        }
    }

    /// Reads sign and digit. Any `+` is a success: the sign comes first.
    #[must_use]
    pub const fn from_bytes(sign: u8, digit: u8) -> Option<Self> {
        match (sign, digit) {
            (b'+', b'0'..=b'9') => Some(Self::Success),
            (b'-', b'0') => Some(Self::Execution),
            (b'-', b'1') => Some(Self::UnknownCommand),
            (b'-', b'2') => Some(Self::NotImplemented),
            (b'-', b'3') => Some(Self::Illegal),
            (b'-', b'4') => Some(Self::Value),
            (b'-', b'5') => Some(Self::Syntax),
            (b'-', b'6') => Some(Self::Unauthorised),
            (b'-', b'7') => Some(Self::InUse),
            (b'-', b'8') => Some(Self::Hardware),
            (b'-', b'9') => Some(Self::System),
            _ => None,
        }
    }
}

/// The command class yz, 0 to 99. Peers may use numbers that no draft names; they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Verb(u8);

impl Verb {
    /// 00: not bound to a command.
    pub const NONE: Self = Self(0);
    /// 01: BEGIN.
    pub const BEGIN: Self = Self(1);
    /// 02: GET-VERSION.
    pub const GET_VERSION: Self = Self(2);
    /// 03: SET-VERSION.
    pub const SET_VERSION: Self = Self(3);
    /// 04: LIST.
    pub const LIST: Self = Self(4);
    /// 05: RESET.
    pub const RESET: Self = Self(5);
    /// 06: APDU.
    pub const APDU: Self = Self(6);
    /// 07: SHUTDOWN.
    pub const SHUTDOWN: Self = Self(7);
    /// 08: POWERON.
    pub const POWERON: Self = Self(8);
    /// 09: ECHO.
    pub const ECHO: Self = Self(9);
    /// 10: SEN (draft-urien-core-racs-15).
    pub const SEN: Self = Self(10);
    /// 11: GET-SEN (draft-urien-core-racs-15).
    pub const GET_SEN: Self = Self(11);

    /// The number, 0 to 99.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Two digits.
    #[must_use]
    pub const fn as_bytes(self) -> [u8; 2] {
        [b'0' + self.0 / 10, b'0' + self.0 % 10]
    }

    /// Reads two digits.
    #[must_use]
    pub const fn from_bytes(tens: u8, units: u8) -> Option<Self> {
        if tens.is_ascii_digit() && units.is_ascii_digit() {
            Some(Self((tens - b'0') * 10 + (units - b'0')))
        } else {
            None
        }
    }
}

/// A status header: what happened, to which kind of command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    /// Sign and x.
    pub class: Class,
    /// yz: a hint for people. Clients decide on the class alone.
    pub command: Verb,
}

impl Code {
    /// A pair.
    #[must_use]
    pub const fn new(class: Class, command: Verb) -> Self {
        Self { class, command }
    }

    /// `+0yz`
    #[must_use]
    pub const fn success(command: Verb) -> Self {
        Self::new(Class::Success, command)
    }

    /// Whether the sign is `+`.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self.class, Class::Success)
    }

    /// `sxyz`
    #[must_use]
    pub const fn as_bytes(self) -> [u8; 4] {
        let [sign, x] = *self.class.as_bytes();
        let [y, z] = self.command.as_bytes();
        [sign, x, y, z]
    }

    /// Reads `sxyz`.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let &[sign, x, y, z] = header else {
            return None;
        };
        Some(Self::new(
            Class::from_bytes(sign, x)?,
            Verb::from_bytes(y, z)?,
        ))
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|&byte| std::fmt::Write::write_char(f, char::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_read_as_it_is_written() {
        for class in Class::ALL {
            for number in 0..100 {
                let code = Code::new(class, Verb(number));
                assert_eq!(Code::parse(&code.as_bytes()), Some(code));
            }
        }
        assert_eq!(
            Code::new(Class::Unauthorised, Verb::APDU).to_string(),
            "-606"
        );
        assert_eq!(Code::success(Verb::GET_SEN).to_string(), "+011");
        for bad in ["", "+00", "+0000", "*001", "+0a1", "-x01"] {
            assert_eq!(Code::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
