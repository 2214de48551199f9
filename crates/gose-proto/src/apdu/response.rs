//! Response APDUs (ISO/IEC 7816-3:2006, 12.1.4).

use std::fmt;

use super::StatusWord;

/// A response APDU: data field and status word.
///
/// `Debug` shows the length and the status word only: the data field may hold a key block.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// Response data field, at most 65,536 bytes.
    pub data: Vec<u8>,
    /// SW1-SW2.
    pub sw: StatusWord,
}

/// Why bytes are not a response APDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// SW1 and SW2 are not both there.
    #[error("a response has at least 2 bytes (SW1 SW2), this one has {0}")]
    TooShort(usize),
}

impl Response {
    /// A response with data and `9000`.
    #[must_use]
    pub fn ok(data: impl Into<Vec<u8>>) -> Self {
        Self {
            data: data.into(),
            sw: StatusWord::NORMAL,
        }
    }

    /// Splits the last two bytes off as status word.
    ///
    /// # Errors
    /// [`ResponseError::TooShort`] under two bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResponseError> {
        match bytes {
            [data @ .., sw1, sw2] => Ok(Self {
                data: data.to_vec(),
                sw: StatusWord::from([*sw1, *sw2]),
            }),
            _ => Err(ResponseError::TooShort(bytes.len())),
        }
    }

    /// Data field, SW1, SW2.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 2);
        out.extend_from_slice(&self.data);
        out.extend_from_slice(&self.sw.bytes());
        out
    }
}

impl From<StatusWord> for Response {
    fn from(sw: StatusWord) -> Self {
        Self {
            data: Vec::new(),
            sw,
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:?}", self.data.len(), self.sw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_off_the_status_word() {
        let response = Response::parse(&[1, 2, 0x61, 0x10]).unwrap();
        assert_eq!(response.data, [1, 2]);
        assert_eq!(response.sw.more_available(), Some(0x10));
        assert_eq!(response.encode(), [1, 2, 0x61, 0x10]);
        assert_eq!(Response::parse(&[0x90]), Err(ResponseError::TooShort(1)));
    }
}
