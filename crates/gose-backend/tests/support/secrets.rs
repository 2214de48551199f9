//! What every store of secret keys must do. Judge: AWS-LC with the same key gives the same bytes.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

use std::sync::Arc;

use gose_card::keystore::{
    Export, KeyError, KeyStore, SecretAlgorithm, SecretKey, SoftwareKeyStore,
};

const NONCE: [u8; 12] = [7; 12];

/// The suite for the algorithms that a store has.
pub(crate) fn secrets(store: &dyn KeyStore, algorithms: &[SecretAlgorithm]) {
    for algorithm in SecretAlgorithm::ALL {
        let made = store.generate_secret(algorithm, Export::Never);
        if !algorithms.contains(&algorithm) {
            assert_eq!(made.err(), Some(KeyError::Unsupported), "{algorithm:?}");
            continue;
        }
        let made = made.unwrap();
        let again = store.open_secret(&made.blob).unwrap();
        assert_eq!(again.algorithm(), algorithm);
        two_handles(&made.key, &again);
        store.destroy_secret(&made.blob);
        let bytes: Vec<u8> = (0_u8..).take(algorithm.key_len()).collect();
        let import = |store: &dyn KeyStore| {
            let taken = store.import_secret(algorithm, Export::Never, &bytes);
            taken.unwrap().key
        };
        same_bytes(&import(store), &import(&SoftwareKeyStore));
        let short = store.import_secret(algorithm, Export::Never, &bytes[1..]);
        assert_eq!(short.err(), Some(KeyError::Input));
    }
    assert_eq!(
        store.open_secret(b"not a blob of any store").err(),
        Some(KeyError::Input)
    );
}

fn two_handles(first: &Arc<dyn SecretKey>, second: &Arc<dyn SecretKey>) {
    let algorithm = first.algorithm();
    if algorithm.encrypts() {
        let sealed = first.seal(&NONCE, b"associated", b"a plaintext").unwrap();
        assert_eq!(
            *second.unseal(&NONCE, b"associated", &sealed).unwrap(),
            b"a plaintext"
        );
    } else {
        assert_eq!(
            first.seal(&NONCE, b"", b"").err(),
            Some(KeyError::Unsupported)
        );
    }
    if algorithm == SecretAlgorithm::HmacSha256 {
        assert_eq!(first.mac(b"m").unwrap(), second.mac(b"m").unwrap());
    } else {
        assert_eq!(first.mac(b"m").err(), Some(KeyError::Unsupported));
    }
}

fn same_bytes(key: &Arc<dyn SecretKey>, judge: &Arc<dyn SecretKey>) {
    let long: Vec<u8> = (0..=255_u8).cycle().take(5000).collect();
    for len in [0, 1, 15, 16, 17, 64, 1023, 1024, 1025, 3000, 5000] {
        let data = &long[..len];
        if key.algorithm() == SecretAlgorithm::HmacSha256 {
            assert_eq!(key.mac(data).unwrap(), judge.mac(data).unwrap(), "{len}");
        }
        if !key.algorithm().encrypts() {
            continue;
        }
        for associated in [&b""[..], b"associated", &long[..33]] {
            let sealed = key.seal(&NONCE, associated, data).unwrap();
            assert_eq!(
                sealed,
                judge.seal(&NONCE, associated, data).unwrap(),
                "{len}"
            );
            assert_eq!(*key.unseal(&NONCE, associated, &sealed).unwrap(), data);
            let refused = |nonce: &[u8; 12], associated: &[u8], sealed: &[u8]| {
                assert_eq!(
                    key.unseal(nonce, associated, sealed).err(),
                    Some(KeyError::Mismatch),
                    "{len}"
                );
            };
            let mut changed = sealed.clone();
            changed[len / 2] ^= 1;
            refused(&NONCE, associated, &changed);
            refused(&NONCE, b"other", &sealed);
            refused(&[8; 12], associated, &sealed);
            refused(&NONCE, associated, &sealed[..15]);
        }
    }
}
