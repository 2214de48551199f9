//! Key references (NIST SP 800-73-4, part 1, table 4b) and the containers of their certificates.

use std::{fmt, str::FromStr};

/// A key slot: 9A, 9C, 9D, 9E, or a retired one of 82 to 95.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u8);

/// Why a number or text is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key slot is one of 9A 9C 9D 9E and 82 to 95")]
pub struct SlotError;

impl Slot {
    /// 9A: authentication, PIN once.
    pub const AUTHENTICATION: Self = Self(0x9A);
    /// 9C: digital signature, PIN always.
    pub const SIGNATURE: Self = Self(0x9C);
    /// 9D: key management, PIN once.
    pub const KEY_MANAGEMENT: Self = Self(0x9D);
    /// 9E: card authentication, no PIN.
    pub const CARD_AUTHENTICATION: Self = Self(0x9E);

    /// Every slot: authentication, key management, signature, card authentication, then the retired ones.
    pub const ALL: [Self; 24] = {
        let mut all = [Self(0x9A); 24];
        (all[1], all[2], all[3]) = (Self(0x9D), Self(0x9C), Self(0x9E));
        let mut retired = 0;
        while retired < 20 {
            all[4 + retired as usize] = Self(0x82 + retired);
            retired += 1;
        }
        all
    };

    /// The key reference.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0
    }

    /// The tag of the certificate's container (part 1, table 3).
    #[must_use]
    pub const fn certificate_tag(self) -> u32 {
        match self.0 {
            0x9A => 0x5F_C105,
            0x9C => 0x5F_C10A,
            0x9D => 0x5F_C10B,
            0x9E => 0x5F_C101,
            retired => 0x5F_C10D + (retired as u32).saturating_sub(0x82),
        }
    }
}

impl TryFrom<u8> for Slot {
    type Error = SlotError;

    fn try_from(id: u8) -> Result<Self, SlotError> {
        match id {
            0x9A | 0x9C..=0x9E | 0x82..=0x95 => Ok(Self(id)),
            _ => Err(SlotError),
        }
    }
}

impl FromStr for Slot {
    type Err = SlotError;

    fn from_str(text: &str) -> Result<Self, SlotError> {
        let id = u8::from_str_radix(text, 16).map_err(|_| SlotError)?;
        id.try_into()
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_container_of_its_own() {
        let slots: Vec<Slot> = (0..=255).filter_map(|id| Slot::try_from(id).ok()).collect();
        assert_eq!(slots.len(), 24);
        let mut tags: Vec<u32> = slots.iter().map(|slot| slot.certificate_tag()).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!((tags.len(), tags[23]), (24, 0x5F_C120));
    }

    #[test]
    fn text_form() {
        assert_eq!("9c".parse(), Ok(Slot::SIGNATURE));
        assert_eq!(Slot::try_from(0x82).unwrap().to_string(), "82");
        for bad in ["9B", "", "zz", "9C0", "96"] {
            assert_eq!(bad.parse::<Slot>(), Err(SlotError), "{bad}");
        }
    }
}
