//! Contents of data objects (NIST SP 800-73-4, part 1, 3).

use gose_proto::apdu::tlv;

/// The tag of the card holder unique identifier.
pub const CHUID: u32 = 0x5F_C102;

/// A card holder unique identifier (part 1, table 9) for a card that no agency issued: a FASC-N of nines,
/// this GUID, no expiry in this century, no signature.
#[must_use]
pub fn cardholder_unique_identifier(guid: [u8; 16]) -> Vec<u8> {
    const FASC_N: [u8; 25] = [
        0xD4, 0xE7, 0x39, 0xDA, 0x73, 0x9C, 0xED, 0x39, 0xCE, 0x73, 0x9D, 0x83, 0x68, 0x58, 0x21,
        0x08, 0x42, 0x10, 0x84, 0x21, 0xC8, 0x42, 0x10, 0xC3, 0xEB,
    ];
    let mut content = tlv::object(0x30, &FASC_N);
    tlv::write(&mut content, 0x34, &guid);
    tlv::write(&mut content, 0x35, b"20400123");
    tlv::write(&mut content, 0x3E, &[]);
    tlv::write(&mut content, 0xFE, &[]);
    content
}
