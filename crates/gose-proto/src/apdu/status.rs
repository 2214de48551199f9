//! Status words (ISO/IEC 7816-4:2020, 5.6), in the standard's words.

use std::fmt;

/// SW1-SW2. Unknown values are kept as they came, counters too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusWord(u16);

macro_rules! status_words {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal, $text:literal;)*) => {
        impl StatusWord {
            $($(#[doc = $doc])* pub const $name: Self = Self($value);)*

            const NAMED: &[(Self, &'static str)] = &[$((Self::$name, $text)),*];
        }
    };
}

status_words! {
    /// 9000
    NORMAL = 0x9000, "no further qualification";
    /// 6281
    PART_MAY_BE_CORRUPTED = 0x6281, "part of returned data may be corrupted";
    /// 6282
    END_OF_FILE_REACHED = 0x6282, "end of file or record reached";
    /// 6283
    SELECTED_FILE_DEACTIVATED = 0x6283, "selected file deactivated";
    /// 6300
    NO_INFORMATION = 0x6300, "no information given, state of non-volatile memory has changed";
    /// 6581
    MEMORY_FAILURE = 0x6581, "memory failure";
    /// 6700
    WRONG_LENGTH = 0x6700, "wrong length, no further indication";
    /// 6881
    LOGICAL_CHANNEL_NOT_SUPPORTED = 0x6881, "logical channel not supported";
    /// 6882
    SECURE_MESSAGING_NOT_SUPPORTED = 0x6882, "secure messaging not supported";
    /// 6883
    LAST_COMMAND_EXPECTED = 0x6883, "last command of the chain expected";
    /// 6884
    COMMAND_CHAINING_NOT_SUPPORTED = 0x6884, "command chaining not supported";
    /// 6981
    COMMAND_INCOMPATIBLE = 0x6981, "command incompatible with file structure";
    /// 6982
    SECURITY_STATUS_NOT_SATISFIED = 0x6982, "security status not satisfied";
    /// 6983
    AUTHENTICATION_METHOD_BLOCKED = 0x6983, "authentication method blocked";
    /// 6984
    REFERENCE_DATA_NOT_USABLE = 0x6984, "reference data not usable";
    /// 6985
    CONDITIONS_NOT_SATISFIED = 0x6985, "conditions of use not satisfied";
    /// 6986
    COMMAND_NOT_ALLOWED = 0x6986, "command not allowed (no current EF)";
    /// 6A80
    INCORRECT_DATA = 0x6A80, "incorrect parameters in the command data field";
    /// 6A81
    FUNCTION_NOT_SUPPORTED = 0x6A81, "function not supported";
    /// 6A82
    FILE_NOT_FOUND = 0x6A82, "file or application not found";
    /// 6A83
    RECORD_NOT_FOUND = 0x6A83, "record not found";
    /// 6A84
    NOT_ENOUGH_MEMORY = 0x6A84, "not enough memory space in the file";
    /// 6A86
    INCORRECT_P1_P2 = 0x6A86, "incorrect parameters P1-P2";
    /// 6A88
    REFERENCED_DATA_NOT_FOUND = 0x6A88, "referenced data or reference data not found";
    /// 6A89
    FILE_ALREADY_EXISTS = 0x6A89, "file already exists";
    /// 6B00
    WRONG_P1_P2 = 0x6B00, "wrong parameters P1-P2";
    /// 6D00
    INS_NOT_SUPPORTED = 0x6D00, "instruction code not supported or invalid";
    /// 6E00
    CLA_NOT_SUPPORTED = 0x6E00, "class not supported";
    /// 6F00
    NO_PRECISE_DIAGNOSIS = 0x6F00, "no precise diagnosis";
    /// 7000 (draft-urien-eap-smartcard-25, 9.1)
    EAP_PACKET_DISCARDED = 0x7000, "EAP packet silently discarded";
    /// 7001 (draft-urien-eap-smartcard-25, 9.1)
    EAP_AUTHENTICATION_FAILURE = 0x7001, "EAP authentication failure";
}

impl StatusWord {
    /// SW1-SW2 as one number.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// SW1-SW2 as one number.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }

    /// SW1, SW2.
    #[must_use]
    pub const fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// SW1.
    #[must_use]
    pub const fn sw1(self) -> u8 {
        self.bytes()[0]
    }

    /// SW2.
    #[must_use]
    pub const fn sw2(self) -> u8 {
        self.bytes()[1]
    }

    /// `61xx`: `xx` further bytes can be had by GET RESPONSE (00 = 256 or more).
    #[must_use]
    pub const fn more(xx: u8) -> Self {
        Self(0x6100 | xx as u16)
    }

    /// The xx of `61xx`.
    #[must_use]
    pub const fn more_available(self) -> Option<u8> {
        if self.sw1() == 0x61 {
            Some(self.sw2())
        } else {
            None
        }
    }

    /// `6Cxx`: wrong Le field, `xx` bytes are there.
    #[must_use]
    pub const fn wrong_le(xx: u8) -> Self {
        Self(0x6C00 | xx as u16)
    }

    /// `63Cx`: `x` further tries (at most 15).
    #[must_use]
    pub const fn tries_left(x: u8) -> Self {
        Self(0x63C0 | if x > 15 { 15 } else { x as u16 })
    }

    /// The x of `63Cx`.
    #[must_use]
    pub const fn tries(self) -> Option<u8> {
        if self.0 & 0xFFF0 == 0x63C0 {
            Some(self.sw2() & 0x0F)
        } else {
            None
        }
    }

    /// Whether the command was executed: `9000`, `61xx`, or a warning `62xx`, `63xx`
    /// (ISO/IEC 7816-4:2020, table 5).
    #[must_use]
    pub const fn is_process_completed(self) -> bool {
        matches!(self.sw1(), 0x90 | 0x61 | 0x62 | 0x63)
    }

    /// The standard's words for this status word.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match (self.sw1(), self.sw2()) {
            (0x61, _) => "further response bytes available",
            (0x63, 0xC0..=0xCF) => "verification failed, further tries in the low digit",
            (0x6C, _) => "wrong Le field, SW2 is the length available",
            (0x9F, _) => "further response bytes available (legacy)",
            _ => Self::NAMED
                .iter()
                .find(|(sw, _)| *sw == self)
                .map_or("unknown to this version", |(_, text)| text),
        }
    }
}

impl From<[u8; 2]> for StatusWord {
    fn from(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes))
    }
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl fmt::Debug for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X} ({})", self.0, self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_kept() {
        assert_eq!(StatusWord::new(0x63C2).tries(), Some(2));
        assert_eq!(StatusWord::tries_left(2).value(), 0x63C2);
        assert_eq!(StatusWord::new(0x6303).tries(), None);
        assert_eq!(StatusWord::new(0x6110).more_available(), Some(0x10));
        assert_eq!(StatusWord::new(0x1234).meaning(), "unknown to this version");
        assert_eq!(
            format!("{:?}", StatusWord::FILE_NOT_FOUND),
            "6A82 (file or application not found)"
        );
    }

    #[test]
    fn every_named_word_keeps_its_value() {
        for (sw, text) in StatusWord::NAMED {
            assert_eq!(StatusWord::from(sw.bytes()), *sw);
            assert_eq!(sw.meaning(), *text);
        }
    }
}
