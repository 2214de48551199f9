//! How a card is born: its applications, and the published values that initialisation replaces.

use std::sync::Arc;

use gose_element::drive::piv::{CHUID, Slot, cardholder_unique_identifier};

use crate::{
    applet::{
        Applet,
        eap_tls::EapTlsApplet,
        piv,
        storage::{Quotas, StorageApplet},
    },
    card::Card,
    keystore::KeyStore,
    nvm::{Delta, Nvm},
    pin,
    random::Random,
};

/// The bearer's PIN of the EAP-TLS application: "0000" at birth, 3 tries.
pub const EAP_PIN: pin::Reference = pin::Reference("eap/pin");
/// The operator's PIN of the EAP-TLS application: "00000000" at birth, 10 tries.
pub const EAP_OPERATOR: pin::Reference = pin::Reference("eap/operator");

const CCC: u32 = 0x5F_C107;

/// The first delta of every card's memory: published default PINs, the card capability container, and a
/// CHUID with this GUID (random bytes of the caller).
#[must_use]
pub fn birth(guid: [u8; 16]) -> Delta {
    let mut nvm = Nvm::default();
    EAP_PIN.set(&mut nvm, b"0000\xFF\xFF\xFF\xFF", 3);
    EAP_OPERATOR.set(&mut nvm, b"00000000", 10);
    piv::PIN.set(&mut nvm, b"123456\xFF\xFF", 3);
    piv::PUK.set(&mut nvm, b"12345678", 3);
    for (tag, content) in [
        (CHUID, cardholder_unique_identifier(guid)),
        (CCC, piv::CARD_CAPABILITY_CONTAINER.to_vec()),
    ] {
        if let Some(name) = piv::object_name(tag) {
            nvm.put(name, content);
        }
    }
    nvm.commit();
    nvm.snapshot()
}

/// A card with every application of this version on a memory that began with [`birth`]. On a memory that
/// did not, no PIN can be verified (`6984`).
#[must_use]
pub fn new_card(nvm: Nvm, keys: Arc<dyn KeyStore>) -> Card {
    new_card_within(Quotas::default(), nvm, keys)
}

/// The same, with these quotas of the storage application.
#[must_use]
pub fn new_card_within(quotas: Quotas, nvm: Nvm, keys: Arc<dyn KeyStore>) -> Card {
    let applets: Vec<Box<dyn Applet>> = vec![
        Box::new(piv::PivApplet::new(Random::system())),
        Box::new(EapTlsApplet::new()),
        Box::new(StorageApplet::within(quotas, Random::system())),
    ];
    Card::new(nvm, keys, applets)
}

/// The serial number that the CHUID carries; `None` where the object is gone or has no GUID.
#[must_use]
pub fn guid(nvm: &Nvm) -> Option<[u8; 16]> {
    let content = nvm.get(&piv::object_name(CHUID)?)?;
    gose_proto::apdu::tlv::find(content, 0x34)?.try_into().ok()
}

/// Slots that hold a key.
#[must_use]
pub fn key_slots(nvm: &Nvm) -> Vec<Slot> {
    nvm.names("key/")
        .iter()
        .filter_map(|name| name.strip_prefix("key/")?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use gose_element::SecureElement;
    use gose_proto::apdu::StatusWord;

    use super::*;
    use crate::{Hosted, Memory, keystore::SoftwareKeyStore};

    #[test]
    fn a_card_is_born_with_the_published_pins() {
        let nvm = Nvm::replay([birth([7; 16])]);
        assert_eq!(guid(&nvm), Some([7; 16]));
        assert!(key_slots(&nvm).is_empty());
        let tries =
            [EAP_PIN, EAP_OPERATOR, piv::PIN, piv::PUK].map(|reference| reference.tries(&nvm));
        assert_eq!(tries, [Some(3), Some(10), Some(3), Some(3)]);
    }

    #[test]
    fn a_memory_without_birth_lets_nobody_in() {
        let card = new_card(Nvm::default(), Arc::new(SoftwareKeyStore));
        let mut card = Hosted::new(card, Memory::default());
        card.power_on().unwrap();
        let select = b"\x00\xA4\x04\x00\x09\xA0\x00\x00\x03\x08\x00\x00\x10\x00";
        assert_eq!(card.transmit(select).unwrap().sw, StatusWord::NORMAL);
        let verify = card
            .transmit(b"\x00\x20\x00\x80\x08123456\xFF\xFF")
            .unwrap();
        assert_eq!(verify.sw, StatusWord::REFERENCE_DATA_NOT_USABLE);
    }
}
