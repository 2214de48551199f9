//! CKA_ID and CKA_LABEL that an application chose for a key: PIV has no place for them, so they follow
//! the key history object's own fields (SP 800-73-4, part 1, 3.3.3), in a template of the private class.

use gose_element::drive::piv::Slot;
use gose_proto::apdu::tlv::{self, Reader, Tlv};

/// The template of one key: 80 slot, 81 CKA_ID, 82 CKA_LABEL.
const TEMPLATE: u32 = 0xE0;

/// Bytes that CKA_ID or CKA_LABEL may have.
pub(crate) const LONGEST: usize = 64;

/// What an application called a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) slot: Slot,
    pub(crate) id: Option<Vec<u8>>,
    pub(crate) label: Option<Vec<u8>>,
}

/// The names in a key history object; what cannot be read is skipped.
pub(crate) fn read(object: &[u8]) -> Vec<Name> {
    let templates = objects(object)
        .into_iter()
        .filter(|(tag, _)| *tag == TEMPLATE);
    templates
        .filter_map(|(_, template)| {
            let slot = tlv::find(template, 0x80)?.first()?;
            let text = |tag| tlv::find(template, tag).map(<[u8]>::to_vec);
            Some(Name {
                slot: Slot::try_from(*slot).ok()?,
                id: text(0x81),
                label: text(0x82),
            })
        })
        .collect()
}

/// The key history object with these names and this many retired keys; its other fields stay.
pub(crate) fn write(object: Option<&[u8]>, names: &[Name], retired: u8) -> Vec<u8> {
    let mut out = tlv::object(0xC1, &[retired]);
    let others = objects(object.unwrap_or(&[0xC2, 1, 0]));
    for (tag, value) in others {
        if tag != TEMPLATE && tag != 0xC1 && tag != 0xFE {
            tlv::write(&mut out, tag, value);
        }
    }
    for name in names {
        let mut template = tlv::object(0x80, &[name.slot.id()]);
        for (tag, value) in [(0x81, &name.id), (0x82, &name.label)] {
            if let Some(value) = value {
                tlv::write(&mut template, tag, value);
            }
        }
        tlv::write(&mut out, TEMPLATE, &template);
    }
    tlv::write(&mut out, 0xFE, &[]);
    out
}

fn objects(bytes: &[u8]) -> Vec<(u32, &[u8])> {
    Reader::new(bytes)
        .map_while(Result::ok)
        .map(|Tlv { tag, value }| (tag, value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_were_written() {
        let names = [
            Name {
                slot: Slot::AUTHENTICATION,
                id: Some(vec![1]),
                label: Some(b"web".to_vec()),
            },
            Name {
                slot: Slot::SIGNATURE,
                id: None,
                label: Some(vec![0x61; 64]),
            },
        ];
        let object = write(None, &names, 3);
        assert_eq!(read(&object), names);
        // Fields of others stay.
        let others = gose_proto::hex::decode("C10102C20100F30161E00380019AFE00").unwrap();
        let object = write(Some(&others), &names[..1], 2);
        assert!(object.starts_with(&gose_proto::hex::decode("C10102C20100F30161").unwrap()));
        assert_eq!(read(&object), names[..1]);
        for wrong in [&[][..], &[0xE0], &[0xE0, 5, 1], &[0xE0, 3, 0x80, 1, 0x01]] {
            assert_eq!(read(wrong), []);
        }
    }
}
