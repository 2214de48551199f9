//! Names of elements and of the places they sit in (draft-urien-core-racs, 3).

use std::{fmt, str::FromStr};

/// The unique identifier of a secure element in its grid: 1 to 64 characters of
/// `[A-Za-z0-9#._:@-]`, case-sensitive.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seid(String);

/// Why text is not a SEID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SEID has 1 to 64 characters of A-Z a-z 0-9 # . _ : @ -")]
pub struct SeidError;

impl Seid {
    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether bytes have the form of a SEID.
    #[must_use]
    pub fn is_valid(bytes: &[u8]) -> bool {
        (1..=64).contains(&bytes.len())
            && bytes
                .iter()
                .all(|c| c.is_ascii_alphanumeric() || b"#._:@-".contains(c))
    }
}

impl FromStr for Seid {
    type Err = SeidError;

    fn from_str(text: &str) -> Result<Self, SeidError> {
        if Self::is_valid(text.as_bytes()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SeidError)
        }
    }
}

impl fmt::Display for Seid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Seid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A physical or virtual slot of a node, numbered from 0 in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The SEID of an element that the configuration gives none: `slot#<n>`.
    #[must_use]
    pub fn default_seid(self) -> Seid {
        Seid(format!("slot#{}", self.0))
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
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Seid>(), Err(SeidError));
        }
        assert_eq!(SlotId(7).default_seid().as_str(), "slot#7");
    }
}
