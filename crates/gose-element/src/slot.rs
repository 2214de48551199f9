//! Places that elements sit in (draft-urien-core-racs, 3).

use crate::Seid;

/// A physical or virtual slot of a node, numbered from 0 in the order of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The SEID of an element that the configuration gives none: `slot#<n>`.
    #[must_use]
    pub fn default_seid(self) -> Seid {
        Seid::slot(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_names_its_element() {
        assert_eq!(SlotId(7).default_seid(), "slot#7".parse().unwrap());
        assert_eq!(SlotId(u32::MAX).default_seid().as_str(), "slot#4294967295");
    }
}
