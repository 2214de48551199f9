//! The little DER that key holders leave to the host.

use gose_proto::apdu::tlv;

/// ECDSA-Sig-Value (RFC 3279, 2.2.3) of two unsigned numbers.
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    tlv::object(0x30, &[integer(r), integer(s)].concat())
}

/// INTEGER of an unsigned number.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let positive = number.first().is_some_and(|byte| byte & 0x80 == 0);
    let sign: &[u8] = if positive { &[] } else { &[0] };
    tlv::object(0x02, &[sign, number].concat())
}

/// The modulus in the SubjectPublicKeyInfo of an RSA key (RFC 8017, A.1.1), without a leading zero.
#[cfg(feature = "pkcs11")]
pub(crate) fn modulus(info: &[u8]) -> Option<&[u8]> {
    let bits = tlv::find(tlv::find(info, 0x30)?, 0x03)?;
    let key = tlv::find(bits.strip_prefix(&[0])?, 0x30)?;
    let number = tlv::find(key, 0x02)?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    #[test]
    fn numbers_are_positive_and_short() {
        let check = |r: &[u8], s: &[u8], der: &str| {
            assert_eq!(hex::encode(&super::ecdsa_signature(r, s)), der);
        };
        check(&[0x7F], &[0x80], "300702017F02020080");
        check(&[0, 0, 1], &[0], "3006020101020100");
    }
}
