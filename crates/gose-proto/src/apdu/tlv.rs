//! BER-TLV data objects (ISO/IEC 7816-4:2020, 6.3; ISO/IEC 8825-1): tags of one to three bytes,
//! definite lengths of up to 65,535 bytes.

/// One data object, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// Tag as it stands, e.g. `0x5C`, `0x7F49`, `0x5FC105`.
    pub tag: u32,
    /// Value field.
    pub value: &'a [u8],
}

/// Why bytes are not a sequence of BER-TLV data objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlvError {
    /// The bytes end inside a tag, a length or a value.
    #[error("data object at offset {0} is cut off")]
    Truncated(usize),
    /// A tag of more than three bytes.
    #[error("tag at offset {0} is longer than three bytes")]
    TagTooLong(usize),
    /// Indefinite, or more than two length bytes.
    #[error("length at offset {0} is indefinite or over 65535")]
    LengthForm(usize),
}

/// Walks over the data objects of one level. After an error the walk ends.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A walk over `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn byte(&mut self, start: usize) -> Result<u8, TlvError> {
        let byte = self.bytes.get(self.at).ok_or(TlvError::Truncated(start))?;
        self.at += 1;
        Ok(*byte)
    }

    fn read(&mut self) -> Result<Tlv<'a>, TlvError> {
        let start = self.at;
        let first = self.byte(start)?;
        let mut tag = u32::from(first);
        if first & 0x1F == 0x1F {
            loop {
                let next = self.byte(start)?;
                tag = tag << 8 | u32::from(next);
                if next & 0x80 == 0 {
                    break;
                }
                if tag > 0xFFFF {
                    return Err(TlvError::TagTooLong(start));
                }
            }
        }
        let length_at = self.at;
        let length = match self.byte(start)? {
            n @ 0..=0x7F => usize::from(n),
            0x81 => usize::from(self.byte(start)?),
            0x82 => usize::from(u16::from_be_bytes([self.byte(start)?, self.byte(start)?])),
            _ => return Err(TlvError::LengthForm(length_at)),
        };
        let value = self
            .bytes
            .get(self.at..self.at + length)
            .ok_or(TlvError::Truncated(start))?;
        self.at += length;
        Ok(Tlv { tag, value })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Tlv<'a>, TlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let item = self.read();
        if item.is_err() {
            self.at = self.bytes.len();
        }
        Some(item)
    }
}

/// The value of the first object with this tag, if the bytes parse up to there.
#[must_use]
pub fn find(bytes: &[u8], tag: u32) -> Option<&[u8]> {
    Reader::new(bytes)
        .map_while(Result::ok)
        .find(|tlv| tlv.tag == tag)
        .map(|tlv| tlv.value)
}

/// Appends tag, length and value. A value over 65,535 bytes is cut there: no APDU carries more.
pub fn write(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    let value = &value[..value.len().min(0xFFFF)];
    let bytes = tag.to_be_bytes();
    let skip = bytes.iter().take_while(|b| **b == 0).count().min(3);
    out.extend_from_slice(&bytes[skip..]);
    let [hi, lo] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    match (hi, lo) {
        (0, 0..=0x7F) => out.push(lo),
        (0, _) => out.extend_from_slice(&[0x81, lo]),
        _ => out.extend_from_slice(&[0x82, hi, lo]),
    }
    out.extend_from_slice(value);
}

/// Tag, length and value as new bytes.
#[must_use]
pub fn object(tag: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 6);
    write(&mut out, tag, value);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags_and_lengths_of_every_form() {
        let mut bytes = object(0x5C, &[0x5F, 0xC1, 0x05]);
        write(&mut bytes, 0x7F49, &[7; 200]);
        write(&mut bytes, 0x5F_C105, &[9; 300]);
        let objects: Vec<_> = Reader::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            objects
                .iter()
                .map(|o| (o.tag, o.value.len()))
                .collect::<Vec<_>>(),
            [(0x5C, 3), (0x7F49, 200), (0x5F_C105, 300)]
        );
        assert_eq!(find(&bytes, 0x7F49).map(<[u8]>::len), Some(200));
        assert_eq!(find(&bytes, 0x53), None);
    }

    #[test]
    fn errors_name_the_place() {
        let first = |bytes: &[u8]| Reader::new(bytes).next().unwrap().unwrap_err();
        assert_eq!(first(&[0x5C, 0x03, 0x01]), TlvError::Truncated(0));
        assert_eq!(first(&[0x5C, 0x80]), TlvError::LengthForm(1));
        assert_eq!(first(&[0x5C, 0x83, 0, 0, 1, 0]), TlvError::LengthForm(1));
        assert_eq!(first(&[0x5F, 0x81, 0x82, 0x83, 1]), TlvError::TagTooLong(0));
        assert_eq!(Reader::new(&[0x5C]).count(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reader::new(&bytes).count();
        }

        #[test]
        fn round_trip(values in proptest::collection::vec(
            (prop_oneof![Just(0x5Cu32), Just(0x7F49), Just(0x5F_C102)],
             proptest::collection::vec(any::<u8>(), 0..400)), 0..4)) {
            let mut bytes = Vec::new();
            for (tag, value) in &values {
                write(&mut bytes, *tag, value);
            }
            let read: Vec<_> = Reader::new(&bytes)
                .map(|o| o.map(|o| (o.tag, o.value.to_vec())).unwrap())
                .collect();
            prop_assert_eq!(read, values);
        }
    }
}
