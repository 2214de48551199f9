//! The compressed form of lists of SEIDs (draft-urien-core-racs-02, 4.3): `prefix[i1;i2]` and
//! `prefix[i1-ip]`.

use super::{ProtocolError, Seid};

/// SEIDs that a list may expand to.
const MAX: usize = 100_000;

pub(super) fn expand(text: &str) -> Result<Vec<Seid>, ProtocolError> {
    let mut seids = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        expand_word(word, &mut seids)
            .ok_or_else(|| ProtocolError::List(word.chars().take(80).collect()))?;
    }
    Ok(seids)
}

fn expand_word(word: &str, seids: &mut Vec<Seid>) -> Option<()> {
    let Some((prefix, rest)) = word.split_once('[') else {
        return push(word.parse().ok()?, seids);
    };
    for item in rest.strip_suffix(']')?.split(';') {
        match item.split_once('-') {
            None => {
                number(item)?;
                push(format!("{prefix}{item}").parse().ok()?, seids)?;
            }
            Some((low, high)) => {
                // Leading zeros belong to the name.
                let width = if low.starts_with('0') { low.len() } else { 0 };
                let (low, high) = (number(low)?, number(high)?);
                if low > high {
                    return None;
                }
                for index in low..=high {
                    push(format!("{prefix}{index:0width$}").parse().ok()?, seids)?;
                }
            }
        }
    }
    Some(())
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

fn push(seid: Seid, seids: &mut Vec<Seid>) -> Option<()> {
    (seids.len() < MAX).then(|| seids.push(seid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let seids = match expand(text) {
            Ok(seids) => seids.iter().map(Seid::as_str).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(seids, expected, "{text}");
    }

    #[test]
    fn forms() {
        check("", "");
        check("  1 999   SE1 ", "1 999 SE1");
        check(
            "SerialNumber[567;789;243]",
            "SerialNumber567 SerialNumber789 SerialNumber243",
        );
        check("Device[9-11] x", "Device9 Device10 Device11 x");
        check("D[08-10;12] [7]", "D08 D09 D10 D12 7");
        for bad in [
            "D[1-2", "D[]", "D[a]", "D[2-1]", "D[1-]", "D[+1]", "D]", "D[1][2]", "a/b",
        ] {
            check(bad, &format!("malformed list of SEIDs near {bad:?}"));
        }
    }

    #[test]
    fn a_list_expands_to_a_limit() {
        assert_eq!(expand("Device[1000-2000]").unwrap().len(), 1001);
        assert_eq!(expand("D[1-100000]").unwrap().len(), MAX);
        assert!(expand("D[1-100001]").is_err());
        assert!(expand("D[1-99999999999999999999]").is_err());
        assert!(expand("D[0-18446744073709551615]").is_err());
        assert!(expand(&"D[1-60000] ".repeat(2)).is_err());
    }
}
