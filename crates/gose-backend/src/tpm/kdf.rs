//! Key derivation and parameter encryption (TCG TPM 2.0 Library, part 1, 11.4.10 and 21), with SHA-256 and AES-128.

use aws_lc_rs::{
    agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    cipher::{
        AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
        UnboundCipherKey,
    },
    digest::{self, SHA256},
    hmac,
    iv::FixedLength,
    rand::SystemRandom,
};
use tpm2_protocol::{
    TpmMarshal, TpmWriter,
    data::{Tpm2bEccParameter, TpmsEccPoint, TpmtPublic, TpmuPublicId},
};
use zeroize::Zeroizing;

use super::{TpmError, template};

/// Bytes of a SHA-256 digest, and of what is derived.
pub(super) const DIGEST: usize = 32;

pub(super) type Secret = Zeroizing<[u8; DIGEST]>;

/// Bytes of an AES-128 key and of its initialisation vector.
const KEY: usize = 16;

pub(super) fn hash(parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut context = digest::Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    fixed(context.finish().as_ref())
}

pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    fixed(context.sign().as_ref())
}

/// Whether `tag` is the MAC, in constant time.
pub(super) fn is_mac(key: &[u8], parts: &[&[u8]], tag: &[u8]) -> bool {
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, key),
        &parts.concat(),
        tag,
    )
    .is_ok()
}

/// KDFa: up to 256 bits by HMAC in counter mode.
pub(super) fn kdf_a(key: &[u8], label: &[u8], u: &[u8], v: &[u8], bits: u32) -> Secret {
    let counter = 1_u32.to_be_bytes();
    Zeroizing::new(mac(
        key,
        &[&counter, label, &[0], u, v, &bits.to_be_bytes()],
    ))
}

/// KDFe: 256 bits of an elliptic curve secret.
fn kdf_e(secret: &[u8], label: &[u8], u: &[u8], v: &[u8]) -> Secret {
    Zeroizing::new(hash(&[&1_u32.to_be_bytes(), secret, label, &[0], u, v]))
}

/// A secret shared with the holder of a storage key on P-256 (part 1, C.6.1), and what is sent for it to know.
pub(super) fn shared_secret(
    label: &[u8],
    holder: &TpmtPublic,
) -> Result<(Secret, Vec<u8>), TpmError> {
    let random = SystemRandom::new();
    let mine = EphemeralPrivateKey::generate(&ECDH_P256, &random).map_err(|_| TpmError::Crypto)?;
    let public = mine.compute_public_key().map_err(|_| TpmError::Crypto)?;
    let (x, y) = coordinates(public.as_ref()).ok_or(TpmError::Crypto)?;
    let TpmuPublicId::Ecc(point) = &holder.unique else {
        return Err(TpmError::Malformed);
    };
    let theirs_x = template::pad(&point.x, DIGEST).ok_or(TpmError::Malformed)?;
    let theirs_y = template::pad(&point.y, DIGEST).ok_or(TpmError::Malformed)?;
    let theirs = [&[0x04], theirs_x.as_slice(), &theirs_y].concat();
    let peer = UnparsedPublicKey::new(&ECDH_P256, theirs);
    let secret = agree_ephemeral(mine, peer, TpmError::Malformed, |shared| {
        Ok(kdf_e(shared, label, x, &theirs_x))
    })?;
    let parameter = |bytes| Tpm2bEccParameter::try_from(bytes).map_err(TpmError::wire);
    let sent = TpmsEccPoint {
        x: parameter(x)?,
        y: parameter(y)?,
    };
    Ok((secret, marshalled(&sent)?))
}

pub(super) fn marshalled(value: &impl TpmMarshal) -> Result<Vec<u8>, TpmError> {
    let mut buffer = vec![0; super::transport::MAX_SIZE];
    let mut writer = TpmWriter::new(&mut buffer);
    value.marshal(&mut writer).map_err(TpmError::wire)?;
    let len = writer.len();
    buffer.truncate(len);
    Ok(buffer)
}

fn coordinates(point: &[u8]) -> Option<(&[u8], &[u8])> {
    point.strip_prefix(&[0x04])?.split_at_checked(DIGEST)
}

/// AES-128 in CFB mode under a key and a vector.
pub(super) struct Cfb<'a> {
    key: &'a [u8],
    vector: [u8; KEY],
}

impl<'a> Cfb<'a> {
    /// Key and vector stand one behind the other.
    pub(super) fn of(derived: &'a Secret) -> Self {
        let (key, vector) = derived.split_at(KEY);
        Self {
            key,
            vector: fixed(vector),
        }
    }

    /// A key that is used once needs no vector.
    pub(super) fn once(derived: &'a Secret) -> Self {
        Self {
            key: derived.split_at(KEY).0,
            vector: [0; KEY],
        }
    }

    pub(super) fn encrypt(&self, data: &mut [u8]) -> Result<(), TpmError> {
        let context = EncryptionContext::Iv128(FixedLength::from(self.vector));
        UnboundCipherKey::new(&AES_128, self.key)
            .and_then(EncryptingKey::cfb128)
            .and_then(|key| key.less_safe_encrypt(data, context))
            .map_err(|_| TpmError::Crypto)?;
        Ok(())
    }

    pub(super) fn decrypt(&self, data: &mut [u8]) -> Result<(), TpmError> {
        let context = DecryptionContext::Iv128(FixedLength::from(self.vector));
        UnboundCipherKey::new(&AES_128, self.key)
            .and_then(DecryptingKey::cfb128)
            .and_then(|key| key.decrypt(data, context).map(|_| ()))
            .map_err(|_| TpmError::Crypto)
    }
}

/// A part of exactly this length; zeros stand for what is not there, which no caller lets happen.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_comes_back() {
        let derived = kdf_a(b"key", b"CFB", b"u", b"v", 256);
        let mut data = b"three blocks of sixteen bytes, and some".to_vec();
        let plain = data.clone();
        Cfb::of(&derived).encrypt(&mut data).unwrap();
        assert_ne!(data, plain);
        Cfb::of(&derived).decrypt(&mut data).unwrap();
        assert_eq!(data, plain);
        Cfb::once(&derived).encrypt(&mut data).unwrap();
        Cfb::of(&derived).decrypt(&mut data).unwrap();
        assert_ne!(data, plain, "another vector");
    }

    #[test]
    fn macs_are_told_apart() {
        let tag = mac(b"key", &[b"two ", b"parts"]);
        assert!(is_mac(b"key", &[b"two parts"], &tag));
        assert!(!is_mac(b"another", &[b"two parts"], &tag));
        assert!(!is_mac(b"key", &[b"two parts"], &tag[1..]));
    }
}
