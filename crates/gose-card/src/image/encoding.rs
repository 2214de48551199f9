//! A delta as bytes: for each change `name length (2) ‖ name ‖ 00`, where the object is deleted, or
//! `name length (2) ‖ name ‖ 01 ‖ value length (4) ‖ value`. Padding is `FFFF` and zeros, or nothing.

use zeroize::Zeroizing;

use crate::nvm::Delta;

/// The bytes of a delta. Names and values that a length field cannot say are never made by a card; they
/// would be cut, and [`decode`] refuse the record. The bytes are padded to a multiple of `unit` (not 0).
pub(super) fn encode(delta: &Delta, unit: usize) -> Vec<u8> {
    // As long as needed from the start: growing would leave copies of secrets behind.
    let length = |value: &Option<Zeroizing<Vec<u8>>>| value.as_ref().map_or(0, |v| v.len() + 4);
    let total: usize = delta
        .changes
        .iter()
        .map(|(n, v)| n.len() + 3 + length(v))
        .sum();
    let marked = if unit == 1 {
        total
    } else {
        total + PADDING.len()
    };
    let padded = marked.next_multiple_of(unit);
    let mut out = Vec::with_capacity(padded);
    for (name, value) in &delta.changes {
        let name_length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&name_length.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        match value {
            None => out.push(0),
            Some(value) => {
                let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
                out.push(1);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
    if unit > 1 {
        out.extend_from_slice(&PADDING);
        out.resize(padded, 0);
    }
    out
}

/// In place of a name's length.
const PADDING: [u8; 2] = [0xFF; 2];

/// The delta of bytes; `None` for anything that [`encode`] does not write.
pub(super) fn decode(mut bytes: &[u8], padded: bool) -> Option<Delta> {
    let mut delta = Delta::default();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        if padded && *length == PADDING {
            return rest.iter().all(|byte| *byte == 0).then_some(delta);
        }
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (kind, rest) = rest.split_first()?;
        let (value, rest) = match kind {
            0 => (None, rest),
            1 => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                let (value, rest) = rest.split_at_checked(length)?;
                (Some(Zeroizing::new(value.to_vec())), rest)
            }
            _ => return None,
        };
        let name = String::from_utf8(name.to_vec()).ok()?;
        delta.changes.insert(name, value);
        bytes = rest;
    }
    // Padding is never absent where there is any.
    (!padded).then_some(delta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(changes in proptest::collection::btree_map(
            "[a-z/]{0,20}",
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
            0..6,
        )) {
            let changes = changes
                .into_iter()
                .map(|(name, value)| (name, value.map(Zeroizing::new)))
                .collect();
            let delta = Delta { changes };
            let padded = encode(&delta, 128);
            prop_assert_eq!(padded.len() % 128, 0);
            prop_assert_eq!(decode(&encode(&delta, 1), false), Some(delta.clone()));
            prop_assert_eq!(decode(&padded, true), Some(delta));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for padded in [false, true] {
                let _ = decode(&bytes, padded);
            }
        }
    }
}
