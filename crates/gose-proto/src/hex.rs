//! Hexadecimal text, as RACS and the command line write it.

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Why text is not hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// A byte is half there.
    #[error("odd number of hexadecimal digits ({0})")]
    OddLength(usize),
    /// Something else than 0-9, a-f, A-F.
    #[error("no hexadecimal digit at position {0}")]
    NoDigit(usize),
}

/// Appends the upper-case digits of `bytes` to `out`.
pub fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    let (pairs, _) = out[start..].as_chunks_mut::<2>();
    for ([high, low], byte) in pairs.iter_mut().zip(bytes) {
        *high = DIGITS[usize::from(byte >> 4)];
        *low = DIGITS[usize::from(byte & 15)];
    }
}

/// The upper-case digits of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Reads digits of either case, no separators.
///
/// # Errors
/// [`HexError`] names the place of the first wrong character.
pub fn decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, HexError> {
    let mut out = Vec::new();
    decode_into(text.as_ref(), &mut out)?;
    Ok(out)
}

/// Reads digits of either case, no separators, and appends the bytes to `out`, which is unchanged
/// on an error.
///
/// # Errors
/// [`HexError`] names the place of the first wrong character.
pub fn decode_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), HexError> {
    let start = out.len();
    let (pairs, rest) = text.as_chunks::<2>();
    out.resize(start + pairs.len(), 0);
    let mut wrong = 0;
    for (byte, [high, low]) in out[start..].iter_mut().zip(pairs) {
        let (high, low) = (VALUES[usize::from(*high)], VALUES[usize::from(*low)]);
        wrong |= high | low;
        *byte = high << 4 | low & 15;
    }
    // Errors are looked for again, from the front, to name the place.
    if wrong & NO_DIGIT != 0
        && let Some(at) = text.iter().position(|&c| digit(c).is_none())
    {
        out.truncate(start);
        return Err(HexError::NoDigit(at));
    }
    match rest {
        [] => Ok(()),
        [last] => {
            out.truncate(start);
            Err(match digit(*last) {
                Some(_) => HexError::OddLength(text.len()),
                None => HexError::NoDigit(text.len() - 1),
            })
        }
        _ => unreachable!("as_chunks::<2> leaves at most one byte"),
    }
}

/// What no digit is worth.
const NO_DIGIT: u8 = 0x80;

/// What each character is worth.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        let upper = DIGITS[value as usize];
        values[upper as usize] = value;
        values[upper.to_ascii_lowercase() as usize] = value;
        value += 1;
    }
    values
};

fn digit(c: u8) -> Option<u8> {
    Some(VALUES[usize::from(c)]).filter(|&value| value != NO_DIGIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cases_and_the_place_of_an_error() {
        assert_eq!(decode("00a4FF").unwrap(), [0, 0xA4, 0xFF]);
        assert_eq!(encode(&[0, 0xA4, 0xFF]), "00A4FF");
        assert_eq!(decode("00a"), Err(HexError::OddLength(3)));
        assert_eq!(decode("0x"), Err(HexError::NoDigit(1)));
        assert_eq!(decode("00 1"), Err(HexError::NoDigit(2)));
        assert_eq!(decode("00z"), Err(HexError::NoDigit(2)));
        let mut out = vec![1];
        assert!(decode_into(b"22x", &mut out).is_err());
        assert_eq!(out, [1]);
    }
}
