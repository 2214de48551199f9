//! Galois/Counter Mode of a cipher that is elsewhere (NIST SP 800-38D): the holder of the key computes AES in counter
//! mode, the host authenticates.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

const BLOCK: usize = 16;

/// AES in counter mode from this counter block on, wherever the key is.
pub(super) trait CounterMode {
    /// Why it computed nothing.
    type Error;

    /// As many bytes as were given.
    fn apply(&self, counter: [u8; BLOCK], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Self::Error>;
}

/// Ciphertext and tag.
pub(super) fn seal<C: CounterMode>(
    cipher: &C,
    nonce: &[u8; 12],
    associated: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, C::Error> {
    let (mask, text) = crypt(cipher, nonce, plaintext)?;
    let tag = tag(cipher, &mask, associated, &text)?;
    Ok([text.as_slice(), &tag].concat())
}

/// The plaintext; `None` where the tag is another.
pub(super) fn open<C: CounterMode>(
    cipher: &C,
    nonce: &[u8; 12],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, C::Error> {
    let Some((text, told)) = sealed.split_last_chunk::<BLOCK>() else {
        return Ok(None);
    };
    let (mask, plaintext) = crypt(cipher, nonce, text)?;
    let tag = tag(cipher, &mask, associated, text)?;
    Ok(verify_slices_are_equal(&tag, told).ok().map(|()| plaintext))
}

type Crypted = ([u8; BLOCK], Zeroizing<Vec<u8>>);

/// What masks the tag, and the text under the blocks that follow it.
fn crypt<C: CounterMode>(cipher: &C, nonce: &[u8; 12], text: &[u8]) -> Result<Crypted, C::Error> {
    let mut counter = [0; BLOCK];
    counter[..12].copy_from_slice(nonce);
    counter[15] = 1;
    let mut data = Zeroizing::new(vec![0; BLOCK]);
    data.extend_from_slice(text);
    let mut whole = cipher.apply(counter, &data)?;
    let mut mask = [0; BLOCK];
    mask.iter_mut()
        .zip(whole.iter())
        .for_each(|(to, from)| *to = *from);
    let len = whole.len();
    let text = whole.split_off(BLOCK.min(len));
    Ok((mask, text.into()))
}

fn tag<C: CounterMode>(
    cipher: &C,
    mask: &[u8; BLOCK],
    associated: &[u8],
    text: &[u8],
) -> Result<[u8; BLOCK], C::Error> {
    // Counter mode from zero over zeros is the cipher of zero.
    let subkey = cipher.apply([0; BLOCK], &[0; BLOCK])?;
    let subkey = Zeroizing::new(number(&subkey));
    let bits = |bytes: &[u8]| {
        u64::try_from(bytes.len())
            .unwrap_or(u64::MAX)
            .saturating_mul(8)
    };
    let mut hash = 0;
    for part in [associated, text] {
        for block in part.chunks(BLOCK) {
            hash = multiply(hash ^ number(block), *subkey);
        }
    }
    let lengths = u128::from(bits(associated)) << 64 | u128::from(bits(text));
    hash = multiply(hash ^ lengths, *subkey);
    Ok((hash ^ u128::from_be_bytes(*mask)).to_be_bytes())
}

/// Up to a block, zeros behind it.
fn number(block: &[u8]) -> u128 {
    let mut whole = [0; BLOCK];
    whole
        .iter_mut()
        .zip(block)
        .for_each(|(to, from)| *to = *from);
    u128::from_be_bytes(whole)
}

/// The product in GF(2^128) (6.3), by masks, so that its time tells nothing.
fn multiply(x: u128, y: u128) -> u128 {
    const R: u128 = 0xE1 << 120;
    let (mut z, mut v) = (0, y);
    for bit in (0..128).rev() {
        z ^= v & (x >> bit & 1).wrapping_neg();
        v = (v >> 1) ^ (R & (v & 1).wrapping_neg());
    }
    z
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use aws_lc_rs::{
        cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
        iv::FixedLength,
    };
    use gose_card::keystore::{Export, KeyStore, SecretAlgorithm, SoftwareKeyStore};

    use super::*;

    struct Aes([u8; 16]);

    impl CounterMode for Aes {
        type Error = Infallible;

        fn apply(&self, counter: [u8; 16], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Infallible> {
            let key = UnboundCipherKey::new(&AES_128, &self.0).unwrap();
            let mut data = data.to_vec();
            let context = EncryptionContext::Iv128(FixedLength::from(counter));
            let key = EncryptingKey::ctr(key).unwrap();
            key.less_safe_encrypt(&mut data, context).unwrap();
            Ok(data.into())
        }
    }

    #[test]
    fn the_same_bytes_as_aws_lc() {
        let judge = SoftwareKeyStore
            .import_secret(SecretAlgorithm::Aes128Gcm, Export::Never, &[3; 16])
            .unwrap()
            .key;
        let (cipher, nonce) = (Aes([3; 16]), [9; 12]);
        let bytes: Vec<u8> = (0..=255).collect();
        for len in [0, 1, 15, 16, 17, 32, 255] {
            for associated in [&bytes[..0], &bytes[..16], &bytes[..21]] {
                let plaintext = &bytes[..len];
                let Ok(sealed) = seal(&cipher, &nonce, associated, plaintext);
                assert_eq!(sealed, judge.seal(&nonce, associated, plaintext).unwrap());
                let Ok(opened) = open(&cipher, &nonce, associated, &sealed);
                assert_eq!(*opened.unwrap(), plaintext);
                for at in [0, len, len + 15] {
                    let mut changed = sealed.clone();
                    changed[at] ^= 0x80;
                    let Ok(opened) = open(&cipher, &nonce, associated, &changed);
                    assert!(opened.is_none(), "{len} {at}");
                }
            }
        }
        let Ok(short) = open(&cipher, &nonce, &[], &[0; 15]);
        assert!(short.is_none());
    }
}
