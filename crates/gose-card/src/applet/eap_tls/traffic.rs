//! Which application traffic secret of TLS 1.3 is in use (RFC 8446, 7.2, 7.3).

use aws_lc_rs::hkdf::{self, KeyType};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroizing;

/// Key updates looked through: more records than a card ever opens lie between them.
const MAX_UPDATES: usize = 64;

/// `secret_0` or the later secret from which the keys in use were made: each KeyUpdate made a new one.
pub(super) fn current(
    secret_0: &[u8],
    in_use: &ConnectionTrafficSecrets,
) -> Option<Zeroizing<Vec<u8>>> {
    let wanted = match in_use {
        ConnectionTrafficSecrets::Aes128Gcm { key, .. }
        | ConnectionTrafficSecrets::Aes256Gcm { key, .. }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, .. } => key.as_ref(),
        _ => return None,
    };
    let algorithm = match secret_0.len() {
        32 => hkdf::HKDF_SHA256,
        48 => hkdf::HKDF_SHA384,
        _ => return None,
    };
    let mut secret = Zeroizing::new(secret_0.to_vec());
    for _ in 0..=MAX_UPDATES {
        if expand_label(algorithm, &secret, b"key", wanted.len())?.as_slice() == wanted {
            return Some(secret);
        }
        secret = expand_label(algorithm, &secret, b"traffic upd", secret.len())?;
    }
    None
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand_label(
    algorithm: hkdf::Algorithm,
    secret: &[u8],
    label: &[u8],
    length: usize,
) -> Option<Zeroizing<Vec<u8>>> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let length_field = u16::try_from(length).ok()?.to_be_bytes();
    let label_length = [u8::try_from(6 + label.len()).ok()?];
    let info = [&length_field[..], &label_length, b"tls13 ", label, &[0]];
    let mut out = Zeroizing::new(vec![0; length]);
    let prk = hkdf::Prk::new_less_safe(algorithm, secret);
    prk.expand(&info, Length(length))
        .ok()?
        .fill(&mut out)
        .ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn key_of(secret: &[u8]) -> ConnectionTrafficSecrets {
        let key = expand_label(hkdf::HKDF_SHA384, secret, b"key", 32).unwrap();
        ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from(<[u8; 32]>::try_from(key.as_slice()).unwrap()),
            iv: Iv::from([0; 12]),
        }
    }

    #[test]
    fn the_secret_in_use_is_found_after_key_updates() {
        let mut secret = Zeroizing::new(vec![7; 48]);
        let first = secret.clone();
        for _ in 0..3 {
            assert_eq!(current(&first, &key_of(&secret)), Some(secret.clone()));
            secret = expand_label(hkdf::HKDF_SHA384, &secret, b"traffic upd", 48).unwrap();
        }
        assert_eq!(current(&first, &key_of(&[8; 48])), None);
        assert_eq!(current(&[], &key_of(&secret)), None);
    }
}
