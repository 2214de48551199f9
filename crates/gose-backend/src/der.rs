//! The little DER that key holders leave to the host.

use gose_proto::apdu::tlv;
use zeroize::Zeroizing;

/// ECDSA-Sig-Value (RFC 3279, 2.2.3) of two unsigned numbers.
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    tlv::object(0x30, &[integer(r), integer(s)].concat())
}

/// INTEGER of an unsigned number.
fn integer(number: &[u8]) -> Vec<u8> {
    let number = unsigned(number);
    let positive = number.first().is_some_and(|byte| byte & 0x80 == 0);
    let sign: &[u8] = if positive { &[] } else { &[0] };
    tlv::object(0x02, &[sign, number].concat())
}

/// The modulus in the SubjectPublicKeyInfo of an RSA key (RFC 8017, A.1.1), without a leading zero.
pub(crate) fn modulus(info: &[u8]) -> Option<&[u8]> {
    let key = tlv::find(public_bits(info)?, 0x30)?;
    Some(unsigned(tlv::find(key, 0x02)?))
}

/// The content of subjectPublicKey: of a key on a curve, its point.
pub(crate) fn public_bits(info: &[u8]) -> Option<&[u8]> {
    tlv::find(tlv::find(info, 0x30)?, 0x03)?.strip_prefix(&[0])
}

/// What is private in a PKCS#8 key (RFC 5958), as key holders take it in.
pub(crate) enum PrivateParts {
    /// The scalar of ECPrivateKey (RFC 5915).
    Elliptic(Zeroizing<Vec<u8>>),
    /// The numbers of RSAPrivateKey (RFC 8017, A.1.2).
    Rsa(RsaNumbers),
}

/// n, e, d, p, q, d mod (p - 1), d mod (q - 1), q⁻¹ mod p, without leading zeros.
pub(crate) struct RsaNumbers(pub(crate) [Zeroizing<Vec<u8>>; 8]);

impl RsaNumbers {
    #[cfg(feature = "tpm")]
    /// One of the primes, which is all that a TPM wants.
    pub(crate) fn prime1(&self) -> &[u8] {
        &self.0[3]
    }
}

impl PrivateParts {
    /// Reads a key that a parser of the whole structure has accepted before.
    pub(crate) fn read(pkcs8: &[u8]) -> Option<Self> {
        let key = tlv::find(tlv::find(pkcs8, 0x30)?, 0x04)?;
        let key = tlv::find(key, 0x30)?;
        if let Some(scalar) = tlv::find(key, 0x04) {
            return Some(Self::Elliptic(Zeroizing::new(scalar.to_vec())));
        }
        let mut numbers = tlv::Reader::new(key)
            .map_while(Result::ok)
            .filter(|object| object.tag == 0x02)
            .map(|object| unsigned(object.value))
            .skip(1);
        let mut next = || numbers.next().map(|number| Zeroizing::new(number.to_vec()));
        Some(Self::Rsa(RsaNumbers([
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
            next()?,
        ])))
    }
}

fn unsigned(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
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
