//! EAP-TLS Type-Data: flags, TLS message length, fragments (RFC 5216, 2.1.5 and 3.1; RFC 9190, 2.1.1).

const LENGTH: u8 = 0x80;
const MORE: u8 = 0x40;
const START: u8 = 0x20;

/// What an EAP-TLS packet carries after its Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fragment<'a> {
    /// Flag S: the authenticator starts.
    pub start: bool,
    /// Flag M: further fragments follow, each asked for by an acknowledgement.
    pub more: bool,
    /// Flag L and its field: bytes of the whole TLS message.
    pub length: Option<u32>,
    /// TLS data.
    pub data: &'a [u8],
}

/// Why a fragment is refused; the conversation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FragmentError {
    /// No flags, or flag L without its four bytes.
    #[error("EAP-TLS data of {0} bytes is cut off in its flags or its length")]
    Truncated(usize),
    /// The first of several fragments does not tell the length of the message.
    #[error("the first fragment of several has no TLS message length")]
    LengthMissing,
    /// The message would pass the bound.
    #[error("a TLS message of {0} bytes passes the bound of 65536")]
    TooLong(usize),
    /// The fragments are longer or shorter together than the first one said, or say different lengths.
    #[error("fragments contradict the TLS message length {announced}")]
    LengthMismatch {
        /// The length that the first fragment told.
        announced: usize,
    },
    /// Flag M on a fragment without data: the message would never end.
    #[error("a fragment without data announces more")]
    Empty,
}

impl<'a> Fragment<'a> {
    /// The acknowledgement of a fragment, and the empty packet that ends a handshake: flags 00, no data.
    pub const ACKNOWLEDGEMENT: Fragment<'static> = Fragment {
        start: false,
        more: false,
        length: None,
        data: &[],
    };

    /// The start of EAP-TLS: flag S, no data.
    pub const START: Fragment<'static> = Fragment {
        start: true,
        ..Self::ACKNOWLEDGEMENT
    };

    /// Reads Type-Data. Reserved flags are ignored (RFC 5216, 3.1).
    ///
    /// # Errors
    /// [`FragmentError::Truncated`].
    pub fn parse(type_data: &'a [u8]) -> Result<Self, FragmentError> {
        let truncated = FragmentError::Truncated(type_data.len());
        let (flags, rest) = type_data.split_first().ok_or(truncated)?;
        let (length, data) = if flags & LENGTH != 0 {
            let (length, data) = rest.split_first_chunk::<4>().ok_or(truncated)?;
            (Some(u32::from_be_bytes(*length)), data)
        } else {
            (None, rest)
        };
        Ok(Self {
            start: flags & START != 0,
            more: flags & MORE != 0,
            length,
            data,
        })
    }

    /// Whether it carries nothing but its flags.
    #[must_use]
    pub fn is_acknowledgement(&self) -> bool {
        !self.start && !self.more && self.data.is_empty()
    }

    /// The Type-Data.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(5 + self.data.len());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        out.push(
            flag(self.start, START) | flag(self.more, MORE) | flag(self.length.is_some(), LENGTH),
        );
        if let Some(length) = self.length {
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(self.data);
        out
    }
}

/// Cuts a TLS message into fragments, one an acknowledgement.
///
/// Flag L stands on the first of several fragments only (RFC 9190, 2.1.1: not on a message that is whole).
#[derive(Debug)]
pub struct Fragmenter {
    message: Vec<u8>,
    sent: usize,
    size: usize,
}

impl Fragmenter {
    /// A message, and the greatest number of TLS data bytes a fragment (at least 1).
    #[must_use]
    pub fn new(message: Vec<u8>, size: usize) -> Self {
        Self {
            message,
            sent: 0,
            size: size.max(1),
        }
    }

    /// Whether no fragment is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.sent >= self.message.len()
    }

    /// The next fragment's Type-Data; `None` after the last one.
    pub fn next_fragment(&mut self) -> Option<Vec<u8>> {
        if self.is_done() {
            return None;
        }
        let end = self.message.len().min(self.sent + self.size);
        let more = end < self.message.len();
        let first = self.sent == 0;
        let length = (first && more).then(|| u32::try_from(self.message.len()).unwrap_or(u32::MAX));
        let fragment = Fragment {
            start: false,
            more,
            length,
            data: &self.message[self.sent..end],
        };
        self.sent = end;
        Some(fragment.encode())
    }
}

/// Joins fragments to a TLS message.
#[derive(Debug, Default)]
pub struct Reassembler {
    announced: Option<usize>,
    message: Vec<u8>,
}

/// What a fragment came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Reassembled {
    /// Acknowledge it and wait for the next one.
    More,
    /// The message is whole.
    Whole(Vec<u8>),
}

impl Reassembler {
    /// The greatest message, in bytes.
    pub const LIMIT: usize = 65_536;

    /// Whether a message is half there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.message.is_empty()
    }

    /// Takes the next fragment.
    ///
    /// # Errors
    /// [`FragmentError`]; what was collected is then forgotten.
    pub fn receive(&mut self, fragment: &Fragment<'_>) -> Result<Reassembled, FragmentError> {
        let taken = self.take(fragment);
        if taken.is_err() {
            *self = Self::default();
        }
        taken
    }

    fn take(&mut self, fragment: &Fragment<'_>) -> Result<Reassembled, FragmentError> {
        if fragment.more && fragment.data.is_empty() {
            return Err(FragmentError::Empty);
        }
        let length = fragment
            .length
            .map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        match (self.announced, length) {
            (None, None) if fragment.more => return Err(FragmentError::LengthMissing),
            (None, length) => self.announced = Some(length.unwrap_or(fragment.data.len())),
            (Some(announced), Some(length)) if announced != length => {
                return Err(FragmentError::LengthMismatch { announced });
            }
            (Some(_), _) => {}
        }
        let announced = self.announced.unwrap_or_default();
        if announced > Self::LIMIT {
            return Err(FragmentError::TooLong(announced));
        }
        let total = self.message.len() + fragment.data.len();
        // With M set at least one further byte follows.
        if total + usize::from(fragment.more) > announced || (!fragment.more && total != announced)
        {
            return Err(FragmentError::LengthMismatch { announced });
        }
        self.message.extend_from_slice(fragment.data);
        if fragment.more {
            return Ok(Reassembled::More);
        }
        self.announced = None;
        Ok(Reassembled::Whole(std::mem::take(&mut self.message)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn parse(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    /// Type-Data, one a fragment, and what the last one comes to.
    fn check(fragments: &[&str], expected: Result<Reassembled, FragmentError>) {
        let mut reassembler = Reassembler::default();
        let mut last = Ok(Reassembled::More);
        for fragment in fragments {
            assert_eq!(last, Ok(Reassembled::More), "before {fragment}");
            let bytes = parse(fragment);
            last = Fragment::parse(&bytes).and_then(|f| reassembler.receive(&f));
        }
        assert_eq!(last, expected, "{fragments:?}");
        assert_eq!(reassembler.is_open(), last == Ok(Reassembled::More));
    }

    #[test]
    fn whole_messages_and_fragments() {
        let whole = |bytes: &[u8]| Ok(Reassembled::Whole(bytes.to_vec()));
        check(&["00 0102"], whole(&[1, 2]));
        check(&["80 00000002 0102"], whole(&[1, 2]));
        check(&["C0 00000003 0102", "00 03"], whole(&[1, 2, 3]));
        check(
            &["C0 00000003 01", "C0 00000003 02", "80 00000003 03"],
            whole(&[1, 2, 3]),
        );
        check(&["C0 00000003 0102"], Ok(Reassembled::More));
        check(&["1F 01"], whole(&[1]));
    }

    #[test]
    fn lengths_that_lie() {
        let mismatch = |announced| Err(FragmentError::LengthMismatch { announced });
        check(&["40 01"], Err(FragmentError::LengthMissing));
        check(&["C0 00010001 01"], Err(FragmentError::TooLong(65_537)));
        check(
            &["C0 FFFFFFFF 01"],
            Err(FragmentError::TooLong(0xFFFF_FFFF)),
        );
        check(&["C0 00000002 0102"], mismatch(2));
        check(&["C0 00000003 01", "00 02"], mismatch(3));
        check(&["C0 00000003 01", "00 020304"], mismatch(3));
        check(&["C0 00000003 01", "C0 00000004 02"], mismatch(3));
        check(&["80 00000009 01"], mismatch(9));
        check(&["C0 00000009"], Err(FragmentError::Empty));
        check(&["80 000000"], Err(FragmentError::Truncated(4)));
        check(&[""], Err(FragmentError::Truncated(0)));
    }

    #[test]
    fn the_flags() {
        assert_eq!(Fragment::START.encode(), [0x20]);
        assert_eq!(Fragment::ACKNOWLEDGEMENT.encode(), [0x00]);
        assert!(Fragment::parse(&[0]).unwrap().is_acknowledgement());
        assert!(!Fragment::parse(&[0x20]).unwrap().is_acknowledgement());
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(parts in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..12), 0..6)) {
            let mut reassembler = Reassembler::default();
            for part in &parts {
                if let Ok(fragment) = Fragment::parse(part) {
                    let _ = reassembler.receive(&fragment);
                }
            }
        }

        #[test]
        fn any_fragment_size_gives_the_same_message(
            message in proptest::collection::vec(any::<u8>(), 1..3000), size in 1usize..1400) {
            let mut fragmenter = Fragmenter::new(message.clone(), size);
            let mut reassembler = Reassembler::default();
            let mut result = None;
            let mut count = 0;
            while let Some(type_data) = fragmenter.next_fragment() {
                count += 1;
                let fragment = Fragment::parse(&type_data).unwrap();
                prop_assert!(fragment.data.len() <= size);
                prop_assert_eq!(fragment.length.is_some(), count == 1 && fragment.more);
                if let Reassembled::Whole(bytes) = reassembler.receive(&fragment).unwrap() {
                    prop_assert!(fragmenter.is_done());
                    result = Some(bytes);
                }
            }
            prop_assert_eq!(result, Some(message));
        }
    }
}
