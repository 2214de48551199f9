//! Data objects: GET DATA and PUT DATA (part 1, 3; part 2, 3.1.2 and 3.3.2).

use gose_element::drive::piv::{ATTESTATION_CERTIFICATE, Slot};
use gose_proto::apdu::{Response, StatusWord, tlv};

use super::{AID, Next};
use crate::{card::Env, nvm::Nvm};

/// Bytes of the largest container of the standard: the facial image.
const LARGEST: usize = 12_710;

/// The card capability container that a card is born with.
pub const CARD_CAPABILITY_CONTAINER: [u8; 51] = [
    0xF0, 0x15, 0xA0, 0x00, 0x00, 0x01, 0x16, 0xFF, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0xF1, 0x01, 0x21, 0xF2, 0x01, 0x21, 0xF3, 0x00, 0xF4, 0x01, 0x00, 0xF5, 0x01, 0x10, 0xF6, 0x00,
    0xF7, 0x00, 0xFA, 0x00, 0xFB, 0x00, 0xFC, 0x00, 0xFD, 0x00, 0xFE, 0x00,
];

/// The key history object (part 1, 3.3.3).
const KEY_HISTORY: u32 = 0x5F_C10C;

/// The name in non-volatile memory of an object of the standard or of the attestation key's certificate; `None` for
/// other tags.
#[must_use]
pub fn object_name(tag: u32) -> Option<String> {
    let known = matches!(
        tag,
        0x5F_C101..=0x5F_C103 | 0x5F_C105..=0x5F_C123 | ATTESTATION_CERTIFICATE
    );
    known.then(|| format!("piv/object/{tag:06x}"))
}

/// Printed information, fingerprints, facial image, iris images, pairing code (part 1, table 2).
pub(super) fn needs_pin(tag: u32) -> bool {
    matches!(
        tag,
        0x5F_C103 | 0x5F_C108 | 0x5F_C109 | 0x5F_C121 | 0x5F_C123
    )
}

pub(super) fn get(tag: u32, env: &Env<'_>) -> Result<Next, StatusWord> {
    if tag == 0x7E {
        return Ok(Response::ok(discovery()).into());
    }
    let name = object_name(tag).ok_or(StatusWord::FILE_NOT_FOUND)?;
    let history;
    let content = match env.nvm.get(&name) {
        Some(content) => content,
        None if tag == KEY_HISTORY => {
            history = key_history(env.nvm).ok_or(StatusWord::FILE_NOT_FOUND)?;
            &history
        }
        None => return Err(StatusWord::FILE_NOT_FOUND),
    };
    Ok(Response::ok(tlv::object(0x53, content)).into())
}

pub(super) fn put(tag: u32, content: &[u8], env: &mut Env<'_>) -> Result<Next, StatusWord> {
    let name = object_name(tag).ok_or(StatusWord::FILE_NOT_FOUND)?;
    match content.len() {
        0 => env.nvm.delete(name),
        1..=LARGEST => env.nvm.put(name, content),
        _ => return Err(StatusWord::NOT_ENOUGH_MEMORY),
    }
    Ok(StatusWord::NORMAL.into())
}

/// The key history of a card whose administrator wrote none: the retired slots up to the last one with a certificate;
/// `None` without one. Hosts look for retired keys only where it says so.
fn key_history(nvm: &Nvm) -> Option<Vec<u8>> {
    let has_certificate = |slot: &u8| {
        let slot = Slot::try_from(*slot).ok();
        let name = slot.and_then(|slot| object_name(slot.certificate_tag()));
        name.is_some_and(|name| nvm.get(&name).is_some())
    };
    let last = (0x82..=0x95u8).rev().find(has_certificate)?;
    let mut content = tlv::object(0xC1, &[last - 0x81]);
    tlv::write(&mut content, 0xC2, &[0]);
    tlv::write(&mut content, 0xF3, &[]);
    tlv::write(&mut content, 0xFE, &[]);
    Some(content)
}

/// The discovery object (part 1, 3.3.2): PIV's own PIN, no global PIN, no on-card biometrics.
fn discovery() -> Vec<u8> {
    let mut content = tlv::object(0x4F, &AID);
    tlv::write(&mut content, 0x5F2F, &[0x40, 0x00]);
    tlv::object(0x7E, &content)
}

#[cfg(test)]
mod tests {
    use gose_element::drive::piv::cardholder_unique_identifier;
    use gose_proto::hex;

    use super::*;

    #[test]
    fn ready_values() {
        assert_eq!(
            hex::encode(&discovery()),
            "7E124F0BA0000003080000100001005F2F024000"
        );
        assert_eq!(
            hex::encode(&tlv::object(0x53, &cardholder_unique_identifier([7; 16]))),
            format!(
                "533B3019D4E739DA739CED39CE739D836858210842108421C84210C3EB3410{}35083230343030\
                 3132333E00FE00",
                "07".repeat(16)
            )
        );
        assert_eq!(
            hex::encode(&tlv::object(0x53, &CARD_CAPABILITY_CONTAINER)),
            format!(
                "5333F015A000000116FF02{}F10121F20121F300F40100F50110F600F700FA00FB00FC00FD00FE00",
                "00".repeat(14)
            )
        );
    }
}
