//! Secret keys: AES-GCM (NIST SP 800-38D), HMAC (FIPS 198-1), AES key wrap (RFC 3394).
//!
//! A blob is `version (1) ‖ algorithm (1) ‖ export (1) ‖ key`.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
    key_wrap::{AES_128, AES_256, AesKek, KeyWrap},
};
use zeroize::Zeroizing;

use super::failed;
use crate::keystore::{Export, KeyError, SecretAlgorithm, SecretKey, wrapped_len};

const VERSION: u8 = 1;

pub(super) fn encode(algorithm: SecretAlgorithm, export: Export, key: &[u8]) -> Zeroizing<Vec<u8>> {
    let head = [VERSION, algorithm.id(), u8::from(export == Export::Wrapped)];
    let mut blob = Zeroizing::new(Vec::with_capacity(head.len() + key.len()));
    blob.extend_from_slice(&head);
    blob.extend_from_slice(key);
    blob
}

fn decode(blob: &[u8]) -> Result<(SecretAlgorithm, Export, &[u8]), KeyError> {
    let [VERSION, algorithm, export @ (0 | 1), key @ ..] = blob else {
        return Err(KeyError::Input);
    };
    let algorithm = SecretAlgorithm::from_id(*algorithm)
        .filter(|algorithm| algorithm.takes(key.len()))
        .ok_or(KeyError::Input)?;
    let export = if *export == 1 {
        Export::Wrapped
    } else {
        Export::Never
    };
    Ok((algorithm, export, key))
}

/// An opened key.
pub(super) struct Secret {
    algorithm: SecretAlgorithm,
    key: Opened,
}

enum Opened {
    Gcm(LessSafeKey),
    Hmac(Box<hmac::Key>),
    /// Wraps by its blob.
    Kw,
}

impl Secret {
    pub(super) fn open(blob: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, _, key) = decode(blob)?;
        let gcm = |algorithm| {
            Ok(Opened::Gcm(LessSafeKey::new(
                UnboundKey::new(algorithm, key).map_err(failed)?,
            )))
        };
        let key = match algorithm {
            SecretAlgorithm::Aes128Gcm => gcm(&AES_128_GCM)?,
            SecretAlgorithm::Aes256Gcm => gcm(&AES_256_GCM)?,
            SecretAlgorithm::HmacSha256 => {
                Opened::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key)))
            }
            SecretAlgorithm::Aes128Kw | SecretAlgorithm::Aes256Kw => Opened::Kw,
            _ => return Err(KeyError::Unsupported),
        };
        Ok(Self { algorithm, key })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.algorithm)
    }
}

impl SecretKey for Secret {
    fn algorithm(&self) -> SecretAlgorithm {
        self.algorithm
    }

    fn seal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        let Opened::Gcm(key) = &self.key else {
            return Err(KeyError::Unsupported);
        };
        let mut out = Vec::with_capacity(plaintext.len() + 16);
        out.extend_from_slice(plaintext);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(associated), &mut out)
            .map_err(failed)?;
        Ok(out)
    }

    fn unseal(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let Opened::Gcm(key) = &self.key else {
            return Err(KeyError::Unsupported);
        };
        let mut out = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = key
            .open_in_place(nonce, Aad::from(associated), &mut out)
            .map_err(|_| KeyError::Mismatch)?
            .len();
        out.truncate(len);
        Ok(out)
    }

    fn mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        let Opened::Hmac(key) = &self.key else {
            return Err(KeyError::Unsupported);
        };
        let tag = hmac::sign(key, message);
        tag.as_ref().try_into().map_err(|_| KeyError::Unsupported)
    }
}

pub(super) fn wrap(wrapping: &[u8], key: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (_, export, key) = decode(key)?;
    if export == Export::Never {
        return Err(KeyError::Unsupported);
    }
    let mut out = vec![0; key.len() + 8];
    kek(wrapping)?.wrap(key, &mut out).map_err(failed)?;
    Ok(out)
}

pub(super) fn unwrap(wrapping: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let kek = kek(wrapping)?;
    let len = wrapped_len(wrapped)?;
    // The operation wants room for a block more than it gives.
    let mut out = Zeroizing::new(vec![0; wrapped.len()]);
    kek.unwrap(wrapped, &mut out)
        .map_err(|_| KeyError::Mismatch)?;
    out.truncate(len);
    Ok(out)
}

fn kek(blob: &[u8]) -> Result<AesKek, KeyError> {
    let (algorithm, _, key) = decode(blob)?;
    let cipher = match algorithm {
        SecretAlgorithm::Aes128Kw => &AES_128,
        SecretAlgorithm::Aes256Kw => &AES_256,
        _ => return Err(KeyError::Unsupported),
    };
    AesKek::new(cipher, key).map_err(failed)
}

#[cfg(test)]
mod tests {
    use gose_proto::hex;

    use super::*;
    use crate::keystore::{KeyStore, SoftwareKeyStore, StoredSecret};

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    fn imported(algorithm: SecretAlgorithm, key: &str) -> StoredSecret {
        SoftwareKeyStore
            .import_secret(algorithm, Export::Wrapped, &bytes(key))
            .unwrap()
    }

    /// RFC 3394, 4.1 to 4.6, where key and wrapping key are of sizes served.
    #[test]
    fn key_wrap_of_rfc_3394() {
        use SecretAlgorithm::{Aes128Gcm, Aes128Kw, Aes256Gcm, Aes256Kw};
        for (kek, wrapping, algorithm, key, wrapped) in [
            (
                Aes128Kw,
                "000102030405060708090A0B0C0D0E0F",
                Aes128Gcm,
                "00112233445566778899AABBCCDDEEFF",
                "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5",
            ),
            (
                Aes256Kw,
                "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
                Aes128Gcm,
                "00112233445566778899AABBCCDDEEFF",
                "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7",
            ),
            (
                Aes256Kw,
                "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
                Aes256Gcm,
                "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
                "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
            ),
        ] {
            let kek = imported(kek, wrapping);
            let key = imported(algorithm, key);
            let out = SoftwareKeyStore.wrap_secret(&kek.blob, &key.blob).unwrap();
            assert_eq!(hex::encode(&out), wrapped);
            let again = SoftwareKeyStore
                .unwrap_secret(&kek.blob, &out, algorithm, Export::Wrapped)
                .unwrap();
            assert_eq!(again.blob, key.blob);
            for at in 0..out.len() {
                let mut changed = out.clone();
                changed[at] ^= 1;
                let refused =
                    SoftwareKeyStore.unwrap_secret(&kek.blob, &changed, algorithm, Export::Never);
                assert_eq!(refused.err(), Some(KeyError::Mismatch));
            }
            for len in [0, 7, 8, 16, 23, out.len() - 1] {
                let refused = SoftwareKeyStore.unwrap_secret(
                    &kek.blob,
                    &out[..len],
                    algorithm,
                    Export::Never,
                );
                assert_eq!(refused.err(), Some(KeyError::Mismatch), "{len}");
            }
        }
    }

    #[test]
    fn keys_that_stay_are_not_wrapped_and_only_wrapping_keys_wrap() {
        let store = SoftwareKeyStore;
        let kek = store
            .generate_secret(SecretAlgorithm::Aes256Kw, Export::Never)
            .unwrap();
        let stays = store
            .generate_secret(SecretAlgorithm::Aes256Gcm, Export::Never)
            .unwrap();
        let leaves = store
            .generate_secret(SecretAlgorithm::HmacSha256, Export::Wrapped)
            .unwrap();
        for (wrapping, key) in [(&kek, &stays), (&stays, &leaves), (&leaves, &leaves)] {
            let refused = store.wrap_secret(&wrapping.blob, &key.blob);
            assert_eq!(refused, Err(KeyError::Unsupported));
        }
        let wrapped = store.wrap_secret(&kek.blob, &leaves.blob).unwrap();
        let other = store.unwrap_secret(
            &kek.blob,
            &wrapped,
            SecretAlgorithm::Aes128Gcm,
            Export::Never,
        );
        assert_eq!(
            other.err(),
            Some(KeyError::Input),
            "32 bytes are no AES-128"
        );
    }

    /// FIPS 198's examples: NIST, HMAC_SHA256, keys of a block and of less than a block.
    #[test]
    fn hmac_of_nist() {
        for (len, message, mac) in [
            (
                64,
                "Sample message for keylen=blocklen",
                "8BB9A1DB9806F20DF7F77B82138C7914D174D59E13DC4D0169C9057B133E1D62",
            ),
            (
                32,
                "Sample message for keylen<blocklen",
                "A28CF43130EE696A98F14A37678B56BCFCBDD9E5CF69717FECF5480F0EBDF790",
            ),
        ] {
            let key: Vec<u8> = (0..len).collect();
            let key = imported(SecretAlgorithm::HmacSha256, &hex::encode(&key)).key;
            assert_eq!(hex::encode(&key.mac(message.as_bytes()).unwrap()), mac);
            assert_eq!(key.seal(&[0; 12], &[], &[]), Err(KeyError::Unsupported));
        }
    }

    /// McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 4 and 16.
    #[test]
    fn gcm_of_its_specification() {
        let plain = "D9313225F88406E5A55909C5AFF5269A86A7A9531534F7DA2E4C303D8A318A721C3C0C95956809532FCF0E2449A6B525B16AEDF5AA0DE657BA637B39";
        let associated = bytes("FEEDFACEDEADBEEFFEEDFACEDEADBEEFABADDAD2");
        let nonce = bytes("CAFEBABEFACEDBADDECAF888").try_into().unwrap();
        for (algorithm, key, sealed) in [
            (
                SecretAlgorithm::Aes128Gcm,
                "FEFFE9928665731C6D6A8F9467308308",
                "42831EC2217774244B7221B784D0D49CE3AA212F2C02A4E035C17E2329ACA12E21D514B25466931C7D8F6A5AAC84AA051BA30B396A0AAC973D58E0915BC94FBC3221A5DB94FAE95AE7121A47",
            ),
            (
                SecretAlgorithm::Aes256Gcm,
                "FEFFE9928665731C6D6A8F9467308308FEFFE9928665731C6D6A8F9467308308",
                "522DC1F099567D07F47F37A32A84427D643A8CDCBFE5C0C97598A2BD2555D1AA8CB08E48590DBB3DA7B08B1056828838C5F61E6393BA7A0ABCC9F66276FC6ECE0F4E1768CDDF8853BB2D551B",
            ),
        ] {
            let key = imported(algorithm, key).key;
            let out = key.seal(&nonce, &associated, &bytes(plain)).unwrap();
            assert_eq!(hex::encode(&out), sealed);
            assert_eq!(
                *key.unseal(&nonce, &associated, &out).unwrap(),
                bytes(plain)
            );
            for at in [0, out.len() - 1] {
                let mut changed = out.clone();
                changed[at] ^= 0x80;
                let refused = key.unseal(&nonce, &associated, &changed);
                assert_eq!(refused, Err(KeyError::Mismatch));
            }
            assert_eq!(key.unseal(&nonce, b"", &out), Err(KeyError::Mismatch));
            assert_eq!(key.unseal(&nonce, b"", &[]), Err(KeyError::Mismatch));
            assert_eq!(key.mac(b""), Err(KeyError::Unsupported));
        }
    }

    #[test]
    fn blobs_of_others_do_not_open() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\x02\x00short",
            b"\x02\x01\x000123456789ABCDEF",
        ] {
            assert!(matches!(
                SoftwareKeyStore.open_secret(bad),
                Err(KeyError::Input)
            ));
        }
        let made = SoftwareKeyStore
            .generate_secret(SecretAlgorithm::Aes128Gcm, Export::Never)
            .unwrap();
        assert_eq!(format!("{:?}", made.key), "Secret(Aes128Gcm)");
    }
}
