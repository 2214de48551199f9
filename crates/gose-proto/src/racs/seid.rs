//! The name of an element in its grid.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

/// The unique identifier of a secure element in its grid: 1 to 64 characters of
/// `[A-Za-z0-9#._:@-]`, case-sensitive (draft-urien-core-racs, 3).
///
/// Kept in place: an operation names its element without an allocation.
#[derive(Clone, Copy)]
pub struct Seid {
    bytes: [u8; Self::MAX],
    len: u8,
}

/// Why text is not a SEID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SEID has 1 to 64 characters of A-Z a-z 0-9 # . _ : @ -")]
pub struct SeidError;

impl Seid {
    /// Characters of the longest SEID.
    pub const MAX: usize = 64;

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The identifier as bytes of ASCII.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The SEID of a slot whose element has no other name: `slot#<n>`.
    #[must_use]
    pub fn slot(number: u32) -> Self {
        let mut seid = Self {
            bytes: [0; Self::MAX],
            len: 0,
        };
        for &byte in format!("slot#{number}").as_bytes() {
            seid.bytes[usize::from(seid.len)] = byte;
            seid.len += 1;
        }
        seid
    }

    /// The SEID of these characters.
    ///
    /// # Errors
    /// [`SeidError`] when they have not its form.
    pub fn from_bytes(text: &[u8]) -> Result<Self, SeidError> {
        let len = u8::try_from(text.len()).map_err(|_| SeidError)?;
        if !Self::is_valid(text) {
            return Err(SeidError);
        }
        let mut bytes = [0; Self::MAX];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Self { bytes, len })
    }

    /// Whether bytes have the form of a SEID.
    #[must_use]
    pub fn is_valid(bytes: &[u8]) -> bool {
        (1..=Self::MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || b"#._:@-".contains(c))
    }
}

impl FromStr for Seid {
    type Err = SeidError;

    fn from_str(text: &str) -> Result<Self, SeidError> {
        Self::from_bytes(text.as_bytes())
    }
}

impl PartialEq for Seid {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Seid {}

impl Hash for Seid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for Seid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Display for Seid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Seid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_of_a_seid() {
        for good in ["SE1", "slot#0", "a.b_c:d@e-f", &"x".repeat(64)] {
            assert_eq!(good.parse::<Seid>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65), &"x".repeat(300)] {
            assert_eq!(bad.parse::<Seid>(), Err(SeidError));
        }
    }

    #[test]
    fn order_and_equality_are_those_of_the_text() {
        let seid = |text: &str| text.parse::<Seid>().unwrap();
        assert_eq!(seid("SE1"), seid("SE1"));
        assert!(seid("SE1") < seid("SE10") && seid("SE10") < seid("se1"));
    }
}
