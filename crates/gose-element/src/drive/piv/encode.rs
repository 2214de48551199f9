//! What the host computes for the card: digests, RSA padding, SubjectPublicKeyInfo.

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use gose_proto::apdu::tlv;

use super::PivError;
use crate::{Algorithm, Scheme};

/// The block or digest that a private key's primitive takes for a message: GENERAL AUTHENTICATE of a card, and
/// the raw operations of other key holders.
///
/// # Errors
/// [`PivError::Host`] when the host has no randomness for a salt.
pub fn input(scheme: Scheme, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, PivError> {
    match scheme {
        Scheme::EcdsaP256Sha256 => Ok(digest(&SHA256, message).as_ref().to_vec()),
        Scheme::EcdsaP384Sha384 => Ok(digest(&SHA384, message).as_ref().to_vec()),
        Scheme::RsaPkcs1Sha256 => Ok(pkcs1_sha256(modulus_len(algorithm), message)),
        Scheme::RsaPssSha256 => {
            let mut salt = [0; 32];
            aws_lc_rs::rand::fill(&mut salt).map_err(|_| PivError::Host)?;
            Ok(pss_sha256(modulus_len(algorithm), message, &salt))
        }
    }
}

fn modulus_len(algorithm: Algorithm) -> usize {
    algorithm.modulus_len().unwrap_or_default()
}

/// EMSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 9.2).
fn pkcs1_sha256(len: usize, message: &[u8]) -> Vec<u8> {
    const DIGEST_INFO: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let mut block = vec![0x00, 0x01];
    block.resize(len - DIGEST_INFO.len() - 33, 0xFF);
    block.push(0x00);
    block.extend_from_slice(&DIGEST_INFO);
    block.extend_from_slice(digest(&SHA256, message).as_ref());
    block
}

/// EMSA-PSS with SHA-256, MGF1-SHA-256 and a 32-byte salt (RFC 8017, 9.1), for a modulus of full bytes.
fn pss_sha256(len: usize, message: &[u8], salt: &[u8; 32]) -> Vec<u8> {
    let hash = digest(&SHA256, message);
    let h = digest(&SHA256, &[&[0; 8], hash.as_ref(), salt].concat());
    let mut block = vec![0; len - 32 - 1 - salt.len() - 1];
    block.push(0x01);
    block.extend_from_slice(salt);
    mask(&mut block, h.as_ref());
    // The encoded message has one bit less than the modulus.
    block[0] &= 0x7F;
    block.extend_from_slice(h.as_ref());
    block.push(0xBC);
    block
}

/// MGF1 with SHA-256, added to `block` (RFC 8017, B.2.1).
fn mask(block: &mut [u8], seed: &[u8]) {
    for (counter, piece) in (0u32..).zip(block.chunks_mut(32)) {
        let mask = digest(&SHA256, &[seed, &counter.to_be_bytes()].concat());
        for (byte, mask) in piece.iter_mut().zip(mask.as_ref()) {
            *byte ^= mask;
        }
    }
}

/// SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) of the value of a `7F49` template (SP 800-73-4, part 2,
/// table 11); `None` where the template does not fit the algorithm.
#[must_use]
pub fn public_key_info(algorithm: Algorithm, template: &[u8]) -> Option<Vec<u8>> {
    const RSA: &[u8] = &[
        0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    const P256: &[u8] = &[
        0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE,
        0x3D, 0x03, 0x01, 0x07,
    ];
    const P384: &[u8] = &[
        0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x05, 0x2B, 0x81, 0x04, 0x00,
        0x22,
    ];
    let (identifier, key) = match algorithm {
        Algorithm::P256 => (P256, point(template, 65)?),
        Algorithm::P384 => (P384, point(template, 97)?),
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
            let modulus = tlv::find(template, 0x81)?;
            if modulus.len() != modulus_len(algorithm) {
                return None;
            }
            let mut key = integer(modulus);
            key.extend(integer(tlv::find(template, 0x82)?));
            (RSA, tlv::object(0x30, &key))
        }
    };
    let mut body = tlv::object(0x30, identifier);
    tlv::write(&mut body, 0x03, &[&[0], key.as_slice()].concat());
    Some(tlv::object(0x30, &body))
}

fn point(template: &[u8], len: usize) -> Option<Vec<u8>> {
    let point = tlv::find(template, 0x86)?;
    (point.len() == len && point.first() == Some(&0x04)).then(|| point.to_vec())
}

/// A DER INTEGER of an unsigned number.
fn integer(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let mut value = Vec::with_capacity(number.len() + 1);
    if number.first().is_none_or(|byte| byte & 0x80 != 0) {
        value.push(0);
    }
    value.extend_from_slice(number);
    tlv::object(0x02, &value)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    use super::*;

    #[test]
    fn integers_are_positive_and_short() {
        for (number, der) in [
            ("010001", "0203010001"),
            ("80", "02020080"),
            ("00007F", "02017F"),
            ("", "020100"),
            ("00", "020100"),
        ] {
            assert_eq!(hex::encode(&integer(&hex::decode(number).unwrap())), der);
        }
    }

    #[test]
    fn templates_that_do_not_fit() {
        let short = tlv::object(0x86, &[4; 64]);
        let compressed = tlv::object(0x86, &[2; 65]);
        for template in [&[][..], &short, &compressed, &[0x86, 0x80]] {
            assert_eq!(public_key_info(Algorithm::P256, template), None);
            assert_eq!(public_key_info(Algorithm::Rsa2048, template), None);
        }
    }

    #[test]
    fn blocks_are_as_long_as_the_modulus() {
        for (algorithm, len) in [(Algorithm::Rsa2048, 256), (Algorithm::Rsa3072, 384)] {
            for scheme in [Scheme::RsaPkcs1Sha256, Scheme::RsaPssSha256] {
                assert_eq!(input(scheme, algorithm, b"m").unwrap().len(), len);
            }
        }
    }
}
