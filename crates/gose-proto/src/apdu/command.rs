//! Command APDUs (ISO/IEC 7816-3:2006, 12.1.3; 7816-4:2020, 5.2).

use std::fmt;

use zeroize::Zeroize;

/// A command APDU, borrowed from the bytes it was read from.
///
/// `Debug` shows the header and the lengths only: the data field may hold a PIN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CommandRef<'a> {
    /// Class byte.
    pub cla: u8,
    /// Instruction byte.
    pub ins: u8,
    /// First parameter byte.
    pub p1: u8,
    /// Second parameter byte.
    pub p2: u8,
    /// Command data field, 0 to 65,535 bytes.
    pub data: &'a [u8],
    /// Ne, the greatest number of response bytes expected (1 to 65,536), where an Le field was present.
    pub ne: Option<u32>,
    /// Whether Lc and Le stood in their extended form.
    pub extended: bool,
}

/// A command APDU that owns its data.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    /// Class byte.
    pub cla: u8,
    /// Instruction byte.
    pub ins: u8,
    /// First parameter byte.
    pub p1: u8,
    /// Second parameter byte.
    pub p2: u8,
    /// Command data field, 0 to 65,535 bytes.
    pub data: Vec<u8>,
    /// Ne, the greatest number of response bytes expected (1 to 65,536), where an Le field is sent.
    pub ne: Option<u32>,
}

/// Why bytes are not a command APDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// CLA INS P1 P2 are not all there.
    #[error("an APDU has at least 4 bytes (CLA INS P1 P2), this one has {0}")]
    TooShort(usize),
    /// Lc is zero in the extended form, which no case of the standard has.
    #[error("extended Lc is 0000; leave the field out instead")]
    ZeroLc,
    /// The bytes after Lc are neither Lc bytes nor Lc bytes and an Le field.
    #[error("Lc announces {lc} data bytes, {found} bytes follow")]
    LengthMismatch {
        /// The value of Lc.
        lc: usize,
        /// Bytes found after the Lc field.
        found: usize,
    },
    /// More data than an extended Lc can say.
    #[error("a command carries at most 65535 data bytes, this one has {0}")]
    TooLong(usize),
}

impl<'a> CommandRef<'a> {
    /// Reads one of the seven cases of ISO/IEC 7816-3:2006, 12.1.3: 1, 2S, 3S, 4S, 2E, 3E, 4E.
    ///
    /// # Errors
    /// [`CommandError`] when the lengths in the bytes contradict the number of bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CommandError> {
        let [cla, ins, p1, p2, body @ ..] = bytes else {
            return Err(CommandError::TooShort(bytes.len()));
        };
        let (data, ne, extended) = Self::parse_body(body)?;
        Ok(Self {
            cla: *cla,
            ins: *ins,
            p1: *p1,
            p2: *p2,
            data,
            ne,
            extended,
        })
    }

    fn parse_body(body: &'a [u8]) -> Result<(&'a [u8], Option<u32>, bool), CommandError> {
        match *body {
            // Case 1
            [] => Ok((&[], None, false)),
            // Case 2S
            [le] => Ok((&[], Some(short_ne(le)), false)),
            // Case 2E
            [0, hi, lo] => Ok((&[], Some(extended_ne(hi, lo)), true)),
            // Cases 3E and 4E
            [0, hi, lo, ref rest @ ..] => {
                let lc = usize::from(u16::from_be_bytes([hi, lo]));
                if lc == 0 {
                    return Err(CommandError::ZeroLc);
                }
                match rest.len().checked_sub(lc) {
                    Some(0) => Ok((rest, None, true)),
                    Some(2) => Ok((&rest[..lc], Some(extended_ne(rest[lc], rest[lc + 1])), true)),
                    _ => Err(CommandError::LengthMismatch {
                        lc,
                        found: rest.len(),
                    }),
                }
            }
            [0, ref rest @ ..] => Err(CommandError::LengthMismatch {
                lc: 0,
                found: rest.len(),
            }),
            // Cases 3S and 4S
            [lc, ref rest @ ..] => {
                let lc = usize::from(lc);
                match rest.len().checked_sub(lc) {
                    Some(0) => Ok((rest, None, false)),
                    Some(1) => Ok((&rest[..lc], Some(short_ne(rest[lc])), false)),
                    _ => Err(CommandError::LengthMismatch {
                        lc,
                        found: rest.len(),
                    }),
                }
            }
        }
    }

    /// CLA INS P1 P2.
    #[must_use]
    pub fn header(&self) -> [u8; 4] {
        [self.cla, self.ins, self.p1, self.p2]
    }

    /// A copy that owns its data.
    #[must_use]
    pub fn to_owned(self) -> Command {
        Command {
            cla: self.cla,
            ins: self.ins,
            p1: self.p1,
            p2: self.p2,
            data: self.data.to_vec(),
            ne: self.ne,
        }
    }
}

impl Command {
    /// A case 1 command: header only.
    #[must_use]
    pub fn new(cla: u8, ins: u8, p1: u8, p2: u8) -> Self {
        Self {
            cla,
            ins,
            p1,
            p2,
            data: Vec::new(),
            ne: None,
        }
    }

    /// The same command with a data field (Lc is written by [`Command::encode`]).
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = data.into();
        self
    }

    /// The same command with an Le field: `ne` response bytes at most, 1 to 65,536.
    #[must_use]
    pub fn with_ne(mut self, ne: u32) -> Self {
        self.ne = Some(ne);
        self
    }

    /// Reads any of the seven cases; see [`CommandRef::parse`].
    ///
    /// # Errors
    /// [`CommandError`] when the lengths in the bytes contradict the number of bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        CommandRef::parse(bytes).map(CommandRef::to_owned)
    }

    /// The borrowed view of this command. `extended` tells the form that [`Command::encode`] writes.
    #[must_use]
    pub fn view(&self) -> CommandRef<'_> {
        CommandRef {
            cla: self.cla,
            ins: self.ins,
            p1: self.p1,
            p2: self.p2,
            data: &self.data,
            ne: self.ne,
            extended: self.data.len() > 255 || self.ne.is_some_and(|ne| ne > 256),
        }
    }

    /// The bytes on the line: short form where it can say the lengths, extended form otherwise.
    ///
    /// # Errors
    /// [`CommandError::TooLong`] over 65,535 data bytes. An Ne outside 1 to 65,536 is brought into it.
    pub fn encode(&self) -> Result<Vec<u8>, CommandError> {
        let lc =
            u16::try_from(self.data.len()).map_err(|_| CommandError::TooLong(self.data.len()))?;
        let extended = self.view().extended;
        let mut out = Vec::with_capacity(9 + self.data.len());
        out.extend_from_slice(&[self.cla, self.ins, self.p1, self.p2]);
        if lc > 0 {
            match (extended, u8::try_from(lc)) {
                (false, Ok(lc)) => out.push(lc),
                _ => {
                    out.push(0);
                    out.extend_from_slice(&lc.to_be_bytes());
                }
            }
            out.extend_from_slice(&self.data);
        }
        if let Some(ne) = self.ne {
            let le = u16::try_from(ne.max(1)).unwrap_or(0);
            if extended {
                if lc == 0 {
                    out.push(0);
                }
                out.extend_from_slice(&le.to_be_bytes());
            } else {
                // 256 is written as 00.
                out.push(le.to_be_bytes()[1]);
            }
        }
        Ok(out)
    }
}

fn short_ne(le: u8) -> u32 {
    if le == 0 { 256 } else { u32::from(le) }
}

fn extended_ne(hi: u8, lo: u8) -> u32 {
    match u16::from_be_bytes([hi, lo]) {
        0 => 65_536,
        n => u32::from(n),
    }
}

impl fmt::Debug for CommandRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02X}{:02X}{:02X}{:02X} Lc={}",
            self.cla,
            self.ins,
            self.p1,
            self.p2,
            self.data.len()
        )?;
        match self.ne {
            Some(ne) => write!(f, " Ne={ne}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl Zeroize for Command {
    fn zeroize(&mut self) {
        self.data.zeroize();
    }
}

/// Data fields carry PINs and keys: they do not stay in freed memory.
impl Drop for Command {
    fn drop(&mut self) {
        self.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(hex: &str, data_len: usize, ne: Option<u32>, extended: bool) {
        let bytes = crate::hex::decode(hex).unwrap();
        let view = CommandRef::parse(&bytes).unwrap();
        assert_eq!(
            (view.data.len(), view.ne, view.extended),
            (data_len, ne, extended),
            "{hex}"
        );
        assert_eq!(
            CommandRef::parse(&view.to_owned().encode().unwrap())
                .unwrap()
                .data,
            view.data
        );
    }

    #[test]
    fn the_seven_cases() {
        check("00A40400", 0, None, false); // 1
        check("00C0000010", 0, Some(16), false); // 2S
        check("00C0000000", 0, Some(256), false); // 2S, Le 00
        check("00A4040002A000", 2, None, false); // 3S
        check("00A4040002A00000", 2, Some(256), false); // 4S
        check("00C00000000100", 0, Some(256), true); // 2E
        check("00C00000000000", 0, Some(65_536), true); // 2E, Le 0000
        check("00DB3FFF0000021122", 2, None, true); // 3E
        check("00DB3FFF00000211220000", 2, Some(65_536), true); // 4E
    }

    #[test]
    fn lengths_that_lie() {
        let err = |hex: &str| Command::parse(&crate::hex::decode(hex).unwrap()).unwrap_err();
        assert_eq!(err("00A404"), CommandError::TooShort(3));
        assert_eq!(
            err("00A4040003A000"),
            CommandError::LengthMismatch { lc: 3, found: 2 }
        );
        assert_eq!(
            err("00A4040001A0000000"),
            CommandError::LengthMismatch { lc: 1, found: 4 }
        );
        assert_eq!(err("00A404000000001122"), CommandError::ZeroLc);
        assert_eq!(
            err("00A4040000000511"),
            CommandError::LengthMismatch { lc: 5, found: 1 }
        );
        assert_eq!(
            err("00A404000000"),
            CommandError::LengthMismatch { lc: 0, found: 1 }
        );
    }

    #[test]
    fn debug_shows_no_data() {
        let verify = Command::new(0x00, 0x20, 0, 0x80).with_data(*b"123456\xFF\xFF");
        assert_eq!(format!("{verify:?}"), "00200080 Lc=8");
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = CommandRef::parse(&bytes);
        }

        #[test]
        fn round_trip(header: [u8; 4], data in proptest::collection::vec(any::<u8>(), 0..700),
                      ne in proptest::option::of(1u32..=65_536)) {
            let [cla, ins, p1, p2] = header;
            let mut command = Command::new(cla, ins, p1, p2).with_data(data);
            command.ne = ne;
            prop_assert_eq!(&Command::parse(&command.encode().unwrap()).unwrap(), &command);
        }
    }
}
