//! Application master session keys: root keys of single usages, derived from the EMSK (RFC 5295, 3).

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};

/// Bytes of an AMSK: what RFC 5295, 3.1.2, gives a USRK unless its usage says otherwise.
const LENGTH: u16 = 64;

/// The key label of RFC 5295, 3.1, in its form `label@domain` (unregistered).
const LABEL: &[u8] = b"eap-smartcard-amsk@gose.invalid";

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        LENGTH.into()
    }
}

/// USRK = KDF(EMSK, key label | 00 | optional data | length), the optional data being the index. The KDF is
/// RFC 5295's prf+ with HMAC-SHA-256, which is HKDF-Expand (RFC 5869, 2.3).
///
/// # Errors
/// Never for this length.
pub(super) fn derive(emsk: &[u8], index: u8) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
    let prk = Prk::new_less_safe(HKDF_SHA256, emsk);
    let info = [LABEL, &[0x00], &[index], &LENGTH.to_be_bytes()];
    let mut key = vec![0; LENGTH.into()];
    prk.expand(&info, Length)?.fill(&mut key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;

    use super::*;

    /// prf+ as RFC 5295, 3.1.2, writes it down.
    #[test]
    fn prf_plus_of_the_rfc() {
        let emsk = [0x5A; 64];
        let key = hmac::Key::new(hmac::HMAC_SHA256, &emsk);
        let seed = b"eap-smartcard-amsk@gose.invalid\x00\x03\x00\x40";
        let first = hmac::sign(&key, &[&seed[..], &[0x01]].concat());
        let second = hmac::sign(&key, &[first.as_ref(), &seed[..], &[0x02]].concat());
        assert_eq!(
            derive(&emsk, 3).unwrap(),
            [first.as_ref(), second.as_ref()].concat()
        );
        assert_ne!(derive(&emsk, 3), derive(&emsk, 4));
    }
}
