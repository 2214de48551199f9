//! Keys in an HSM; `GOSE_TEST_PKCS11` names module and token: `pkcs11:token=…?module-path=…&pin-value=…`.

#![allow(
    clippy::unwrap_used,
    reason = "tests; clippy knows only functions marked so"
)]

#[path = "support/contract.rs"]
mod card;
#[path = "support/secrets.rs"]
mod secrets;
mod support;

use std::sync::Arc;

use gose_backend::pkcs11::{HsmError, Pkcs11KeyStore, Settings};
use gose_card::{
    Hosted, Memory, factory, keyring,
    keystore::{Algorithm, Export, KeyError, KeyStore, Scheme, SecretAlgorithm, SoftwareKeyStore},
    nvm::Nvm,
};
use gose_element::{
    SecureElement,
    drive::piv::{Piv, Slot},
};
use gose_proto::{hex, pkcs11::Uri};
use gose_testkit::contract::{self, Keys, Removal, Second, Terms};
use zeroize::Zeroizing;

fn settings() -> Settings {
    let uri: Uri = support::daemon("GOSE_TEST_PKCS11").parse().unwrap();
    let module = uri.module_path.clone().unwrap().into();
    let pin = uri.pin_value.clone();
    Settings::new(module, uri, pin)
}

/// One test: a module is initialised once in a process, and the token is taken away.
#[test]
fn an_hsm_holds_keys() {
    let store = Pkcs11KeyStore::new(settings());
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048] {
        support::keystore(&store, algorithm);
    }
    from_outside(&store);
    secrets::secrets(&store, &SecretAlgorithm::ALL);
    wrapped_keys(&store);
    let stored = store.generate(Algorithm::P256).unwrap();
    let key = stored.key.as_ref();
    // The long form has more than 65,536 in one session.
    let count = if support::long() { 70_000 } else { 2_000 };
    support::many("HSM, P-256", key, Scheme::EcdsaP256Sha256, count);
    support::many(
        "HSM, RSA-2048",
        store.generate(Algorithm::Rsa2048).unwrap().key.as_ref(),
        Scheme::RsaPkcs1Sha256,
        100,
    );
    support::leave_signature(key);
    many_threads(key);
    keeps_the_contract(&store);
    what_was_there_stays(&store);
    token_taken_away(key);
    wrong_names();
}

fn keeps_the_contract(store: &Pkcs11KeyStore) {
    let mut element = card::card(Arc::new(store.clone()));
    let terms = Terms {
        name: "keys in SoftHSM",
        keys: Keys::Made(&[Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048]),
        operations: contract::operations(support::long()),
        removal: Removal::None("in one process; taken away in a node"),
        second: Second::None("in one process it has one owner"),
    };
    println!("{}", contract::run(&mut element, terms));
}

/// A key that the token had before any card is the token's: whatever a card does with the slot that took it up, the key
/// stays. The script looks again, with pkcs11-tool.
fn what_was_there_stays(store: &Pkcs11KeyStore) {
    const KEY: [u8; 32] = [0x42; 32];
    let id = hex::decode(support::daemon("GOSE_TEST_ADOPT")).unwrap();
    let had = store.adopt(&id).unwrap();
    let still_there = |when: &str| {
        let key = store.open(&had.blob).unwrap();
        key.sign(Scheme::EcdsaP256Sha256, b"m").expect(when);
        assert_eq!(store.adopt(&id).unwrap().blob, had.blob, "{when}");
    };
    let nvm = Nvm::replay([
        factory::birth([9; 16]),
        keyring::filled(0x9A, &had.blob),
        keyring::filled(0x9C, &had.blob),
    ]);
    let card = factory::new_card(nvm, Arc::new(store.clone()));
    let mut card = Hosted::new(card, Memory::default());
    card.power_on().unwrap();
    Piv::open(&mut card).set_management_key(&KEY).unwrap();
    let generate = |card: &mut Hosted<Memory>| {
        let mut piv = Piv::open(card);
        piv.authenticate_management(&KEY).unwrap();
        piv.generate(Slot::AUTHENTICATION, Algorithm::P256)
    };
    card.host_mut().fail = true;
    assert!(generate(&mut card).is_err());
    still_there("the disk was full");
    card.host_mut().fail = false;
    generate(&mut card).unwrap();
    still_there("GENERATE in its place");
    generate(&mut card).unwrap();
    still_there("GENERATE in the place of that one");
    let mut piv = Piv::open(&mut card);
    piv.authenticate_management(&KEY).unwrap();
    // IMPORT of P-256's number 1.
    let import = "00FE119C2206200000000000000000000000000000000000000000000000000000000000000001";
    let answer = card.transmit(&hex::decode(import).unwrap()).unwrap();
    assert_eq!(answer.sw.value(), 0x9000);
    still_there("IMPORT in its place");
    card.reset(false).unwrap();
    generate(&mut card).unwrap();
    card.power_off();
    drop(card);
    still_there("reset, and the end of the card");
}

/// Keys that were born elsewhere.
fn from_outside(store: &Pkcs11KeyStore) {
    assert_eq!(
        store.import(b"no key at all").map(drop).unwrap_err(),
        KeyError::Input
    );
    for algorithm in [Algorithm::P256, Algorithm::P384, Algorithm::Rsa2048] {
        let outside = SoftwareKeyStore.generate(algorithm).unwrap();
        let stored = store.import(&outside.blob).unwrap();
        support::any_key(&stored.key);
        support::any_key(&store.open(&stored.blob).unwrap());
    }
}

/// Keys leave wrapped where they may, and come back; AWS-LC unwraps them too.
fn wrapped_keys(store: &Pkcs11KeyStore) {
    use SecretAlgorithm::{Aes256Gcm, Aes256Kw, HmacSha256};
    let outside = [0x5A; 32];
    let kek = store
        .import_secret(Aes256Kw, Export::Never, &outside)
        .unwrap();
    let judge = SoftwareKeyStore
        .import_secret(Aes256Kw, Export::Never, &outside)
        .unwrap();
    for algorithm in [Aes256Gcm, HmacSha256] {
        let stays = store.generate_secret(algorithm, Export::Never).unwrap();
        assert_eq!(
            store.wrap_secret(&kek.blob, &stays.blob),
            Err(KeyError::Unsupported)
        );
        let leaves = store.generate_secret(algorithm, Export::Wrapped).unwrap();
        let mut wrapped = store.wrap_secret(&kek.blob, &leaves.blob).unwrap();
        let [here, there] = [store as &dyn KeyStore, &SoftwareKeyStore].map(|store| {
            let kek = if store.open_secret(&kek.blob).is_ok() {
                &kek
            } else {
                &judge
            };
            let taken = store.unwrap_secret(&kek.blob, &wrapped, algorithm, Export::Never);
            taken.unwrap().key
        });
        if algorithm == HmacSha256 {
            assert_eq!(here.mac(b"m").unwrap(), there.mac(b"m").unwrap());
        } else {
            let sealed = here.seal(&[1; 12], b"", b"plaintext").unwrap();
            assert_eq!(*there.unseal(&[1; 12], b"", &sealed).unwrap(), b"plaintext");
        }
        wrapped[3] ^= 1;
        assert_eq!(
            store
                .unwrap_secret(&kek.blob, &wrapped, algorithm, Export::Never)
                .err(),
            Some(KeyError::Mismatch)
        );
    }
}

fn many_threads(key: &dyn gose_card::keystore::PrivateKey) {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
                }
            });
        }
    });
}

/// The token's folder is moved away and back: an error in between, then everything is as before.
fn token_taken_away(key: &dyn gose_card::keystore::PrivateKey) {
    let folder = std::path::PathBuf::from(support::daemon("GOSE_TEST_TOKENS"));
    let away = folder.with_extension("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let gone = key.sign(Scheme::EcdsaP256Sha256, b"m");
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    let KeyError::Store(text) = gone.unwrap_err() else {
        panic!("no such error")
    };
    println!("token away: {text}");
    key.sign(Scheme::EcdsaP256Sha256, b"m").unwrap();
}

fn wrong_names() {
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        change(&mut settings);
        let store = Pkcs11KeyStore::new(settings);
        (store.adopt(b"no such key").map(drop).unwrap_err(), store)
    };
    let check = |change: &dyn Fn(&mut Settings), error: HsmError| {
        assert_eq!(with(change).0, KeyError::from(error));
    };
    check(&|_| {}, HsmError::NoKey);
    check(
        &|settings| settings.token.token = Some("another".into()),
        HsmError::NoToken,
    );
    let (error, _) = with(&|settings| settings.module = "/lib/x86_64-linux-gnu/libm.so.6".into());
    assert!(error.to_string().contains("PKCS#11 module"), "{error}");
}

/// In a process of its own, since a login holds for all of a process's sessions.
#[test]
fn a_wrong_pin_is_shown_once() {
    if std::env::var_os("GOSE_TEST_WRONG_PIN").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["a_wrong_pin_is_shown_once", "--exact"])
            .env("GOSE_TEST_WRONG_PIN", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let pin = Some(Zeroizing::new("not the pin".to_owned()));
    let store = Pkcs11KeyStore::new(Settings { pin, ..settings() });
    for _ in 0..20 {
        assert_eq!(
            store.adopt(b"x").map(drop).unwrap_err(),
            HsmError::PinRefused.into()
        );
    }
}
