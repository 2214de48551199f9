//! What every key store must do, whatever holds its keys. Judge: AWS-LC verifies.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

use std::{sync::Arc, time::Instant};

use aws_lc_rs::{
    agreement, rand,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
        RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use gose_card::keystore::{Algorithm, KeyError, KeyStore, PrivateKey, Scheme};

/// The address of a daemon that the stage has started.
pub(crate) fn daemon(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run this test by `cargo xtask interop`"))
}

/// Whether the long form was asked for: `GOSE_TEST_LONG`.
pub(crate) fn long() -> bool {
    std::env::var_os("GOSE_TEST_LONG").is_some()
}

fn verify(
    key: &dyn PrivateKey,
    judge: &'static dyn VerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) {
    UnparsedPublicKey::new(judge, key.public_key_info())
        .verify(message, signature)
        .unwrap();
}

/// The suite for one algorithm.
pub(crate) fn keystore(store: &dyn KeyStore, algorithm: Algorithm) {
    let stored = store.generate(algorithm).unwrap();
    assert_eq!(stored.key.algorithm(), algorithm);
    let again = store.open(&stored.blob).unwrap();
    assert_eq!(again.public_key_info(), stored.key.public_key_info());
    for key in [&stored.key, &again] {
        any_key(key);
    }
    assert_eq!(
        store.open(b"not a blob of any store").unwrap_err(),
        KeyError::Input
    );
}

/// What every key must do.
pub(crate) fn any_key(key: &Arc<dyn PrivateKey>) {
    if key.algorithm().is_rsa() {
        rsa(key)
    } else {
        elliptic(key)
    }
}

fn rsa(key: &Arc<dyn PrivateKey>) {
    for (scheme, judge) in [
        (Scheme::RsaPkcs1Sha256, &RSA_PKCS1_2048_8192_SHA256),
        (Scheme::RsaPssSha256, &RSA_PSS_2048_8192_SHA256),
    ] {
        let signature = key.sign(scheme, b"a message").unwrap();
        verify(key.as_ref(), judge, b"a message", &signature);
    }
    assert_eq!(
        key.sign(Scheme::EcdsaP256Sha256, b"").unwrap_err(),
        KeyError::Unsupported
    );
    let len = if key.algorithm() == Algorithm::Rsa3072 {
        384
    } else {
        256
    };
    let mut block = vec![0; len];
    block[len - 1] = 1;
    assert_eq!(*key.rsa_raw(&block).unwrap(), block, "1 to any power");
    assert_eq!(key.rsa_raw(&block[1..]).unwrap_err(), KeyError::Input);
    assert_eq!(
        key.rsa_raw(&vec![0xFF; len]).unwrap_err(),
        KeyError::Input,
        "not below the modulus"
    );
    assert_eq!(
        key.sign_digest(&[1; 32]).unwrap_err(),
        KeyError::Unsupported
    );
    assert_eq!(key.agree(&[4; 65]).unwrap_err(), KeyError::Unsupported);
}

fn elliptic(key: &Arc<dyn PrivateKey>) {
    let (scheme, other, curve, judge, hash): (_, _, _, &'static dyn VerificationAlgorithm, _) =
        match key.algorithm() {
            Algorithm::P384 => (
                Scheme::EcdsaP384Sha384,
                Scheme::EcdsaP256Sha256,
                &agreement::ECDH_P384,
                &ECDSA_P384_SHA384_ASN1,
                &aws_lc_rs::digest::SHA384,
            ),
            _ => (
                Scheme::EcdsaP256Sha256,
                Scheme::EcdsaP384Sha384,
                &agreement::ECDH_P256,
                &ECDSA_P256_SHA256_ASN1,
                &aws_lc_rs::digest::SHA256,
            ),
        };
    for message in [&b"a message"[..], b"", &[7; 3000]] {
        verify(
            key.as_ref(),
            judge,
            message,
            &key.sign(scheme, message).unwrap(),
        );
        let digest = aws_lc_rs::digest::digest(hash, message);
        verify(
            key.as_ref(),
            judge,
            message,
            &key.sign_digest(digest.as_ref()).unwrap(),
        );
    }
    assert_eq!(key.sign(other, b"").unwrap_err(), KeyError::Unsupported);
    assert_eq!(key.sign_digest(&[1; 65]).unwrap_err(), KeyError::Input);
    assert!(
        key.sign_digest(&[1; 20]).is_ok(),
        "a shorter digest is a number like any other"
    );
    assert_eq!(key.rsa_raw(&[0; 256]).unwrap_err(), KeyError::Unsupported);
    ecdh(key, curve);
}

fn ecdh(key: &Arc<dyn PrivateKey>, curve: &'static agreement::Algorithm) {
    let mine = agreement::EphemeralPrivateKey::generate(curve, &rand::SystemRandom::new()).unwrap();
    let point = mine.compute_public_key().unwrap();
    let theirs = key.agree(point.as_ref()).unwrap();
    let len = point.as_ref().len();
    let info = key.public_key_info();
    let peer = agreement::UnparsedPublicKey::new(curve, &info[info.len() - len..]);
    agreement::agree_ephemeral(mine, peer, (), |shared| {
        assert_eq!(shared, theirs.as_slice());
        Ok(())
    })
    .unwrap();
    let mut off_curve = point.as_ref().to_vec();
    off_curve[len - 1] ^= 1;
    assert_eq!(key.agree(&off_curve).unwrap_err(), KeyError::Input);
    assert_eq!(
        key.agree(&point.as_ref()[1..]).unwrap_err(),
        KeyError::Input
    );
}

/// `count` signatures, all verified every thousandth; prints the rate.
pub(crate) fn many(what: &str, key: &dyn PrivateKey, scheme: Scheme, count: u32) {
    let start = Instant::now();
    for number in 0..count {
        let signature = key.sign(scheme, &number.to_be_bytes()).unwrap();
        if number % 1000 == 0 && scheme == Scheme::EcdsaP256Sha256 {
            verify(
                key,
                &ECDSA_P256_SHA256_ASN1,
                &number.to_be_bytes(),
                &signature,
            );
        }
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    println!("{what}: {count} signatures, {rate:.0} a second");
}

/// Leaves files for other judges in the folder of `GOSE_TEST_OUTPUT`: bytes as they are, public keys as PEM.
pub(crate) fn leave(name: &str, bytes: &[u8]) {
    let folder = std::path::PathBuf::from(daemon("GOSE_TEST_OUTPUT"));
    if name.ends_with(".pem") {
        std::fs::write(
            folder.join(name),
            gose_testkit::pki::pem("PUBLIC KEY", bytes),
        )
        .unwrap();
    } else {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

/// Leaves a message, its signature by a key on P-256, and the key.
pub(crate) fn leave_signature(key: &dyn PrivateKey) {
    leave("message", b"a message for others to judge");
    let signature = key
        .sign(Scheme::EcdsaP256Sha256, b"a message for others to judge")
        .unwrap();
    leave("signature", &signature);
    leave("key.pem", key.public_key_info());
}
