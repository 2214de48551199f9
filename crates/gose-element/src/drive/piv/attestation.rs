//! Attestation: a certificate over a slot's public key, signed in the card by its attestation key F9, says that the
//! key was made in the card and what its PIN policy is.

use gose_proto::apdu::{
    Command, StatusWord,
    tlv::{self, Tlv},
};

use super::{
    Pin, Piv, PivError, Slot, encode,
    operations::{certificate, certificate_object, normal},
};
use crate::Algorithm;

/// Arcs of the extension's object identifier. It stands under 2.25 (UUIDs, ITU-T X.667) and is **not registered**;
/// its last arc is a random number of 28 bits: readers of certificates, Python's among them, take none that is longer.
pub const KEY_ATTESTATION_ARCS: [u64; 3] = [2, 25, 186_416_717];

/// Content octets of [`KEY_ATTESTATION_ARCS`].
pub const KEY_ATTESTATION_OID: [u8; 5] = [0x69, 0xD8, 0xF1, 0xFC, 0x4D];

/// The tag of the container of the attestation key's certificate, as on YubiKeys.
pub const ATTESTATION_CERTIFICATE: u32 = 0x5F_FF01;

/// The reference of the attestation key.
pub const ATTESTATION_KEY: u8 = 0xF9;

/// When a key asks for the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinPolicy {
    /// Never.
    Never,
    /// Once after SELECT.
    Once,
    /// Directly before each use.
    Always,
}

impl PinPolicy {
    /// The policy of a slot (part 1, table 4b).
    #[must_use]
    pub fn of(slot: Slot) -> Self {
        match slot {
            Slot::CARD_AUTHENTICATION => Self::Never,
            Slot::SIGNATURE => Self::Always,
            _ => Self::Once,
        }
    }

    /// The identifier in attestations, and in GET METADATA.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::Never => 1,
            Self::Once => 2,
            Self::Always => 3,
        }
    }
}

/// What an attestation says of a key that the card made: `KeyAttestation ::= SEQUENCE { version INTEGER (1), slot OCTET
/// STRING (1), origin ENUMERATED { generated(1) }, pinPolicy ENUMERATED { never(1), once(2), always(3) } }`, in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyAttestation {
    /// Where the key is.
    pub slot: Slot,
    /// When it asks for the PIN.
    pub pin_policy: PinPolicy,
}

impl KeyAttestation {
    /// DER.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = tlv::object(0x02, &[1]);
        tlv::write(&mut body, 0x04, &[self.slot.id()]);
        tlv::write(&mut body, 0x0A, &[1]);
        tlv::write(&mut body, 0x0A, &[self.pin_policy.id()]);
        tlv::object(0x30, &body)
    }

    /// Reads the extension; `None` for anything but what [`KeyAttestation::encode`] writes.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let outer: Vec<Tlv<'_>> = tlv::Reader::new(der).collect::<Result<_, _>>().ok()?;
        let [Tlv { tag: 0x30, value }] = *outer else {
            return None;
        };
        let fields: Vec<Tlv<'_>> = tlv::Reader::new(value).collect::<Result<_, _>>().ok()?;
        let [version, slot, origin, policy] = *fields else {
            return None;
        };
        let fixed = (version.tag, version.value) == (0x02, &[1][..])
            && (origin.tag, origin.value) == (0x0A, &[1][..])
            && (slot.tag, policy.tag) == (0x04, 0x0A);
        let (&[slot], &[policy]) = (slot.value, policy.value) else {
            return None;
        };
        let pin_policy = [PinPolicy::Never, PinPolicy::Once, PinPolicy::Always]
            .into_iter()
            .find(|known| known.id() == policy)?;
        fixed.then_some(Self {
            slot: slot.try_into().ok()?,
            pin_policy,
        })
    }
}

impl Piv<'_> {
    /// Makes the attestation key, in place of the one there, and its certificate, which it signs itself; gives the
    /// public key. Needs [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// As [`Piv::generate`].
    pub fn generate_attestation_key(&mut self, algorithm: Algorithm) -> Result<Vec<u8>, PivError> {
        let template = tlv::object(0xAC, &tlv::object(0x80, &[algorithm.id()]));
        let command = Command::new(0x00, 0x47, 0x00, ATTESTATION_KEY)
            .with_data(template)
            .with_ne(256);
        let outcome = self.one(Pin::Unneeded, command)?;
        let body = normal("GENERATE ASYMMETRIC KEY PAIR", outcome)?;
        tlv::find(&body, 0x7F49)
            .and_then(|template| encode::public_key_info(algorithm, template))
            .ok_or(PivError::Malformed("public key template 7F49"))
    }

    /// The card's attestation of a slot's key: a certificate (DER), which the certificate of
    /// [`Piv::attestation_certificate`] verifies.
    ///
    /// # Errors
    /// [`PivError::NoKey`] without a key in the slot or without an attestation key, [`PivError::NotGenerated`] for a
    /// key that came from outside.
    pub fn attest(&mut self, slot: Slot) -> Result<Vec<u8>, PivError> {
        let command = Command::new(0x00, 0xF9, slot.id(), 0x00).with_ne(256);
        let outcome = self.one(Pin::Unneeded, command)?;
        match outcome.sw {
            StatusWord::REFERENCED_DATA_NOT_FOUND => Err(PivError::NoKey(slot)),
            StatusWord::FILE_NOT_FOUND => Err(PivError::NoAttestationKey),
            StatusWord::CONDITIONS_NOT_SATISFIED => Err(PivError::NotGenerated(slot)),
            _ => normal("ATTEST", outcome),
        }
    }

    /// The certificate of the attestation key (DER): signed by itself, or put there by an authority.
    ///
    /// # Errors
    /// [`PivError::NoObject`] where there is none.
    pub fn attestation_certificate(&mut self) -> Result<Vec<u8>, PivError> {
        certificate(&self.object(ATTESTATION_CERTIFICATE)?)
    }

    /// Puts another certificate of the attestation key. Needs [`Piv::authenticate_management`].
    ///
    /// # Errors
    /// As [`Piv::put_object`].
    pub fn put_attestation_certificate(&mut self, der: &[u8]) -> Result<(), PivError> {
        self.put_object(ATTESTATION_CERTIFICATE, &certificate_object(der))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_round_trip() {
        for slot in (0..=255).filter_map(|id| Slot::try_from(id).ok()) {
            let said = KeyAttestation {
                slot,
                pin_policy: PinPolicy::of(slot),
            };
            let der = said.encode();
            assert_eq!(KeyAttestation::parse(&der), Some(said));
            for at in 0..der.len() {
                let mut changed = der.clone();
                changed[at] ^= 0x10;
                assert_ne!(KeyAttestation::parse(&changed), Some(said));
                assert_eq!(KeyAttestation::parse(&der[..at]), None);
            }
        }
    }
}
