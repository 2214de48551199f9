//! Answer to reset (ISO/IEC 7816-3:2006, 8.2).

use std::fmt;

/// The bytes of an answer to reset: 2 to 33.
#[derive(Clone, PartialEq, Eq)]
pub struct Atr(Vec<u8>);

impl Atr {
    /// Keeps the bytes if their number is possible.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (2..=33)
            .contains(&bytes.len())
            .then(|| Self(bytes.to_vec()))
    }

    /// `3B00`, the shortest answer to reset: stands for one that was not told.
    #[must_use]
    pub fn unknown() -> Self {
        Self(vec![0x3B, 0x00])
    }

    /// TS, T0, …, TCK.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Atr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&gose_proto::hex::encode(&self.0))
    }
}

impl fmt::Debug for Atr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
