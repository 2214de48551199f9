//! RSA's encodings (RFC 8017), done here on top of an element's raw private operation.

use cryptoki_sys::*;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::{
    hash::Hash,
    rv::{Result, Rv},
};

/// Bytes that PKCS#1 v1.5 adds at least.
pub(crate) const PKCS1: usize = 11;

/// EMSA-PKCS1-v1_5 of what the caller says is a DigestInfo, for a modulus of `k` bytes (9.2).
pub(crate) fn pkcs1_sign(k: usize, info: &[u8]) -> Result<Vec<u8>> {
    let fill = k
        .checked_sub(info.len() + 3)
        .filter(|fill| *fill >= 8)
        .ok_or(Rv(CKR_DATA_LEN_RANGE))?;
    let mut block = vec![0x00, 0x01];
    block.resize(2 + fill, 0xFF);
    block.push(0x00);
    block.extend_from_slice(info);
    Ok(block)
}

/// EME-PKCS1-v1_5 (7.2.1).
pub(crate) fn pkcs1_encrypt(k: usize, message: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let fill = k
        .checked_sub(message.len() + 3)
        .filter(|fill| *fill >= 8)
        .ok_or(Rv(CKR_DATA_LEN_RANGE))?;
    let mut block = Zeroizing::new(vec![0; 2 + fill]);
    random(&mut block)?;
    for byte in block.iter_mut() {
        while *byte == 0 {
            let mut other = [0];
            random(&mut other)?;
            *byte = other[0];
        }
    }
    (block[0], block[1]) = (0x00, 0x02);
    block.push(0x00);
    block.extend_from_slice(message);
    Ok(block)
}

/// The message in a block of EME-PKCS1-v1_5 (7.2.2). Time does not depend on what the block holds, but on
/// the length of the message.
pub(crate) fn pkcs1_decrypt(block: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    if block.len() < PKCS1 {
        return Err(Rv(CKR_ENCRYPTED_DATA_INVALID));
    }
    let mut good = block[0].ct_eq(&0) & block[1].ct_eq(&2);
    let mut looking = Choice::from(1);
    let mut start = 0u32;
    for (index, byte) in (0u32..).zip(block).skip(2) {
        let zero = byte.ct_eq(&0);
        start.conditional_assign(&(index + 1), looking & zero);
        // Eight bytes at least that are not zero.
        good &= !(looking & zero & Choice::from(u8::from(index < 10)));
        looking &= !zero;
    }
    good &= !looking;
    if bool::from(good) {
        Ok(Zeroizing::new(block[start as usize..].to_vec()))
    } else {
        Err(Rv(CKR_ENCRYPTED_DATA_INVALID))
    }
}

/// Parameters of PSS: the digest of the message, that of the mask, bytes of salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pss {
    pub(crate) hash: Hash,
    pub(crate) mgf: Hash,
    pub(crate) salt: usize,
}

/// EMSA-PSS (9.1.1) for a modulus of `k` full bytes.
pub(crate) fn pss_sign(k: usize, pss: Pss, digest: &[u8]) -> Result<Vec<u8>> {
    let mut salt = vec![0; pss.fits(k)?];
    random(&mut salt)?;
    Ok(pss.encode(k, digest, &salt))
}

impl Pss {
    /// Bytes of salt, if block and salt fit each other.
    pub(crate) fn fits(self, k: usize) -> Result<usize> {
        if k < self.hash.len() + 2 || self.salt > k - self.hash.len() - 2 {
            return Err(Rv(CKR_KEY_SIZE_RANGE));
        }
        Ok(self.salt)
    }

    fn encode(self, k: usize, digest: &[u8], salt: &[u8]) -> Vec<u8> {
        let h = self.hash.digest(&[&[0; 8], digest, salt].concat());
        let mut block = vec![0; k - self.hash.len() - salt.len() - 2];
        block.push(0x01);
        block.extend_from_slice(salt);
        mask(self.mgf, h.as_ref(), &mut block);
        // The encoded message has one bit less than the modulus.
        block[0] &= 0x7F;
        block.extend_from_slice(h.as_ref());
        block.push(0xBC);
        block
    }
}

/// Whether a block is an EMSA-PSS of this digest (9.1.2).
pub(crate) fn pss_verify(pss: Pss, digest: &[u8], block: &[u8]) -> bool {
    let len = pss.hash.len();
    if digest.len() != len || pss.fits(block.len()).is_err() || block.last() != Some(&0xBC) {
        return false;
    }
    let (db, h) = block[..block.len() - 1].split_at(block.len() - len - 1);
    let mut db = db.to_vec();
    if db[0] & 0x80 != 0 {
        return false;
    }
    mask(pss.mgf, h, &mut db);
    let salt = &db[db.len() - pss.salt..];
    // The same salt gives the same block, to the last bit of its padding.
    pss.encode(block.len(), digest, salt) == block
}

/// EME-OAEP (7.1.1).
pub(crate) fn oaep_encrypt(
    k: usize,
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    message: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let len = hash.len();
    let fill = k
        .checked_sub(message.len() + 2 * len + 2)
        .ok_or(Rv(CKR_DATA_LEN_RANGE))?;
    let mut db = Zeroizing::new(hash.digest(label).as_ref().to_vec());
    db.resize(len + fill, 0);
    db.push(0x01);
    db.extend_from_slice(message);
    let mut seed = Zeroizing::new(vec![0; len]);
    random(&mut seed)?;
    mask(mgf, &seed, &mut db);
    mask(mgf, &db, &mut seed);
    let mut block = Zeroizing::new(vec![0]);
    block.extend_from_slice(&seed);
    block.extend_from_slice(&db);
    Ok(block)
}

/// The message in a block of EME-OAEP (7.1.2). All faults are the same one, found in the same time.
pub(crate) fn oaep_decrypt(
    hash: Hash,
    mgf: Hash,
    label: &[u8],
    block: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let len = hash.len();
    if block.len() < 2 * len + 2 {
        return Err(Rv(CKR_ENCRYPTED_DATA_INVALID));
    }
    let mut seed = Zeroizing::new(block[1..=len].to_vec());
    let mut db = Zeroizing::new(block[len + 1..].to_vec());
    mask(mgf, &db, &mut seed);
    mask(mgf, &seed, &mut db);
    let mut good = block[0].ct_eq(&0) & db[..len].ct_eq(hash.digest(label).as_ref());
    let mut looking = Choice::from(1);
    let mut start = 0u32;
    for (index, byte) in (0u32..).zip(db.iter()).skip(len) {
        let one = byte.ct_eq(&1);
        start.conditional_assign(&(index + 1), looking & one);
        good &= !looking | one | byte.ct_eq(&0);
        looking &= !one;
    }
    good &= !looking;
    if bool::from(good) {
        Ok(Zeroizing::new(db[start as usize..].to_vec()))
    } else {
        Err(Rv(CKR_ENCRYPTED_DATA_INVALID))
    }
}

/// MGF1 (B.2.1), added to `block`.
fn mask(hash: Hash, seed: &[u8], block: &mut [u8]) {
    for (counter, piece) in (0u32..).zip(block.chunks_mut(hash.len())) {
        let mask = hash.digest(&[seed, &counter.to_be_bytes()].concat());
        for (byte, mask) in piece.iter_mut().zip(mask.as_ref()) {
            *byte ^= mask;
        }
    }
}

fn random(bytes: &mut [u8]) -> Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Rv(CKR_FUNCTION_FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_padded_is_found_again() {
        for len in [0, 1, 100, 245] {
            let message = vec![0x5A; len];
            let block = pkcs1_encrypt(256, &message).unwrap();
            assert_eq!((block.len(), block[0], block[1]), (256, 0, 2));
            assert_eq!(*pkcs1_decrypt(&block).unwrap(), message);
        }
        assert_eq!(
            pkcs1_encrypt(256, &[0; 246]).err(),
            Some(Rv(CKR_DATA_LEN_RANGE))
        );
        for (hash, mgf) in [(Hash::Sha1, Hash::Sha1), (Hash::Sha256, Hash::Sha384)] {
            for len in [0, 1, 100] {
                let message = vec![1; len];
                let block = oaep_encrypt(256, hash, mgf, b"label", &message).unwrap();
                assert_eq!(*oaep_decrypt(hash, mgf, b"label", &block).unwrap(), message);
                assert!(oaep_decrypt(hash, mgf, b"other", &block).is_err());
                let mut wrong = block.clone();
                wrong[0] = 1;
                assert!(oaep_decrypt(hash, mgf, b"label", &wrong).is_err());
            }
        }
        assert_eq!(
            oaep_encrypt(256, Hash::Sha512, Hash::Sha512, b"", &[0; 127]).err(),
            Some(Rv(CKR_DATA_LEN_RANGE))
        );
    }

    #[test]
    fn wrong_blocks_of_pkcs1() {
        let good = pkcs1_encrypt(256, b"message").unwrap();
        let check = |change: &dyn Fn(&mut [u8])| {
            let mut block = good.clone();
            change(&mut block);
            assert_eq!(
                pkcs1_decrypt(&block).err(),
                Some(Rv(CKR_ENCRYPTED_DATA_INVALID))
            );
        };
        check(&|block| block[0] = 1);
        check(&|block| block[1] = 1);
        check(&|block| block[9] = 0);
        check(&|block| block[2..].fill(1));
        assert!(pkcs1_decrypt(&[0; 10]).is_err() && pkcs1_decrypt(&[]).is_err());
    }

    #[test]
    fn pss_of_every_digest_and_salt() {
        for hash in Hash::ALL {
            let digest = hash.digest(b"message");
            for salt in [0, 20, hash.len()] {
                let pss = Pss {
                    hash,
                    mgf: hash,
                    salt,
                };
                let block = pss_sign(256, pss, digest.as_ref()).unwrap();
                assert!(pss_verify(pss, digest.as_ref(), &block));
                assert!(!pss_verify(pss, hash.digest(b"other").as_ref(), &block));
                for at in [0, 10, 100, 255] {
                    let mut wrong = block.clone();
                    wrong[at] ^= 0x80;
                    assert!(!pss_verify(pss, digest.as_ref(), &wrong), "{at}");
                }
                let other = Pss {
                    salt: salt + 1,
                    ..pss
                };
                assert!(!pss_verify(other, digest.as_ref(), &block));
            }
            let pss = Pss {
                hash,
                mgf: hash,
                salt: 300,
            };
            assert!(pss_sign(256, pss, digest.as_ref()).is_err());
            assert!(!pss_verify(pss, digest.as_ref(), &[0; 256]));
            assert!(!pss_verify(pss, digest.as_ref(), &[]));
        }
    }
}
