//! The extension that binds a certificate to a virtual machine and its hypervisor.

use super::{KeyHash, VmId};
use crate::apdu::tlv::Reader;

/// Arcs of the extension's object identifier. It stands under 2.25 (UUIDs, ITU-T X.667) and is **not
/// registered**; its last arc is a random number that fits 64 bits, for stacks that keep no more.
pub const OID: [u64; 3] = [2, 25, 6_502_232_295_264_455_446];

/// Content octets of [`OID`].
pub const OID_BYTES: [u8; 10] = [0x69, 0xDA, 0x9E, 0xA4, 0xBA, 0xA7, 0xF2, 0xBE, 0x96, 0x16];

/// The form of a VM-Auth-Token: whose public key it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// The hypervisor's `hv-ca` key: a TLS session needs the hypervisor's element.
    Attachment,
    /// The virtual machine's own key, held in its element.
    Identity,
}

/// `VmBinding ::= SEQUENCE { version INTEGER (1), idVm OCTET STRING (16), idHv OCTET STRING (32),
/// generation INTEGER, form ENUMERATED { attachment(0), identity(1) } }`, in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VmBinding {
    /// ID_VM: the domain's UUID.
    pub vm: VmId,
    /// ID_HV: SHA-256 of the `hv-ca` key.
    pub hypervisor: KeyHash,
    /// Counts the starts of the domain: a clone or a roll-back shows an older one. Under 2^63.
    pub generation: u64,
    /// Whose key the certificate carries.
    pub form: Form,
}

/// Why bytes are not a VmBinding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// Not DER of the five fields, nothing more.
    #[error("the VmBinding extension is not the DER of its five fields")]
    Malformed,
    /// A later version.
    #[error("the VmBinding extension has another version than 1")]
    Version,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0A;

impl VmBinding {
    /// The newest generation there can be.
    pub const MAX_GENERATION: u64 = i64::MAX.cast_unsigned();

    /// DER. A generation over [`Self::MAX_GENERATION`] is written as that one.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![INTEGER, 1, 1];
        put(&mut body, OCTET_STRING, &self.vm.0);
        put(&mut body, OCTET_STRING, &self.hypervisor.0);
        put(
            &mut body,
            INTEGER,
            integer(&self.generation.min(Self::MAX_GENERATION).to_be_bytes()),
        );
        let form = match self.form {
            Form::Attachment => 0,
            Form::Identity => 1,
        };
        put(&mut body, ENUMERATED, &[form]);
        let mut out = Vec::with_capacity(body.len() + 2);
        put(&mut out, SEQUENCE, &body);
        out
    }

    /// Reads DER; any other encoding of the same values is refused.
    ///
    /// # Errors
    /// [`BindingError`].
    pub fn parse(der: &[u8]) -> Result<Self, BindingError> {
        let sequence = value(&mut Reader::new(der), SEQUENCE)?;
        let mut fields = Reader::new(sequence);
        if value(&mut fields, INTEGER)? != [1] {
            return Err(BindingError::Version);
        }
        let vm = VmId(fixed(value(&mut fields, OCTET_STRING)?)?);
        let hypervisor = KeyHash(fixed(value(&mut fields, OCTET_STRING)?)?);
        let generation = unsigned(value(&mut fields, INTEGER)?)?;
        let form = match value(&mut fields, ENUMERATED)? {
            [0] => Form::Attachment,
            [1] => Form::Identity,
            _ => return Err(BindingError::Malformed),
        };
        let binding = Self {
            vm,
            hypervisor,
            generation,
            form,
        };
        // One encoding: lengths in long form, padded integers and trailing bytes end here.
        if binding.encode() == der {
            Ok(binding)
        } else {
            Err(BindingError::Malformed)
        }
    }
}

/// Appends a data object of fewer than 128 bytes.
fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    debug_assert!(content.len() < 0x80);
    out.push(tag);
    out.push(u8::try_from(content.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(content);
}

/// The shortest content of a non-negative INTEGER.
fn integer(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [0, rest @ ..] = bytes
        && rest.first().is_some_and(|next| next & 0x80 == 0)
    {
        bytes = rest;
    }
    bytes
}

fn value<'a>(fields: &mut Reader<'a>, tag: u8) -> Result<&'a [u8], BindingError> {
    match fields.next() {
        Some(Ok(field)) if field.tag == u32::from(tag) => Ok(field.value),
        _ => Err(BindingError::Malformed),
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], BindingError> {
    bytes.try_into().map_err(|_| BindingError::Malformed)
}

fn unsigned(bytes: &[u8]) -> Result<u64, BindingError> {
    match bytes {
        [first, ..] if first & 0x80 == 0 && bytes.len() <= 8 => Ok(bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
        _ => Err(BindingError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hex;

    fn binding(generation: u64, form: Form) -> VmBinding {
        VmBinding {
            vm: VmId([0x11; 16]),
            hypervisor: KeyHash([0x22; 32]),
            generation,
            form,
        }
    }

    #[test]
    fn the_object_identifier_in_both_spellings() {
        let mut bytes = vec![u8::try_from(OID[0] * 40 + OID[1]).unwrap()];
        let groups = (0..9).rev().map(|group| (OID[2] >> (7 * group)) & 0x7F);
        bytes.extend(
            groups.enumerate().map(|(index, group)| {
                u8::try_from(group).unwrap() | if index < 8 { 0x80 } else { 0 }
            }),
        );
        assert_eq!(bytes, OID_BYTES);
    }

    #[test]
    fn known_bytes() {
        let text = format!(
            "303E0201010410{}0420{}020200800A0101",
            "11".repeat(16),
            "22".repeat(32)
        );
        let der = hex::decode(&text).unwrap();
        assert_eq!(hex::encode(&binding(128, Form::Identity).encode()), text);
        assert_eq!(VmBinding::parse(&der), Ok(binding(128, Form::Identity)));
    }

    #[test]
    fn other_encodings_are_refused() {
        let good = binding(5, Form::Attachment).encode();
        let edit = |at: usize, byte: u8| {
            let mut der = good.clone();
            der[at] = byte;
            VmBinding::parse(&der)
        };
        assert_eq!(edit(4, 2), Err(BindingError::Version));
        assert_eq!(edit(good.len() - 1, 2), Err(BindingError::Malformed));
        assert_eq!(edit(good.len() - 4, 0x85), Err(BindingError::Malformed));
        let long = [&[SEQUENCE, 0x81, good[1]], &good[2..]].concat();
        assert_eq!(VmBinding::parse(&long), Err(BindingError::Malformed));
        let trailing = [&good[..], &[0]].concat();
        assert_eq!(VmBinding::parse(&trailing), Err(BindingError::Malformed));
    }

    proptest! {
        #[test]
        fn round_trip(vm: [u8; 16], hypervisor: [u8; 32], generation in 0..=VmBinding::MAX_GENERATION, own: bool) {
            let form = if own { Form::Identity } else { Form::Attachment };
            let binding = VmBinding { vm: VmId(vm), hypervisor: KeyHash(hypervisor), generation, form };
            prop_assert_eq!(VmBinding::parse(&binding.encode()), Ok(binding));
        }

        #[test]
        fn any_bytes_have_one_reading(der in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(binding) = VmBinding::parse(&der) {
                prop_assert_eq!(binding.encode(), der);
            }
        }
    }
}
