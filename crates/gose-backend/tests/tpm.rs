//! Keys in a TPM; `GOSE_TEST_SWTPM` names swtpm's command socket.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

#[path = "support/contract.rs"]
mod card;
mod support;

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use gose_backend::tpm::{Address, Settings, TpmError, TpmKeyStore};
use gose_card::keystore::{Algorithm, KeyError, KeyStore, Scheme};
use gose_testkit::contract::{self, Terms};
use zeroize::Zeroizing;

fn settings() -> Settings {
    Settings::new(Address::Swtpm(support::daemon("GOSE_TEST_SWTPM")))
}

/// One test: swtpm serves one connection at a time.
#[test]
fn a_tpm_holds_keys() {
    let store = TpmKeyStore::new(settings());
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048] {
        support::keystore(&store, algorithm);
    }
    assert_eq!(
        store.import(b"a key from outside").map(drop).unwrap_err(),
        KeyError::Unsupported
    );
    more_keys_than_places(&store);
    sealed_data(&store);
    certified(&store);
    for (what, algorithm, scheme, count) in [
        ("TPM, P-256", Algorithm::P256, Scheme::EcdsaP256Sha256, 2000),
        (
            "TPM, RSA-2048",
            Algorithm::Rsa2048,
            Scheme::RsaPkcs1Sha256,
            200,
        ),
    ] {
        support::many(
            what,
            store.generate(algorithm).unwrap().key.as_ref(),
            scheme,
            count,
        );
    }
    keeps_the_contract(&store);
    drop(store);
    authorisation();
}

fn keeps_the_contract(store: &TpmKeyStore) {
    let mut element = card::card(Arc::new(store.clone()));
    let terms = Terms {
        name: "keys in swtpm",
        algorithms: &[Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048],
        operations: 10_000,
        removal: None,
    };
    println!("{}", contract::run(&mut element, terms));
}

/// A TPM has three places; ten keys take turns, by their contexts.
fn more_keys_than_places(store: &TpmKeyStore) {
    let keys: Vec<_> = (0..10)
        .map(|_| store.generate(Algorithm::P256).unwrap().key)
        .collect();
    for _ in 0..3 {
        for key in &keys {
            key.sign(Scheme::EcdsaP256Sha256, b"in turn").unwrap();
        }
    }
}

fn sealed_data(store: &TpmKeyStore) {
    let sealed = store.seal(b"the key of an image").unwrap();
    assert_eq!(*store.unseal(&sealed).unwrap(), b"the key of an image");
    let mut torn = sealed;
    torn[20] ^= 1;
    assert!(matches!(store.unseal(&torn), Err(TpmError::Refused(_))));
    assert_eq!(
        store.unseal(b"nothing of ours").unwrap_err(),
        TpmError::Malformed
    );
}

fn certified(store: &TpmKeyStore) {
    let stored = store.generate(Algorithm::P384).unwrap();
    let certified = store.certify(&stored.blob, b"a nonce").unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &certified.attestation_key)
        .verify(&certified.statement, &certified.signature)
        .unwrap();
    support::leave("certified", &certified.statement);
    support::leave("certified.signature", &certified.signature);
    support::leave("attestation.pem", &certified.attestation_key);
    support::leave_signature(store.generate(Algorithm::P256).unwrap().key.as_ref());
    // TPM_GENERATED_VALUE, TPM_ST_ATTEST_CERTIFY, and the nonce.
    assert_eq!(
        certified.statement[..6],
        [0xFF, 0x54, 0x43, 0x47, 0x80, 0x17]
    );
    assert!(
        certified
            .statement
            .windows(7)
            .any(|window| window == b"a nonce")
    );
}

/// Keys with an authorisation value: a wrong one is refused, and the TPM counts it.
fn authorisation() {
    let with = |auth: &[u8]| {
        TpmKeyStore::new(Settings {
            auth: Zeroizing::new(auth.to_vec()),
            ..settings()
        })
    };
    let blob = with(b"right").generate(Algorithm::P256).unwrap().blob;
    let sign = |auth: &[u8]| {
        with(auth)
            .open(&blob)
            .unwrap()
            .sign(Scheme::EcdsaP256Sha256, b"m")
    };
    sign(b"right").unwrap();
    let mut refusals = Vec::new();
    for _ in 0..40 {
        let KeyError::Store(text) = sign(b"wrong").unwrap_err() else {
            panic!("no such error")
        };
        refusals.push(text);
        if refusals.last().is_some_and(|text| text.contains("locked")) {
            break;
        }
    }
    assert!(
        refusals[0].contains("wrong authorisation value"),
        "{refusals:?}"
    );
    assert!(refusals.last().unwrap().contains("locked"), "{refusals:?}");
    let KeyError::Store(text) = sign(b"right").unwrap_err() else {
        panic!("no such error")
    };
    assert!(text.contains("locked"), "{text}");
}
